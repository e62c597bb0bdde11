/* Which inner loops run: the fastest that the build and the processor have. */
#include "kernels/kernels.h"

const qdr_kernels *qdr_kernels_of(qdr_isa isa) {
    switch (isa) {
    case QDR_ISA_PLAIN:
        return qdr_kernels_plain();
    case QDR_ISA_AVX2:
        return qdr_kernels_avx2();
    case QDR_ISA_VNNI:
        return qdr_kernels_vnni();
    case QDR_ISA_NEON:
        return qdr_kernels_neon();
    case QDR_ISA_AVX_VNNI:
        return qdr_kernels_avx_vnni();
    case QDR_ISA_I8MM:
        return qdr_kernels_i8mm();
    case QDR_ISA_BEST:
        break;
    }
    return NULL;
}

qdr_isa qdr_plan_best_isa(const qdr_plan *plan) {
    static const qdr_isa order[] = {QDR_ISA_VNNI, QDR_ISA_AVX_VNNI, QDR_ISA_AVX2, QDR_ISA_I8MM,
                                    QDR_ISA_NEON};
    for (size_t index = 0; index < sizeof order / sizeof *order; index++) {
        bool exact = order[index] != QDR_ISA_AVX2 || (plan != NULL && plan->narrow);
        if (exact && qdr_kernels_of(order[index]) != NULL) {
            return order[index];
        }
    }
    return QDR_ISA_PLAIN;
}

const char *qdr_isa_name(qdr_isa isa) {
    switch (isa) {
    case QDR_ISA_BEST:
        return "best";
    case QDR_ISA_PLAIN:
        return "plain C";
    case QDR_ISA_AVX2:
        return "AVX2";
    case QDR_ISA_VNNI:
        return "AVX-512 VNNI";
    case QDR_ISA_NEON:
        return "NEON dotprod";
    case QDR_ISA_AVX_VNNI:
        return "AVX-VNNI";
    case QDR_ISA_I8MM:
        return "NEON i8mm";
    }
    return "unknown";
}

const char *qdr_version(void) { return QDR_VERSION; }
