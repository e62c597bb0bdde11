/* Inner loops for Arm with the matrix products of bytes (Armv8.6, many of Armv8.2 and later).
 *
 * usmmla multiplies two positions by two channels over eight input channels: twice the products of
 * a dot-product instruction, of unsigned by signed bytes, so that no 128 has to be taken away.
 * Weights lie in quads of input channels; two quads zipped are what it wants.
 */
#include "kernels/kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>

/* Six positions: 24 sums, and what is left of 32 registers for inputs and weights. */
enum { PAIRS = 3, ROWS = 2 * PAIRS, DUOS = QDR_BLOCK / 2 };

/* Sums must stay in registers, whatever level the compiler optimizes at. */
#define UNROLL _Pragma("GCC unroll 8")

#define INLINE __attribute__((always_inline)) static inline

/* Nothing is loaded before it is needed: with all weights at once the sums would not fit. */
#define IN_ORDER() __asm__ volatile("" ::: "memory")

/* Eight bytes of two positions. */
INLINE uint8x16_t two_positions(const uint8_t *one, const uint8_t *other) {
    return vcombine_u8(vld1_u8(one), vld1_u8(other));
}

/* Four bytes of two positions, with zeros behind each. */
INLINE uint8x16_t two_quads(const uint8_t *one, const uint8_t *other) {
    uint32_t low, high;
    memcpy(&low, one, sizeof low);
    memcpy(&high, other, sizeof high);
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
}

/* Add the products of four channels, whose weights over two quads are `w` and `v`. */
INLINE void add(int32x4_t found[PAIRS][DUOS], int duo, const uint8x16_t x[PAIRS], int8x16_t w,
                int8x16_t v) {
    int32x4_t even = vreinterpretq_s32_s8(w), odd = vreinterpretq_s32_s8(v);
    int8x16_t first = vreinterpretq_s8_s32(vzip1q_s32(even, odd));
    int8x16_t second = vreinterpretq_s8_s32(vzip2q_s32(even, odd));
    UNROLL
    for (int pair = 0; pair < PAIRS; pair++) {
        found[pair][duo] = vusmmlaq_s32(found[pair][duo], x[pair], first);
        found[pair][duo + 1] = vusmmlaq_s32(found[pair][duo + 1], x[pair], second);
    }
}

static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                  const int8_t *weights, int32_t *sums) {
    int32x4_t found[PAIRS][DUOS];
    UNROLL
    for (int pair = 0; pair < PAIRS; pair++) {
        UNROLL
        for (int duo = 0; duo < DUOS; duo++) {
            found[pair][duo] = vdupq_n_s32(0);
        }
    }
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        uint8x16_t x[PAIRS];
        uint32_t quad = 0;
        for (; quad + 2 <= quads; quad += 2, weights += 2 * QDR_BLOCK * QDR_QUAD) {
            UNROLL
            for (int pair = 0; pair < PAIRS; pair++) {
                x[pair] = two_positions(inputs[2 * pair] + QDR_QUAD * quad,
                                        inputs[2 * pair + 1] + QDR_QUAD * quad);
            }
            UNROLL
            for (int lane = 0; lane < 4; lane++) {
                IN_ORDER();
                add(found, 2 * lane, x, vld1q_s8(weights + 16 * lane),
                    vld1q_s8(weights + QDR_BLOCK * QDR_QUAD + 16 * lane));
            }
        }
        if (quad < quads) {
            UNROLL
            for (int pair = 0; pair < PAIRS; pair++) {
                x[pair] = two_quads(inputs[2 * pair] + QDR_QUAD * quad,
                                    inputs[2 * pair + 1] + QDR_QUAD * quad);
            }
            UNROLL
            for (int lane = 0; lane < 4; lane++) {
                add(found, 2 * lane, x, vld1q_s8(weights + 16 * lane), vdupq_n_s8(0));
            }
            weights += QDR_BLOCK * QDR_QUAD;
        }
    }
    UNROLL
    for (int pair = 0; pair < PAIRS; pair++) {
        UNROLL
        for (int duo = 0; duo < DUOS; duo += 2) {
            /* Each: two channels of the one position, the same two of the other. */
            int64x2_t low = vreinterpretq_s64_s32(found[pair][duo]);
            int64x2_t high = vreinterpretq_s64_s32(found[pair][duo + 1]);
            int32_t *to = sums + 2 * pair * (int)QDR_BLOCK + 2 * duo;
            vst1q_s32(to, vreinterpretq_s32_s64(vzip1q_s64(low, high)));
            vst1q_s32(to + QDR_BLOCK, vreinterpretq_s32_s64(vzip2q_s64(low, high)));
        }
    }
}

static const qdr_kernels kernels = {
    QDR_ISA_I8MM,       ROWS,            dense,            dense,
    qdr_neon_depthwise, qdr_neon_finish, qdr_neon_maximum, qdr_neon_interleave};

const qdr_kernels *qdr_kernels_i8mm(void) { return &kernels; }

#else

const qdr_kernels *qdr_kernels_i8mm(void) { return NULL; }

#endif
