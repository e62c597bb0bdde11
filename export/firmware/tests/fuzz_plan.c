/* Fuzzing qdr_plan_open and qdr_plan_infer: a good plan with changed records runs in its memory.
 *
 *     fuzz_plan FOLDER RUNS SEED      with -DQDR_FUZZ_MAIN and any compiler; FOLDER as of test_plan
 *
 * With libFuzzer the input is a whole plan: start it on a folder that holds tiny.plan.
 */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "qdr/plan.h"
#include "random.h"

enum { MOST_ARENA = 1 << 22, MOST_SIDE = 64, MOST_CLASSES = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

unsigned long fuzz_ran;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t pixels[3 * MOST_SIDE * MOST_SIDE];
    qdr_plan plan;
    unsigned char *copy = malloc(size + 1);
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    if (qdr_plan_open(&plan, copy, size) == QDR_OK && plan.side <= MOST_SIDE &&
        plan.classes <= MOST_CLASSES) {
        size_t bytes = qdr_plan_arena_bytes(&plan, 1);
        size_t whole = (bytes + QDR_ARENA_ALIGNMENT - 1) / QDR_ARENA_ALIGNMENT * QDR_ARENA_ALIGNMENT;
        if (bytes <= MOST_ARENA) {
            void *arena = aligned_alloc(QDR_ARENA_ALIGNMENT, whole);
            float *logits = malloc(plan.classes * sizeof *logits);
            CHECK(arena != NULL && logits != NULL);
            memset(arena, 0x5a, whole);
            CHECK(qdr_plan_infer(&plan, pixels, arena, bytes, NULL, logits) == QDR_OK);
            free(logits);
            free(arena);
            fuzz_ran++;
        }
    }
    free(copy);
    return 0;
}

#ifdef QDR_FUZZ_MAIN
int main(int count, char **arguments) {
    CHECK(count == 4);
    char path[1024];
    size_t size;
    snprintf(path, sizeof path, "%s/tiny.plan", arguments[1]);
    unsigned char *good = read_file(path, &size), *changed = malloc(size);
    unsigned long runs = strtoul(arguments[2], NULL, 10);
    uint64_t state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    qdr_plan plan;
    CHECK(changed != NULL && qdr_plan_open(&plan, good, size) == QDR_OK);
    size_t records = 64 + 32 * (size_t)plan.tensors + 112 * (size_t)plan.operations;
    for (unsigned long run = 0; run < runs; run++) {
        memcpy(changed, good, size);
        for (uint64_t changes = 1 + next_random(&state) % 3; changes > 0; changes--) {
            uint64_t what = next_random(&state);
            size_t at = 8 + (what >> 8) % (records - 12);
            switch (what % 4) {
            case 0:
                changed[at] ^= (uint8_t)(1u << (what >> 40) % 8);
                break;
            case 1: /* a small number, as most fields hold */
                memset(changed + at / 4 * 4, 0, 4);
                changed[at / 4 * 4] = (uint8_t)((what >> 40) % 70);
                break;
            case 2: /* another field's value */
                memmove(changed + at / 4 * 4, changed + 8 + (what >> 24) % (records - 12) / 4 * 4, 4);
                break;
            default:
                changed[at] = (uint8_t)(what >> 48);
            }
        }
        LLVMFuzzerTestOneInput(changed, size);
    }
    printf("%lu runs, %lu of them opened and ran\n", runs, fuzz_ran);
    free(changed);
    free(good);
    return 0;
}
#endif
