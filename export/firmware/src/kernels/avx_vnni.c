/* Inner loops for x86 with AVX-VNNI: AVX-512's byte products on 256 bits, for the processors that
 * have them without AVX-512 (Alder Lake and later).
 */
#include "kernels/kernels.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <immintrin.h>

#include "kernels/avx_vnni.h"

#define AVX_VNNI __attribute__((target("avx2,avxvnni")))

/* Twelve sums, two weights and one input: all that sixteen registers hold. */
enum { ROWS = 6 };

/* Sums must stay in registers, whatever level the compiler optimizes at. */
#define UNROLL _Pragma("GCC unroll 6")

AVX_VNNI static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                           const int8_t *weights, int32_t *sums) {
    __m256i found[ROWS][2];
    UNROLL
    for (uint32_t row = 0; row < ROWS; row++) {
        found[row][0] = found[row][1] = _mm256_setzero_si256();
    }
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        for (uint32_t quad = 0; quad < quads; quad++, weights += QDR_BLOCK * QDR_QUAD) {
            __m256i low = _mm256_loadu_si256((const void *)weights);
            __m256i high = _mm256_loadu_si256((const void *)(weights + 32));
            UNROLL
            for (uint32_t row = 0; row < ROWS; row++) {
                int32_t bytes;
                memcpy(&bytes, inputs[row] + QDR_QUAD * quad, sizeof bytes);
                __m256i x = _mm256_set1_epi32(bytes);
                found[row][0] = _mm256_dpbusd_avx_epi32(found[row][0], x, low);
                found[row][1] = _mm256_dpbusd_avx_epi32(found[row][1], x, high);
            }
        }
    }
    UNROLL
    for (uint32_t row = 0; row < ROWS; row++) {
        _mm256_storeu_si256((void *)(sums + QDR_BLOCK * row), found[row][0]);
        _mm256_storeu_si256((void *)(sums + QDR_BLOCK * row + 8), found[row][1]);
    }
}

static const qdr_kernels kernels = {
    QDR_ISA_AVX_VNNI,   ROWS,            dense,            dense,
    qdr_avx2_depthwise, qdr_avx2_finish, qdr_avx2_maximum, qdr_avx2_interleave};

const qdr_kernels *qdr_kernels_avx_vnni(void) { return qdr_has_avx_vnni() ? &kernels : NULL; }

#else

const qdr_kernels *qdr_kernels_avx_vnni(void) { return NULL; }

#endif
