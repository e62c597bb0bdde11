/* Whether this x86 processor has AVX-VNNI. */
#ifndef QDR_KERNELS_AVX_VNNI_H
#define QDR_KERNELS_AVX_VNNI_H

#include <cpuid.h>
#include <stdbool.h>

/* Leaf 7.1: not every compiler that has the instructions knows their name for
 * __builtin_cpu_supports. AVX2's says that the operating system keeps the registers. */
static inline bool qdr_has_avx_vnni(void) {
    unsigned eax = 0, ebx, ecx, edx;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
           (eax & 1u << 4) != 0;
}

#endif
