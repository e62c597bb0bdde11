/* A sum that is rounded once, as Python's math.fsum, so that no order of summation enters. */
#ifndef QDR_SUM_H
#define QDR_SUM_H

#include <stdint.h>

#if defined(__FAST_MATH__)
#error "a decision needs IEEE 754 arithmetic: compile without -ffast-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ < 0 || __FLT_EVAL_METHOD__ > 1)
#error "a decision needs float64 without excess precision: compile with -mfpmath=sse or alike"
#endif

#define QDR_SUM_TERMS 64u

/* The sum of up to QDR_SUM_TERMS float64 that cannot overflow together, rounded half to even. */
double qdr_exact_sum(const double *terms, uint32_t count);

#endif
