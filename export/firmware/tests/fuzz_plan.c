/* Fuzzing qdr_plan_open and qdr_plan_infer: a good plan with changed records runs in its memory.
 *
 *     fuzz_plan FOLDER RUNS SEED      with -DQDR_FUZZ_MAIN and any compiler; FOLDER as of test_plan
 *
 * With libFuzzer the input is a whole plan: tests/fuzz builds it, and starts it on tiny.plan.
 */
#define _POSIX_C_SOURCE 200112L

#include <stdint.h>
#include <string.h>

#include "arena.h"
#include "check.h"
#include "qdr/plan.h"
#include "random.h"

enum { MOST_ARENA = 1 << 20, MOST_SIDE = 64, MOST_CLASSES = 256, HEADER = 64, TENSOR = 32,
       OPERATION = 112 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

unsigned long fuzz_ran;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t pixels[3 * MOST_SIDE * MOST_SIDE];
    qdr_plan plan;
    if (qdr_plan_open(&plan, data, size) == QDR_OK && plan.side <= MOST_SIDE &&
        plan.classes <= MOST_CLASSES) {
        size_t bytes = qdr_plan_arena_bytes(&plan, 1);
        if (bytes <= MOST_ARENA) {
            void *arena = take_arena(bytes);
            float *logits = malloc(plan.classes * sizeof *logits);
            CHECK(logits != NULL);
            CHECK(qdr_plan_infer(&plan, pixels, arena, bytes, NULL, logits) == QDR_OK);
            free(logits);
            free_arena(arena, bytes);
            fuzz_ran++;
        }
    }
    return 0;
}

/* Change one field or bit of the first `records` bytes, behind the magic. */
static void change(uint8_t *plan, size_t records, uint64_t *state) {
    uint64_t what = next_random(state);
    size_t at = 8 + (what >> 8) % (records - 12);
    size_t word = at / 4 * 4;
    switch (what % 4) {
    case 0:
        plan[at] ^= (uint8_t)(1u << (what >> 40) % 8);
        break;
    case 1: /* a small number, as most fields hold */
        memset(plan + word, 0, 4);
        plan[word] = (uint8_t)((what >> 40) % 70);
        break;
    case 2: /* another field's value */
        memmove(plan + word, plan + 8 + (what >> 24) % (records - 12) / 4 * 4, 4);
        break;
    default:
        plan[at] = (uint8_t)(what >> 48);
    }
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
    size_t records = HEADER + TENSOR * (size_t)plan.tensors + OPERATION * (size_t)plan.operations;
    for (unsigned long run = 0; run < runs; run++) {
        memcpy(changed, good, size);
        for (uint64_t changes = 1 + next_random(&state) % 3; changes > 0; changes--) {
            change(changed, records, &state);
        }
        LLVMFuzzerTestOneInput(changed, size);
    }
    printf("%lu runs, %lu of them opened and ran\n", runs, fuzz_ran);
    free(changed);
    free(good);
    return 0;
}
#else
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

/* Most of a plan are weights, of which any will do: change its records, and only rarely the rest. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    enum { RECORDS = 3280 }; /* where those of tiny.plan end */
    uint64_t state = (uint64_t)seed * 2 + 1;
    if (size < HEADER || next_random(&state) % 32 == 0) {
        return LLVMFuzzerMutate(data, size, most);
    }
    for (uint64_t changes = 1 + next_random(&state) % 3; changes > 0; changes--) {
        change(data, size < RECORDS ? size : RECORDS, &state);
    }
    return size;
}
#endif
