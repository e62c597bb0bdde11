/* Inner loops for x86 with AVX-512 VNNI: one instruction multiplies and adds four channels of 16. */
#include "kernels/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

enum { ROWS = 12 };

/* Sums must stay in registers, whatever level the compiler optimizes at. */
#define UNROLL _Pragma("GCC unroll 12")

/* Twelve sums in flight hide the instruction's latency; weights are loaded once for all. */
VNNI static void dense(const uint8_t *const *inputs, uint32_t taps, uint32_t quads,
                       const int8_t *weights, int32_t *sums) {
    __m512i found[ROWS];
    UNROLL
    for (uint32_t row = 0; row < ROWS; row++) {
        found[row] = _mm512_setzero_si512();
    }
    for (uint32_t tap = 0; tap < taps; tap++, inputs += ROWS) {
        for (uint32_t quad = 0; quad < quads; quad++, weights += QDR_BLOCK * QDR_QUAD) {
            __m512i w = _mm512_loadu_si512(weights);
            UNROLL
            for (uint32_t row = 0; row < ROWS; row++) {
                int32_t x;
                memcpy(&x, inputs[row] + QDR_QUAD * quad, sizeof x);
                found[row] = _mm512_dpbusd_epi32(found[row], _mm512_set1_epi32(x), w);
            }
        }
    }
    UNROLL
    for (uint32_t row = 0; row < ROWS; row++) {
        _mm512_storeu_si512(sums + QDR_BLOCK * row, found[row]);
    }
}

static const qdr_kernels kernels = {
    QDR_ISA_VNNI,       ROWS,            dense,            dense,
    qdr_avx2_depthwise, qdr_avx2_finish, qdr_avx2_maximum, qdr_avx2_interleave};

const qdr_kernels *qdr_kernels_vnni(void) {
    __builtin_cpu_init();
    bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni");
    return has ? &kernels : NULL;
}

#else

const qdr_kernels *qdr_kernels_vnni(void) { return NULL; }

#endif
