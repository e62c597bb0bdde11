/* Threads for qdr_plan_infer, where the operating system has them (POSIX).
 *
 * An application with a thread pool of its own fills a qdr_parallel itself and leaves this out.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_THREADS_H
#define QDR_THREADS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "qdr/plan.h"

#ifdef __cplusplus
#error "include this from C; C++ has std::thread to fill a qdr_parallel with"
#endif

/* Workers that wait for parts of one layer after another. The fields are the pool's own. */
typedef struct qdr_pool {
    qdr_parallel parallel; /* what qdr_run_options take */
    pthread_t workers[QDR_MAX_THREADS];
    pthread_mutex_t mutex;
    pthread_cond_t begin, end;
    atomic_uint round, left, next_number;
    bool stop;
    void (*task)(void *argument, uint32_t part);
    void *argument;
} qdr_pool;

/* The size of a qdr_pool, for callers in other languages: it begins with its qdr_parallel. */
size_t qdr_pool_bytes(void);

/* Start `threads` - 1 workers; the caller of an inference is the last. The pool must not move.
 *
 * QDR_BAD_ARGUMENT: not 1..QDR_MAX_THREADS. QDR_UNSUPPORTED: the system starts no more threads. */
qdr_status qdr_pool_start(qdr_pool *pool, uint32_t threads);

/* End the workers and wait for them. */
void qdr_pool_stop(qdr_pool *pool);

#endif
