#include "machine.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

static bool has_vnni(void) {
    unsigned a, b, c, d;
    if (__builtin_cpu_supports("avx512vnni")) {
        return true;
    }
    /* AVX-VNNI, which older compilers know no name of: leaf 7.1, EAX, bit 4. */
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a >> 4 & 1) != 0;
}

bool qdr_machine_has(qdr_text property) {
    return qdr_text_equal(property, qdr_text_of("x86_64")) ||
           (qdr_text_equal(property, qdr_text_of("avx2")) && __builtin_cpu_supports("avx2")) ||
           (qdr_text_equal(property, qdr_text_of("avx512f")) &&
            __builtin_cpu_supports("avx512f")) ||
           (qdr_text_equal(property, qdr_text_of("vnni")) && has_vnni());
}

bool qdr_machine_saturates(void) { return !has_vnni(); }

#else

bool qdr_machine_has(qdr_text property) {
#if defined(__aarch64__)
    if (qdr_text_equal(property, qdr_text_of("aarch64")) ||
        qdr_text_equal(property, qdr_text_of("neon"))) {
        return true;
    }
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    /* As with the kernels: what the build was made for. */
    if (qdr_text_equal(property, qdr_text_of("dotprod"))) {
        return true;
    }
#endif
    (void)property;
    return false;
}

bool qdr_machine_saturates(void) { return false; }

#endif
