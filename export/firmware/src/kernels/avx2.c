/* Inner loops for x86 with AVX2, for plans whose weights lie in -64..64.
 *
 * vpmaddubsw adds two products of a byte and a signed byte in 16 bits: 2 x 255 x 64 = 32,640 fits,
 * so that nothing saturates. Where inputs are at most 127, four products fit too, and one widening
 * to 32 bits serves eight input channels instead of four.
 */
#include "kernels/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE_AVX2 __attribute__((target("avx2"), always_inline)) static inline

enum { ROWS = 4 };

/* Sums must stay in registers, whatever level the compiler optimizes at. */
#define UNROLL _Pragma("GCC unroll 8")

INLINE_AVX2 __m256i load(const void *from) { return _mm256_loadu_si256(from); }

INLINE_AVX2 __m256i four_bytes(const uint8_t *from) {
    int32_t value;
    memcpy(&value, from, sizeof value);
    return _mm256_set1_epi32(value);
}

/* Eight channels' sums over one quad. */
INLINE_AVX2 __m256i quad_sums(__m256i x, __m256i w) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1));
}

INLINE_AVX2 void begin(__m256i found[ROWS][2]) {
    UNROLL
    for (int row = 0; row < ROWS; row++) {
        found[row][0] = found[row][1] = _mm256_setzero_si256();
    }
}

INLINE_AVX2 void end(__m256i found[ROWS][2], int32_t *sums) {
    UNROLL
    for (int row = 0; row < ROWS; row++) {
        _mm256_storeu_si256((void *)(sums + 16 * row), found[row][0]);
        _mm256_storeu_si256((void *)(sums + 16 * row + 8), found[row][1]);
    }
}

/* Add one quad of every row. */
INLINE_AVX2 void add_quad(__m256i found[ROWS][2], const uint8_t *const *inputs, uint32_t quad,
                          const int8_t *weights) {
    __m256i low = load(weights), high = load(weights + 32);
    UNROLL
    for (int row = 0; row < ROWS; row++) {
        __m256i x = four_bytes(inputs[row] + QDR_QUAD * quad);
        found[row][0] = _mm256_add_epi32(found[row][0], quad_sums(x, low));
        found[row][1] = _mm256_add_epi32(found[row][1], quad_sums(x, high));
    }
}

AVX2 static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                       const int8_t *weights, int32_t *sums) {
    __m256i found[ROWS][2];
    begin(found);
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        for (uint32_t quad = 0; quad < quads; quad++, weights += QDR_BLOCK * QDR_QUAD) {
            add_quad(found, inputs, quad, weights);
        }
    }
    end(found, sums);
}

/* Eight channels' sums over two quads. */
INLINE_AVX2 __m256i two_quad_sums(__m256i x, const int8_t *w, __m256i y, const int8_t *v) {
    __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16(x, load(w)), _mm256_maddubs_epi16(y, load(v)));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

AVX2 static void dense_narrow(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                              const int8_t *weights, int32_t *sums) {
    __m256i found[ROWS][2];
    begin(found);
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        uint32_t quad = 0;
        for (; quad + 2 <= quads; quad += 2, weights += 2 * QDR_BLOCK * QDR_QUAD) {
            UNROLL
            for (int row = 0; row < ROWS; row++) {
                const uint8_t *from = inputs[row] + QDR_QUAD * quad;
                __m256i x = four_bytes(from), y = four_bytes(from + QDR_QUAD);
                found[row][0] = _mm256_add_epi32(
                    found[row][0], two_quad_sums(x, weights, y, weights + 64));
                found[row][1] = _mm256_add_epi32(
                    found[row][1], two_quad_sums(x, weights + 32, y, weights + 96));
            }
        }
        if (quad < quads) {
            add_quad(found, inputs, quad, weights);
            weights += QDR_BLOCK * QDR_QUAD;
        }
    }
    end(found, sums);
}

INLINE_AVX2 __m256i sixteen_inputs(const uint8_t *from) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)from));
}

INLINE_AVX2 __m256i sixteen_weights(const int8_t *from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)from));
}

/* Two taps at a time: interleaved, one instruction multiplies and adds both. */
AVX2 void qdr_avx2_depthwise(const uint8_t *const *inputs, uint32_t taps, const int8_t *weights,
                             uint32_t stride, int32_t *sums) {
    __m256i even = _mm256_setzero_si256(), odd = even, none = even;
    for (uint32_t tap = 0; tap < taps; tap += 2, weights += 2 * (size_t)stride) {
        bool pair = tap + 1 < taps;
        __m256i x = sixteen_inputs(inputs[tap]), w = sixteen_weights(weights);
        __m256i y = pair ? sixteen_inputs(inputs[tap + 1]) : none;
        __m256i v = pair ? sixteen_weights(weights + stride) : none;
        even = _mm256_add_epi32(
            even, _mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), _mm256_unpacklo_epi16(w, v)));
        odd = _mm256_add_epi32(
            odd, _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), _mm256_unpackhi_epi16(w, v)));
    }
    /* even: channels 0-3 and 8-11, odd: 4-7 and 12-15. */
    _mm256_storeu_si256((void *)sums, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((void *)(sums + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}

/* A shift of eight sums with all that does not depend on them. */
typedef struct rounding {
    __m256i shift, half, shifts;
} rounding;

INLINE_AVX2 rounding rounding_of(__m256i shift) {
    __m256i one = _mm256_set1_epi32(1);
    __m256i shifts = _mm256_and_si256(_mm256_cmpgt_epi32(shift, _mm256_setzero_si256()), one);
    /* A left shift by -1 gives 0, as one beyond 31 bits. */
    __m256i half = _mm256_sllv_epi32(one, _mm256_sub_epi32(shift, one));
    return (rounding){shift, _mm256_sub_epi32(half, shifts), shifts};
}

/* x / 2^shift, rounded half to even; a shift of 0 leaves x. */
INLINE_AVX2 __m256i round_shift(__m256i x, rounding by) {
    __m256i odd = _mm256_and_si256(_mm256_srav_epi32(x, by.shift), by.shifts);
    x = _mm256_add_epi32(x, _mm256_add_epi32(by.half, odd));
    return _mm256_srav_epi32(x, by.shift);
}

INLINE_AVX2 __m256i left(__m256i x, uint32_t shift) {
    return _mm256_sll_epi32(x, _mm_cvtsi32_si128((int32_t)shift));
}

INLINE_AVX2 __m256i eight_others(const uint8_t *from, const qdr_finish *how) {
    __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)from));
    return left(_mm256_sub_epi32(bytes, _mm256_set1_epi32((int32_t)how->other_zero)), how->left_b);
}

/* Sixteen numbers as codes of a range, which saturation to 16 bits cannot change, as bytes. */
INLINE_AVX2 __m256i sixteen_words(__m256i low, __m256i high, int32_t least, int32_t most) {
    __m256i words = _mm256_packs_epi32(low, high);
    words = _mm256_max_epi16(words, _mm256_set1_epi16((int16_t)least));
    return _mm256_min_epi16(words, _mm256_set1_epi16((int16_t)most));
}

INLINE_AVX2 void store(__m256i words, uint32_t zero, uint8_t *out) {
    words = _mm256_add_epi16(words, _mm256_set1_epi16((int16_t)zero));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((void *)out, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                   _mm256_extracti128_si256(words, 1)));
}

AVX2 void qdr_avx2_finish(const int32_t *sums, const qdr_finish *how, const uint8_t *other,
                          uint8_t *out, uint32_t stride, uint32_t count) {
    __m256i bias_low = load(how->bias), bias_high = load(how->bias + 8);
    rounding low_by = rounding_of(load(how->shift)), high_by = rounding_of(load(how->shift + 8));
    rounding sum_by = rounding_of(_mm256_set1_epi32((int32_t)how->sum_shift));
    for (uint32_t row = 0; row < count; row++, sums += QDR_BLOCK, out += stride) {
        __m256i low = round_shift(_mm256_add_epi32(load(sums), bias_low), low_by);
        __m256i high = round_shift(_mm256_add_epi32(load(sums + 8), bias_high), high_by);
        __m256i words = sixteen_words(low, high, how->low, how->high);
        if (other != NULL) {
            /* Back to 32 bits; packing had put 0-3 and 8-11 into the lower halves of its lanes. */
            low = _mm256_srai_epi32(_mm256_unpacklo_epi16(words, words), 16);
            high = _mm256_srai_epi32(_mm256_unpackhi_epi16(words, words), 16);
            low = _mm256_add_epi32(left(low, how->left_a), eight_others(other, how));
            high = _mm256_add_epi32(left(high, how->left_a), eight_others(other + 8, how));
            words = sixteen_words(round_shift(low, sum_by), round_shift(high, sum_by),
                                  how->sum_low, how->sum_high);
            other += stride;
        }
        store(words, how->zero, out);
    }
}

AVX2 void qdr_avx2_maximum(uint8_t *best, const uint8_t *other, uint32_t bytes) {
    uint32_t at = 0;
    for (; at + 32 <= bytes; at += 32) {
        _mm256_storeu_si256((void *)(best + at), _mm256_max_epu8(load(best + at), load(other + at)));
    }
    qdr_plain_maximum(best + at, other + at, bytes - at);
}

AVX2 void qdr_avx2_interleave(const uint8_t *const planes[3], size_t count, uint8_t zero,
                              uint8_t *out) {
    size_t at = 0;
    __m128i fourth = _mm_set1_epi8((char)zero);
    for (; at + 16 <= count; at += 16, out += 64) {
        __m128i r = _mm_loadu_si128((const void *)(planes[0] + at));
        __m128i g = _mm_loadu_si128((const void *)(planes[1] + at));
        __m128i b = _mm_loadu_si128((const void *)(planes[2] + at));
        __m128i rg[2] = {_mm_unpacklo_epi8(r, g), _mm_unpackhi_epi8(r, g)};
        __m128i bz[2] = {_mm_unpacklo_epi8(b, fourth), _mm_unpackhi_epi8(b, fourth)};
        for (int half = 0; half < 2; half++) {
            _mm_storeu_si128((void *)(out + 32 * half), _mm_unpacklo_epi16(rg[half], bz[half]));
            _mm_storeu_si128((void *)(out + 32 * half + 16), _mm_unpackhi_epi16(rg[half], bz[half]));
        }
    }
    const uint8_t *rest[3] = {planes[0] + at, planes[1] + at, planes[2] + at};
    qdr_plain_interleave(rest, count - at, zero, out);
}

static const qdr_kernels kernels = {
    QDR_ISA_AVX2,       ROWS,            dense,            dense_narrow,
    qdr_avx2_depthwise, qdr_avx2_finish, qdr_avx2_maximum, qdr_avx2_interleave};

const qdr_kernels *qdr_kernels_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? &kernels : NULL;
}

#else

const qdr_kernels *qdr_kernels_avx2(void) { return NULL; }

#endif
