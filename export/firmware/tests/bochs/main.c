/* libqdr on a processor without an operating system, so that an emulator of a processor will do.
 *
 * Holds every inner loop of each instruction set here against plain C's, then runs the cases that
 * the disk holds (cases.py writes them): plans with pixels and the logits that the reference
 * gives them. Logits must be the reference's, and every tensor plain C's, for one to three parts of
 * each layer. What was found goes to the serial port, line by line; "done" is the last one.
 */
#include <stdbool.h>

#include "../kernels/every_loop.h"
#include "machine.h"

#define CASES ((uint8_t *)0x1000000)
#define CASES_MAGIC "QDRCASES"
enum { HEADER_BYTES = 16, CASE_BYTES = 16, MOST_CLASSES = 64, MOST_PARTS = 3, MOST_IMAGES = 256 };

/* One network: pixels of `images` images, and as many rows of logits. */
typedef struct given {
    const uint8_t *plan, *pixels, *logits;
    uint32_t plan_bytes, images, image_bytes, classes;
} given;

static uint32_t word(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The case at an address, and where the next one begins. */
static given next_case(const uint8_t **at) {
    const uint8_t *from = *at;
    given found = {.plan = from + CASE_BYTES,
                   .plan_bytes = word(from),
                   .images = word(from + 4),
                   .image_bytes = word(from + 8),
                   .classes = word(from + 12)};
    found.pixels = found.plan + found.plan_bytes;
    found.logits = found.pixels + (size_t)found.images * found.image_bytes;
    *at = found.logits + sizeof(float) * (size_t)found.images * found.classes;
    return found;
}

/* FNV-1a over the codes of every tensor, in the order in which they are made. */
static void sum_up(void *context, const qdr_tensor_view *made) {
    uint64_t sum = *(uint64_t *)context;
    for (uint32_t position = 0; position < made->height * made->width; position++) {
        for (uint32_t channel = 0; channel < made->channels; channel++) {
            uint8_t code = made->codes[(size_t)position * made->stride + channel];
            sum = (sum ^ code) * UINT64_C(0x100000001b3);
        }
    }
    *(uint64_t *)context = sum;
}

/* Parts may run in any order: one processor runs the last one first. */
static void backwards(void *context, void (*task)(void *argument, uint32_t part), void *argument,
                      uint32_t parts) {
    (void)context;
    for (uint32_t part = parts; part > 0; part--) {
        task(argument, part - 1);
    }
}

typedef struct outcome {
    qdr_status status;
    bool equal;    /* logits to the reference's */
    uint64_t sum;  /* of all tensors */
} outcome;

static outcome run(const given *with, uint32_t image, qdr_isa isa, uint32_t parts, uint8_t *arena) {
    outcome found = {.sum = UINT64_C(0xcbf29ce484222325)};
    float logits[MOST_CLASSES];
    qdr_plan plan;
    qdr_parallel parallel = {backwards, NULL, parts};
    qdr_observer observer = {sum_up, &found.sum};
    qdr_run_options how = {&parallel, &observer, isa};
    found.status = qdr_plan_open(&plan, with->plan, with->plan_bytes);
    if (found.status == QDR_OK && (plan.classes != with->classes || plan.classes > MOST_CLASSES ||
                                   with->image_bytes != 3 * plan.side * plan.side)) {
        found.status = QDR_BAD_MODEL;
    }
    if (found.status == QDR_OK) {
        size_t row = sizeof(float) * plan.classes, bytes = qdr_plan_arena_bytes(&plan, parts);
        /* A concatenation is seen after each of its inputs, with what lay there before beside it. */
        memset(arena, 0xa5, bytes);
        found.status = qdr_plan_infer(&plan, with->pixels + (size_t)image * with->image_bytes, arena,
                                      bytes, &how, logits);
        found.equal = memcmp(logits, with->logits + image * row, row) == 0;
    }
    return found;
}

/* Of each image, all tensors as plain C makes them: it is the first that runs. */
static uint64_t plain_sums[MOST_IMAGES];

/* All cases on one instruction set; false with a line of what differs first. */
static bool cases_are_equal(qdr_isa isa, uint32_t cases, uint8_t *arena) {
    const uint8_t *at = CASES + HEADER_BYTES;
    uint32_t ran = 0, images = 0, seen = 0;
    for (uint32_t number = 0; number < cases; number++) {
        given with = next_case(&at);
        for (uint32_t image = 0; image < with.images; image++) {
            if (seen == MOST_IMAGES) {
                say("too many images\n");
                return false;
            }
            uint64_t *plain = &plain_sums[seen++];
            for (uint32_t parts = 1; parts <= MOST_PARTS; parts++) {
                outcome found = run(&with, image, isa, parts, arena);
                if (isa == QDR_ISA_PLAIN && parts == 1) {
                    *plain = found.sum;
                }
                if (found.status == QDR_UNSUPPORTED && isa == QDR_ISA_AVX2) {
                    continue; /* wide weights */
                }
                if (found.status != QDR_OK || !found.equal || found.sum != *plain) {
                    say(qdr_isa_name(isa));
                    say_number(": case ", number);
                    say_number(", image ", image);
                    say_number(", parts ", parts);
                    say(found.status != QDR_OK ? ": refused\n"
                        : found.equal          ? ": a tensor differs\n"
                                               : ": the logits differ\n");
                    return false;
                }
                ran += parts == 1 && image == 0;
                images += parts == 1;
            }
        }
    }
    say(qdr_isa_name(isa));
    say_number(": equal, cases ", ran);
    say_number(", images ", images);
    say("\n");
    return true;
}

int main(void) {
    read_disk(CASES, 1);
    uint32_t cases = word(CASES + 8), bytes = word(CASES + 12);
    uint8_t *arena = (uint8_t *)(((uintptr_t)CASES + bytes + 4095) / 4096 * 4096);
    if (memcmp(CASES, CASES_MAGIC, 8) != 0) {
        say("no cases\n");
        return 1;
    }
    read_disk(CASES, bytes / SECTOR_BYTES + 1);
    for (int isa = QDR_ISA_PLAIN; isa <= QDR_ISA_I8MM; isa++) {
        const qdr_kernels *table = qdr_kernels_of((qdr_isa)isa);
        if (table == NULL) {
            continue;
        }
        const char *differs = isa == QDR_ISA_PLAIN ? NULL : qdr_loop_that_differs(table, 1);
        if (differs != NULL) {
            say(qdr_isa_name((qdr_isa)isa));
            say(": a loop differs: ");
            say(differs);
            say("\n");
            return 1;
        }
        if (!cases_are_equal((qdr_isa)isa, cases, arena)) {
            return 1;
        }
    }
    say("best: ");
    const uint8_t *at = CASES + HEADER_BYTES;
    given first = next_case(&at);
    qdr_plan plan;
    say(qdr_plan_open(&plan, first.plan, first.plan_bytes) == QDR_OK
            ? qdr_isa_name(qdr_plan_best_isa(&plan))
            : "none");
    say("\ndone\n");
    return 0;
}
