#include "machine.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "kernels/avx_vnni.h"

static bool has_vnni(void) {
    return __builtin_cpu_supports("avx512vnni") || qdr_has_avx_vnni();
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
