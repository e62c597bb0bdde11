/* A plan on every instruction set of this machine: the recorded logits, and nothing from a bad one.
 *
 *   test_plan FOLDER     which holds tiny.plan, tiny.pixels and tiny.logits (make_data.py)
 */
#define _POSIX_C_SOURCE 200112L

#include <string.h>

#include "arena.h"
#include "check.h"
#include "qdr/plan.h"
#ifdef QDR_TEST_THREADS
#include "qdr/threads.h"
#endif

enum { IMAGES = 3, RECORD_WORDS_BEGIN = 2 };

typedef struct sample {
    unsigned char *plan, *pixels, *logits;
    size_t plan_bytes, pixel_bytes, logit_bytes;
} sample;

static sample load(const char *folder) {
    sample found;
    char path[1024];
    snprintf(path, sizeof path, "%s/tiny.plan", folder);
    found.plan = read_file(path, &found.plan_bytes);
    snprintf(path, sizeof path, "%s/tiny.pixels", folder);
    found.pixels = read_file(path, &found.pixel_bytes);
    snprintf(path, sizeof path, "%s/tiny.logits", folder);
    found.logits = read_file(path, &found.logit_bytes);
    return found;
}

static void *arena_of(const qdr_plan *plan, uint32_t threads, size_t *bytes) {
    *bytes = qdr_plan_arena_bytes(plan, threads);
    return take_arena(*bytes);
}

static void infer_all(const sample *given, const qdr_run_options *how) {
    qdr_plan plan;
    CHECK(qdr_plan_open(&plan, given->plan, given->plan_bytes) == QDR_OK);
    size_t image = (size_t)3 * plan.side * plan.side, bytes;
    CHECK(given->pixel_bytes == IMAGES * image);
    CHECK(given->logit_bytes == IMAGES * plan.classes * sizeof(float));
    uint32_t threads = how->parallel == NULL ? 1 : how->parallel->threads;
    void *arena = arena_of(&plan, threads, &bytes);
    float *logits = malloc(plan.classes * sizeof *logits);
    CHECK(logits != NULL);
    for (size_t n = 0; n < IMAGES; n++) {
        CHECK(qdr_plan_infer(&plan, given->pixels + n * image, arena, bytes, how, logits) == QDR_OK);
        size_t row = plan.classes * sizeof(float);
        CHECK(memcmp(logits, given->logits + n * row, row) == 0);
    }
    CHECK(qdr_plan_infer(&plan, given->pixels, arena, bytes - 1, how, logits) == QDR_NO_SPACE);
    CHECK(qdr_plan_infer(&plan, given->pixels, (char *)arena + 1, bytes, how, logits) ==
          QDR_NO_SPACE);
    CHECK(qdr_plan_infer(&plan, NULL, arena, bytes, how, logits) == QDR_BAD_ARGUMENT);
    free(logits);
    free_arena(arena, bytes);
}

static unsigned every_isa(const sample *given) {
    static const qdr_isa all[] = {QDR_ISA_BEST, QDR_ISA_PLAIN, QDR_ISA_AVX2, QDR_ISA_VNNI,
                                  QDR_ISA_NEON, QDR_ISA_AVX_VNNI, QDR_ISA_I8MM};
    unsigned ran = 0;
    for (size_t index = 0; index < sizeof all / sizeof *all; index++) {
        qdr_run_options how = {.isa = all[index]};
        qdr_plan plan;
        size_t bytes;
        CHECK(qdr_plan_open(&plan, given->plan, given->plan_bytes) == QDR_OK);
        void *arena = arena_of(&plan, 1, &bytes);
        float *logits = malloc(plan.classes * sizeof *logits);
        CHECK(logits != NULL);
        qdr_status status = qdr_plan_infer(&plan, given->pixels, arena, bytes, &how, logits);
        CHECK(status == QDR_OK || status == QDR_UNSUPPORTED);
        free(logits);
        free_arena(arena, bytes);
        if (status == QDR_OK) {
            infer_all(given, &how);
            printf("%s: equal\n", qdr_isa_name(all[index]));
            ran++;
        }
    }
    return ran;
}

#ifdef QDR_TEST_THREADS
static void with_threads(const sample *given) {
    for (uint32_t threads = 1; threads <= 5; threads++) {
        qdr_pool pool;
        CHECK(qdr_pool_start(&pool, threads) == QDR_OK);
        qdr_run_options how = {.parallel = &pool.parallel};
        for (int round = 0; round < 20; round++) {
            infer_all(given, &how);
        }
        qdr_pool_stop(&pool);
    }
    qdr_pool pool;
    CHECK(qdr_pool_start(&pool, 0) == QDR_BAD_ARGUMENT);
    CHECK(qdr_pool_start(&pool, QDR_MAX_THREADS + 1) == QDR_BAD_ARGUMENT);
}
#endif

/* A changed plan is refused, or runs within its memory: a sanitizer watches in the tests of it. */
static void hostile(const sample *given, uint32_t records) {
    static const uint32_t tried[] = {0, 1, 2, 127, 255, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
    unsigned refused = 0, harmless = 0;
    for (uint32_t word = RECORD_WORDS_BEGIN; word < records; word++) {
        for (size_t index = 0; index < sizeof tried / sizeof *tried; index++) {
            unsigned char *changed = malloc(given->plan_bytes);
            qdr_plan plan;
            CHECK(changed != NULL);
            memcpy(changed, given->plan, given->plan_bytes);
            memcpy(changed + 4 * (size_t)word, &tried[index], 4);
            if (qdr_plan_open(&plan, changed, given->plan_bytes) != QDR_OK) {
                refused++;
            } else if (3 * (size_t)plan.side * plan.side <= given->pixel_bytes &&
                       plan.activation_bytes < 1u << 24) {
                size_t bytes;
                void *arena = arena_of(&plan, 1, &bytes);
                float *logits = malloc(plan.classes * sizeof *logits);
                CHECK(logits != NULL);
                CHECK(qdr_plan_infer(&plan, given->pixels, arena, bytes, NULL, logits) == QDR_OK);
                free(logits);
                free_arena(arena, bytes);
                harmless++;
            }
            free(changed);
        }
    }
    printf("changed words: %u refused, %u ran within their memory\n", refused, harmless);
    CHECK(refused > records && harmless > 0); /* many words are not read by every kind */
}

static void truncated(const sample *given) {
    for (size_t size = 0; size < given->plan_bytes; size++) {
        unsigned char *part = malloc(size + 1);
        qdr_plan plan;
        CHECK(part != NULL);
        memcpy(part, given->plan, size);
        CHECK(qdr_plan_open(&plan, part, size) == QDR_BAD_MODEL);
        free(part);
    }
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    sample given = load(arguments[1]);
    qdr_plan plan;
    CHECK(qdr_plan_open(NULL, given.plan, given.plan_bytes) == QDR_BAD_ARGUMENT);
    CHECK(qdr_plan_open(&plan, NULL, given.plan_bytes) == QDR_BAD_ARGUMENT);
    CHECK(qdr_plan_open(&plan, given.plan, given.plan_bytes) == QDR_OK);
    CHECK(qdr_plan_arena_bytes(&plan, 0) == 0);
    CHECK(strcmp(qdr_status_text(QDR_OK), "ok") == 0);
    CHECK(every_isa(&given) >= 2);
#ifdef QDR_TEST_THREADS
    with_threads(&given);
#endif
    hostile(&given, 16 + 8 * plan.tensors + 28 * plan.operations);
    truncated(&given);
    free(given.plan);
    free(given.pixels);
    free(given.logits);
    puts("ok");
    return 0;
}
