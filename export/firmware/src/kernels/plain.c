/* Inner loops in plain C: what every other table must equal, bit for bit. */
#include "kernels/kernels.h"

enum { ROWS = 4 };

static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                  const int8_t *weights, int32_t *sums) {
    uint32_t found[ROWS][QDR_BLOCK] = {{0}};
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        for (uint32_t quad = 0; quad < quads; quad++, weights += QDR_BLOCK * QDR_QUAD) {
            for (uint32_t row = 0; row < ROWS; row++) {
                const uint8_t *x = inputs[row] + QDR_QUAD * quad;
                for (uint32_t lane = 0; lane < QDR_BLOCK; lane++) {
                    const int8_t *w = weights + QDR_QUAD * lane;
                    found[row][lane] +=
                        (uint32_t)(x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3]);
                }
            }
        }
    }
    memcpy(sums, found, sizeof found);
}

static void depthwise(const uint8_t *const *inputs, uint32_t taps, const int8_t *weights,
                      uint32_t stride, int32_t *sums) {
    uint32_t found[QDR_BLOCK] = {0};
    for (uint32_t tap = 0; tap < taps; tap++, weights += stride) {
        for (uint32_t lane = 0; lane < QDR_BLOCK; lane++) {
            found[lane] += (uint32_t)(inputs[tap][lane] * weights[lane]);
        }
    }
    memcpy(sums, found, sizeof found);
}

static void finish_one(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                       uint8_t *out) {
    for (uint32_t lane = 0; lane < QDR_BLOCK; lane++) {
        int32_t sum = (int32_t)((uint32_t)sums[lane] + (uint32_t)how->bias[lane]);
        int32_t shift = how->shift[lane];
        /* Beyond 255 a sum that is shifted left is beyond every code, and before it 16 bits fit. */
        int32_t whole = shift < 0 ? qdr_left(qdr_clamp(sum, -255, 255), (uint32_t)-shift)
                                  : qdr_round_shift(sum, (uint32_t)shift);
        int32_t code = qdr_clamp(whole, how->low, how->high);
        if (other != NULL) {
            code = qdr_add_codes(code, other[lane] - (int32_t)how->other_zero, how->left_a,
                                 how->left_b, how->sum_shift, how->sum_low, how->sum_high);
        }
        out[lane] = (uint8_t)(code + (int32_t)how->zero);
    }
}

void qdr_plain_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                      uint8_t *out, uint32_t stride, uint32_t count) {
    for (uint32_t row = 0; row < count; row++, sums += QDR_BLOCK, out += stride) {
        finish_one(sums, how, other, out);
        other = other == NULL ? NULL : other + stride;
    }
}

void qdr_plain_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes) {
    for (uint32_t at = 0; at < bytes; at++) {
        best[at] = other[at] > best[at] ? other[at] : best[at];
    }
}

void qdr_plain_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero,
                          uint8_t *out) {
    for (size_t at = 0; at < count; at++, out += QDR_QUAD) {
        out[0] = planes[0][at];
        out[1] = planes[1][at];
        out[2] = planes[2][at];
        out[3] = zero;
    }
}

static const qdr_kernels kernels = {
    QDR_ISA_PLAIN, ROWS,             dense,             dense,
    depthwise,     qdr_plain_finish, qdr_plain_maximum, qdr_plain_interleave};

const qdr_kernels *qdr_kernels_plain(void) { return &kernels; }
