/* A pool that divides one layer at a time: workers spin for a moment, then sleep.
 *
 * A layer of a small student takes 100 us, and waking a sleeping thread 10 to 50: between layers
 * workers therefore look a little while for the next one, and sleep between images.
 */
#include "qdr/threads.h"

#include <string.h>

enum { SPINS = 4000 };

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Wait until there is another round than `seen`; returns it. */
static unsigned next_round(qdr_pool *pool, unsigned seen) {
    for (int spin = 0; spin < SPINS; spin++) {
        unsigned round = atomic_load_explicit(&pool->round, memory_order_acquire);
        if (round != seen) {
            return round;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->round) == seen) {
        pthread_cond_wait(&pool->begin, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return atomic_load(&pool->round);
}

static void *work(void *given) {
    qdr_pool *pool = given;
    uint32_t number = atomic_fetch_add(&pool->next_number, 1) + 1;
    unsigned round = 0;
    for (;;) {
        round = next_round(pool, round);
        if (pool->stop) {
            return NULL;
        }
        pool->task(pool->argument, number);
        if (atomic_fetch_sub(&pool->left, 1) == 1) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->end);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void announce(qdr_pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->round, 1, memory_order_release);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
}

static void run(void *context, void (*task)(void *argument, uint32_t part), void *argument,
                uint32_t parts) {
    qdr_pool *pool = context;
    pool->task = task;
    pool->argument = argument;
    atomic_store(&pool->left, parts - 1);
    announce(pool);
    task(argument, 0);
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->left, memory_order_acquire) == 0) {
            return;
        }
        pause_briefly();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->left) != 0) {
        pthread_cond_wait(&pool->end, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
}

size_t qdr_pool_bytes(void) { return sizeof(qdr_pool); }

qdr_status qdr_pool_start(qdr_pool *pool, uint32_t threads) {
    if (pool == NULL || threads == 0 || threads > QDR_MAX_THREADS) {
        return QDR_BAD_ARGUMENT;
    }
    memset(pool, 0, sizeof *pool);
    pool->parallel = (qdr_parallel){run, pool, 1};
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) {
        return QDR_UNSUPPORTED;
    }
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    for (uint32_t number = 1; number < threads; number++) {
        if (pthread_create(&pool->workers[number], NULL, work, pool) != 0) {
            qdr_pool_stop(pool);
            return QDR_UNSUPPORTED;
        }
        pool->parallel.threads = number + 1;
    }
    return QDR_OK;
}

void qdr_pool_stop(qdr_pool *pool) {
    if (pool == NULL || pool->parallel.threads == 0) {
        return;
    }
    pool->stop = true;
    announce(pool);
    for (uint32_t number = 1; number < pool->parallel.threads; number++) {
        pthread_join(pool->workers[number], NULL);
    }
    pthread_cond_destroy(&pool->begin);
    pthread_cond_destroy(&pool->end);
    pthread_mutex_destroy(&pool->mutex);
    memset(pool, 0, sizeof *pool);
}
