#include "every_loop.h"

#include "../random.h"

enum { TAPS = 9, QUADS = 9, WIDE = 5 * 16, COUNT = 3, MOST = TAPS * QUADS * 4 * 16 };

/* What numbers a trial draws: any, or only those at the ends of the range. */
typedef enum drawn { ANY, EXTREME, DRAWN } drawn;

static uint32_t below(uint64_t *random, uint32_t limit) {
    return (uint32_t)(next_random(random) >> 33) % limit;
}

static int32_t between(uint64_t *random, drawn how, int32_t low, int32_t high) {
    if (how == EXTREME) {
        return below(random, 2) == 0 ? low : high;
    }
    return low + (int32_t)below(random, (uint32_t)(high - low) + 1u);
}

static void draw_bytes(uint64_t *random, drawn how, uint8_t *to, size_t count, uint8_t most) {
    for (size_t n = 0; n < count; n++) {
        to[n] = (uint8_t)between(random, how, 0, most);
    }
}

static void draw_weights(uint64_t *random, drawn how, int8_t *to, size_t count, int8_t most) {
    for (size_t n = 0; n < count; n++) {
        to[n] = (int8_t)between(random, how, most == 127 ? -128 : -most, most);
    }
}

/* Both loops share rows and inputs, so plain C goes over the table's rows in its own fours. */
static bool dense_is_equal(const qdr_kernels *table, qdr_dense_loop loop, uint64_t *random,
                           drawn how, uint8_t most, int8_t most_weight) {
    const qdr_kernels *plain = qdr_kernels_plain();
    uint8_t bytes[TAPS * QUADS * 4 + QDR_MAX_ROWS];
    static int8_t weights[MOST];
    const uint8_t *inputs[TAPS * QDR_MAX_ROWS], *four[TAPS * QDR_MAX_ROWS];
    int32_t sums[QDR_MAX_ROWS * QDR_BLOCK], expected[QDR_MAX_ROWS * QDR_BLOCK];
    uint32_t taps = 1 + below(random, TAPS), quads = 1 + below(random, QUADS);
    draw_bytes(random, how, bytes, sizeof bytes, most);
    draw_weights(random, how, weights, (size_t)taps * quads * 4 * QDR_BLOCK, most_weight);
    for (uint32_t n = 0; n < taps * table->rows; n++) {
        inputs[n] = bytes + below(random, (uint32_t)sizeof bytes - 4 * quads + 1);
    }
    loop(inputs, taps, quads, weights, sums);
    for (uint32_t row = 0; row < table->rows; row++) {
        for (uint32_t n = 0; n < taps * plain->rows; n++) {
            four[n] = inputs[n / plain->rows * table->rows + row];
        }
        plain->dense(four, taps, quads, weights, expected);
        if (memcmp(sums + QDR_BLOCK * row, expected, QDR_BLOCK * sizeof *sums) != 0) {
            return false;
        }
    }
    return true;
}

static bool depthwise_is_equal(const qdr_kernels *table, uint64_t *random, drawn how) {
    uint8_t bytes[TAPS * QDR_BLOCK];
    int8_t weights[TAPS * WIDE];
    const uint8_t *inputs[TAPS];
    int32_t sums[QDR_BLOCK], expected[QDR_BLOCK];
    uint32_t taps = 1 + below(random, TAPS), stride = QDR_BLOCK * (1 + below(random, 5));
    draw_bytes(random, how, bytes, sizeof bytes, 255);
    draw_weights(random, how, weights, sizeof weights, 127);
    for (uint32_t tap = 0; tap < taps; tap++) {
        inputs[tap] = bytes + below(random, (TAPS - 1) * QDR_BLOCK + 1);
    }
    table->depthwise(inputs, taps, weights, stride, sums);
    qdr_kernels_plain()->depthwise(inputs, taps, weights, stride, expected);
    return memcmp(sums, expected, sizeof sums) == 0;
}

static bool finish_is_equal(const qdr_kernels *table, uint64_t *random, drawn how) {
    int32_t sums[COUNT * QDR_BLOCK];
    uint8_t other[COUNT * WIDE], out[COUNT * WIDE] = {0}, expected[COUNT * WIDE] = {0};
    uint32_t stride = QDR_BLOCK * (1 + below(random, 5)), most = below(random, 30);
    bool has_other = below(random, 2) == 1;
    qdr_finish finish = {.low = between(random, how, -128, 0),
                         .high = between(random, how, 0, 127),
                         .zero = 128 * below(random, 2),
                         .adds = has_other,
                         .other_zero = 128 * below(random, 2),
                         .left_a = below(random, 21),
                         .left_b = below(random, 21),
                         .sum_shift = below(random, 29),
                         .sum_low = between(random, how, -128, 0),
                         .sum_high = between(random, how, 0, 127)};
    if (finish.zero == 0) {
        finish.low = finish.sum_low = 0;
    }
    for (uint32_t lane = 0; lane < QDR_BLOCK; lane++) {
        finish.bias[lane] = between(random, how, -(1 << 20), 1 << 20);
        finish.shift[lane] = (int32_t)below(random, 31);
    }
    for (uint32_t n = 0; n < COUNT * QDR_BLOCK; n++) {
        /* Of every magnitude, so that ties and codes inside the range are met. */
        sums[n] = between(random, how, -(1 << most), 1 << most);
    }
    draw_bytes(random, how, other, sizeof other, 255);
    table->finish(sums, &finish, has_other ? other : NULL, out, stride, COUNT);
    qdr_plain_finish(sums, &finish, has_other ? other : NULL, expected, stride, COUNT);
    return memcmp(out, expected, sizeof out) == 0;
}

static bool maximum_is_equal(const qdr_kernels *table, uint64_t *random, drawn how) {
    uint8_t best[WIDE + 3], other[WIDE + 3], expected[WIDE + 3];
    uint32_t bytes = below(random, WIDE + 4);
    draw_bytes(random, how, best, sizeof best, 255);
    draw_bytes(random, how, other, sizeof other, 255);
    memcpy(expected, best, sizeof best);
    table->maximum(best, other, bytes);
    qdr_plain_maximum(expected, other, bytes);
    return memcmp(best, expected, sizeof best) == 0;
}

static bool interleave_is_equal(const qdr_kernels *table, uint64_t *random, drawn how) {
    uint8_t planes[3][WIDE], out[4 * WIDE] = {0}, expected[4 * WIDE] = {0};
    const uint8_t *const from[3] = {planes[0], planes[1], planes[2]};
    uint32_t count = below(random, WIDE + 1);
    draw_bytes(random, how, planes[0], sizeof planes, 255);
    table->interleave(from, count, 128, out);
    qdr_plain_interleave(from, count, 128, expected);
    return memcmp(out, expected, sizeof out) == 0;
}

const char *qdr_loop_that_differs(const qdr_kernels *table, uint64_t seed) {
    uint64_t random = seed | 1u;
    /* AVX2's sums of two products of a wide weight would saturate: it is never asked for them. */
    int8_t most_weight = table->isa == QDR_ISA_AVX2 ? 64 : 127;
    for (uint32_t trial = 0; trial < 400; trial++) {
        drawn how = (drawn)(trial % DRAWN);
        if (!dense_is_equal(table, table->dense, &random, how, 255, most_weight)) {
            return "dense";
        }
        if (!dense_is_equal(table, table->dense_narrow, &random, how, 127, 64)) {
            return "dense_narrow";
        }
        if (!depthwise_is_equal(table, &random, how)) {
            return "depthwise";
        }
        if (!finish_is_equal(table, &random, how)) {
            return "finish";
        }
        if (!maximum_is_equal(table, &random, how)) {
            return "maximum";
        }
        if (!interleave_is_equal(table, &random, how)) {
            return "interleave";
        }
    }
    return NULL;
}
