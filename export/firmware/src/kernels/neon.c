/* Inner loops for Arm with the dot-product instructions (Armv8.2 and later).
 *
 * sdot multiplies signed bytes: a byte minus 128 is its signed form, and the 128 comes back as the
 * sum of the weights times 128, added for a whole block at the end.
 */
#include "kernels/kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

enum { ROWS = 4 };

/* Sums must stay in registers, whatever level the compiler optimizes at. */
#define UNROLL _Pragma("GCC unroll 4")

static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                  const int8_t *weights, int32_t *sums) {
    int32x4_t found[ROWS][4], weight_sums[4];
    const int8x16_t ones = vdupq_n_s8(1);
    UNROLL
    for (int lane = 0; lane < 4; lane++) {
        weight_sums[lane] = vdupq_n_s32(0);
        UNROLL
        for (int row = 0; row < ROWS; row++) {
            found[row][lane] = vdupq_n_s32(0);
        }
    }
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        for (uint32_t quad = 0; quad < quads; quad++, weights += QDR_BLOCK * QDR_QUAD) {
            int8x16_t w[4];
            UNROLL
            for (int lane = 0; lane < 4; lane++) {
                w[lane] = vld1q_s8(weights + 16 * lane);
                weight_sums[lane] = vdotq_s32(weight_sums[lane], w[lane], ones);
            }
            UNROLL
            for (int row = 0; row < ROWS; row++) {
                uint32_t bytes;
                memcpy(&bytes, inputs[row] + QDR_QUAD * quad, sizeof bytes);
                int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(bytes ^ 0x80808080u));
                UNROLL
                for (int lane = 0; lane < 4; lane++) {
                    found[row][lane] = vdotq_s32(found[row][lane], w[lane], x);
                }
            }
        }
    }
    UNROLL
    for (int row = 0; row < ROWS; row++) {
        UNROLL
        for (int lane = 0; lane < 4; lane++) {
            vst1q_s32(sums + 16 * row + 4 * lane,
                      vaddq_s32(found[row][lane], vshlq_n_s32(weight_sums[lane], 7)));
        }
    }
}

void qdr_neon_depthwise(const uint8_t *const *inputs, uint32_t taps, const int8_t *weights,
                      uint32_t stride, int32_t *sums) {
    int32x4_t found[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (uint32_t tap = 0; tap < taps; tap++, weights += stride) {
        uint8x16_t x = vld1q_u8(inputs[tap]);
        int8x16_t w = vld1q_s8(weights);
        /* |255 x 127| fits 16 bits. */
        int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))),
                                  vmovl_s8(vget_low_s8(w)));
        int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x))),
                                   vmovl_s8(vget_high_s8(w)));
        found[0] = vaddw_s16(found[0], vget_low_s16(low));
        found[1] = vaddw_s16(found[1], vget_high_s16(low));
        found[2] = vaddw_s16(found[2], vget_low_s16(high));
        found[3] = vaddw_s16(found[3], vget_high_s16(high));
    }
    UNROLL
    for (int lane = 0; lane < 4; lane++) {
        vst1q_s32(sums + 4 * lane, found[lane]);
    }
}

/* x / 2^shift, rounded half to even; a shift of 0 leaves x. */
static int32x4_t round_shift(int32x4_t x, int32x4_t shift) {
    int32x4_t shifts = vreinterpretq_s32_u32(
        vandq_u32(vcgtq_s32(shift, vdupq_n_s32(0)), vdupq_n_u32(1)));
    int32x4_t back = vnegq_s32(shift);
    /* 2^(shift-1) where there is a shift: 2^shift / 2. */
    int32x4_t half = vshrq_n_s32(vshlq_s32(vdupq_n_s32(1), shift), 1);
    int32x4_t odd = vandq_s32(vshlq_s32(x, back), shifts);
    return vshlq_s32(vaddq_s32(x, vaddq_s32(vsubq_s32(half, shifts), odd)), back);
}

static int32x4_t clamp(int32x4_t x, int32_t low, int32_t high) {
    return vminq_s32(vmaxq_s32(x, vdupq_n_s32(low)), vdupq_n_s32(high));
}

static void finish_one(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                       uint8_t *out) {
    int16x4_t words[4];
    UNROLL
    for (int lane = 0; lane < 4; lane++) {
        int32x4_t sum = vaddq_s32(vld1q_s32(sums + 4 * lane), vld1q_s32(how->bias + 4 * lane));
        int32x4_t code = round_shift(sum, vld1q_s32(how->shift + 4 * lane));
        code = clamp(code, how->low, how->high);
        if (other != NULL) {
            int32_t b[4];
            UNROLL
            for (int n = 0; n < 4; n++) {
                b[n] = other[4 * lane + n] - (int32_t)how->other_zero;
            }
            int32x4_t total =
                vaddq_s32(vshlq_s32(code, vdupq_n_s32((int32_t)how->left_a)),
                          vshlq_s32(vld1q_s32(b), vdupq_n_s32((int32_t)how->left_b)));
            total = round_shift(total, vdupq_n_s32((int32_t)how->sum_shift));
            code = clamp(total, how->sum_low, how->sum_high);
        }
        words[lane] = vmovn_s32(vaddq_s32(code, vdupq_n_s32((int32_t)how->zero)));
    }
    vst1_u8(out, vqmovun_s16(vcombine_s16(words[0], words[1])));
    vst1_u8(out + 8, vqmovun_s16(vcombine_s16(words[2], words[3])));
}

void qdr_neon_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other, uint8_t *out,
                   uint32_t stride, uint32_t count) {
    for (uint32_t row = 0; row < count; row++, sums += QDR_BLOCK, out += stride) {
        finish_one(sums, how, other, out);
        other = other == NULL ? NULL : other + stride;
    }
}

void qdr_neon_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes) {
    uint32_t at = 0;
    for (; at + 16 <= bytes; at += 16) {
        vst1q_u8(best + at, vmaxq_u8(vld1q_u8(best + at), vld1q_u8(other + at)));
    }
    qdr_plain_maximum(best + at, other + at, bytes - at);
}

void qdr_neon_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero, uint8_t *out) {
    size_t at = 0;
    for (; at + 16 <= count; at += 16, out += 64) {
        uint8x16x4_t four = {{vld1q_u8(planes[0] + at), vld1q_u8(planes[1] + at),
                              vld1q_u8(planes[2] + at), vdupq_n_u8(zero)}};
        vst4q_u8(out, four);
    }
    const uint8_t *rest[3] = {planes[0] + at, planes[1] + at, planes[2] + at};
    qdr_plain_interleave(rest, count - at, zero, out);
}

static const qdr_kernels kernels = {
    QDR_ISA_NEON,       ROWS,            dense,            dense,
    qdr_neon_depthwise, qdr_neon_finish, qdr_neon_maximum, qdr_neon_interleave};

const qdr_kernels *qdr_kernels_neon(void) { return &kernels; }

#else

const qdr_kernels *qdr_kernels_neon(void) { return NULL; }

#endif
