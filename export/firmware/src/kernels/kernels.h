/* What a layer needs of a processor, and the layers themselves.
 *
 * The layers are plain C over a table of a few inner loops, one table for each instruction set. All
 * tables give the same bits: sums of integers do not depend on their order.
 */
#ifndef QDR_KERNELS_H
#define QDR_KERNELS_H

#include <stdbool.h>
#include <string.h>

#include "plan/format.h"

/* How sums of a block of output channels become bytes. */
typedef struct qdr_finish {
    int32_t bias[QDR_BLOCK];
    int32_t shift[QDR_BLOCK];
    int32_t low, high;
    uint32_t zero;
    /* With an addition behind: the other operand's bytes are minus `other_zero`. */
    bool adds;
    uint32_t other_zero, left_a, left_b, sum_shift;
    int32_t sum_low, sum_high;
} qdr_finish;

/* Sums of products of `rows` output positions and QDR_BLOCK output channels.
 *
 * inputs    taps x rows pointers to `quads` x 4 bytes.
 * weights   taps x quads x QDR_BLOCK x 4.
 * sums      rows x QDR_BLOCK, written. */
typedef void (*qdr_dense_loop)(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                               const int8_t *weights, int32_t *sums);

/* Sums of one output position and QDR_BLOCK channels, each with weights of its own.
 *
 * inputs    taps pointers to QDR_BLOCK bytes.
 * weights   taps rows of QDR_BLOCK, `stride` bytes apart. */
typedef void (*qdr_depthwise_loop)(const uint8_t *const *inputs, uint32_t taps,
                                   const int8_t *weights, uint32_t stride, int32_t *sums);

/* Sums of `count` positions to bytes: QDR_BLOCK of them, `stride` apart, in `out`. The other
 * operand of an addition lies in `other` in the same way, which is null without one. */
typedef void (*qdr_finish_loop)(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                                uint8_t *out, uint32_t stride, uint32_t count);

/* The larger of each two bytes, into `best`. */
typedef void (*qdr_maximum_loop)(uint8_t *best, const uint8_t *other, uint32_t bytes);

/* Three planes of `count` bytes to fours of bytes, the last of them `zero`. */
typedef void (*qdr_interleave_loop)(const uint8_t *const planes[3], size_t count, uint8_t zero,
                                    uint8_t *out);

typedef struct qdr_kernels {
    qdr_isa isa;
    uint32_t rows; /* at most QDR_MAX_ROWS */
    qdr_dense_loop dense;
    /* For inputs of 0..127 and weights of -64..64, whose sums of four products fit 16 bits. */
    qdr_dense_loop dense_narrow;
    qdr_depthwise_loop depthwise;
    qdr_finish_loop finish;
    qdr_maximum_loop maximum;
    qdr_interleave_loop interleave;
} qdr_kernels;

#define QDR_MAX_ROWS 12u

/* The table of an instruction set; null where this build or processor has it not. */
const qdr_kernels *qdr_kernels_of(qdr_isa isa);
const qdr_kernels *qdr_kernels_plain(void);
const qdr_kernels *qdr_kernels_avx2(void);
const qdr_kernels *qdr_kernels_vnni(void);
const qdr_kernels *qdr_kernels_avx_vnni(void);
const qdr_kernels *qdr_kernels_neon(void);
const qdr_kernels *qdr_kernels_i8mm(void);

/* Also what the other tables leave over: rests of lengths, and shifts to the left. */
void qdr_plain_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                      uint8_t *out, uint32_t stride, uint32_t count);
void qdr_plain_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes);
void qdr_plain_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero,
                          uint8_t *out);

/* The loops of AVX2 that both kinds of VNNI share. */
void qdr_avx2_depthwise(const uint8_t *const *inputs, uint32_t taps, const int8_t *weights,
                        uint32_t stride, int32_t *sums);
void qdr_avx2_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes);
void qdr_avx2_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero,
                         uint8_t *out);
void qdr_avx2_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                     uint8_t *out, uint32_t stride, uint32_t count);

/* The loops of NEON that i8mm shares. */
void qdr_neon_depthwise(const uint8_t *const *inputs, uint32_t taps, const int8_t *weights,
                        uint32_t stride, int32_t *sums);
void qdr_neon_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes);
void qdr_neon_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero,
                         uint8_t *out);
void qdr_neon_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                     uint8_t *out, uint32_t stride, uint32_t count);

/* One layer of one image, or a part of it that may run beside the others. */
typedef struct qdr_layer {
    const qdr_plan *plan;
    const qdr_kernels *kernels;
    qdr_operation operation;
    qdr_tensor in, other, out;
    uint8_t *arena;
    const uint8_t *padding; /* a row of the input's code 0 */
    const uint8_t *pixels;
    float *logits;
    uint32_t parts;
} qdr_layer;

void qdr_layer_input(const qdr_layer *layer, uint32_t part);
void qdr_layer_conv(const qdr_layer *layer, uint32_t part);
void qdr_layer_depthwise(const qdr_layer *layer, uint32_t part);
void qdr_layer_max_pool(const qdr_layer *layer, uint32_t part);
void qdr_layer_average_pool(const qdr_layer *layer, uint32_t part);
void qdr_layer_add(const qdr_layer *layer, uint32_t part);
void qdr_layer_multiply(const qdr_layer *layer, uint32_t part);
void qdr_layer_table(const qdr_layer *layer, uint32_t part);
void qdr_layer_concat(const qdr_layer *layer, uint32_t part);
void qdr_layer_upsample(const qdr_layer *layer, uint32_t part);
void qdr_layer_logits(const qdr_layer *layer, uint32_t part);

/* What the sums of a block of output channels begin with and end as. */
qdr_finish qdr_finish_block(const qdr_layer *layer, uint32_t block);

/* Where the window of an output position reads: a pointer for each tap, `rows` apart. Of a whole
 * row of taps one pointer will do, since its pixels lie side by side as its weights do. */
void qdr_point(const qdr_layer *layer, uint32_t position, bool whole_rows, const uint8_t **inputs,
               uint32_t rows);

/* The loop that ends a layer's sums. */
static inline qdr_finish_loop qdr_finish_of(const qdr_layer *layer) {
    return layer->operation.finer ? qdr_plain_finish : layer->kernels->finish;
}

/* The share of `count` things that belongs to a part: begin..end-1. */
static inline uint32_t qdr_share(uint32_t count, uint32_t part, uint32_t parts) {
    return (uint32_t)((uint64_t)count * part / parts);
}

/* x / 2^shift, rounded half to even. Wraps where a plan's sums do, which no writer lets happen. */
static inline int32_t qdr_round_shift(int32_t x, uint32_t shift) {
    if (shift == 0) {
        return x;
    }
    uint32_t half = (1u << (shift - 1)) - 1u, odd = (uint32_t)(x >> shift) & 1u;
    return (int32_t)((uint32_t)x + half + odd) >> shift;
}

static inline int32_t qdr_clamp(int32_t x, int32_t low, int32_t high) {
    return x < low ? low : x > high ? high : x;
}

static inline int32_t qdr_left(int32_t x, uint32_t shift) {
    return (int32_t)((uint32_t)x << shift);
}

/* One code of an addition. */
static inline int32_t qdr_add_codes(int32_t a, int32_t b, uint32_t left_a, uint32_t left_b,
                                    uint32_t shift, int32_t low, int32_t high) {
    return qdr_clamp(qdr_round_shift(qdr_left(a, left_a) + qdr_left(b, left_b), shift), low, high);
}

#endif
