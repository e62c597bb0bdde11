#include "sum.h"

#include <math.h>

/* Shewchuk's partials (1997): floats without overlap whose exact sum is the sum so far. One of them
 * is added a term, so there are never more than terms.
 */
double qdr_exact_sum(const double *terms, uint32_t count) {
    double partials[QDR_SUM_TERMS];
    uint32_t used = 0;
    for (uint32_t t = 0; t < count; t++) {
        double x = terms[t];
        uint32_t kept = 0;
        for (uint32_t i = 0; i < used; i++) {
            double large = fabs(x) < fabs(partials[i]) ? partials[i] : x;
            double small = fabs(x) < fabs(partials[i]) ? x : partials[i];
            double high = large + small;
            double low = small - (high - large);
            if (low != 0) {
                partials[kept++] = low;
            }
            x = high;
        }
        partials[kept++] = x;
        used = kept;
    }
    if (used == 0) {
        return 0;
    }
    double high = partials[--used];
    double low = 0;
    while (used > 0 && low == 0) {
        double x = high;
        double y = partials[--used];
        high = x + y;
        low = y - (high - x);
    }
    /* The sum was rounded to even on a tie although a smaller partial breaks it: correct that. */
    if (used > 0 && ((low < 0 && partials[used - 1] < 0) || (low > 0 && partials[used - 1] > 0))) {
        double twice = low * 2;
        double other = high + twice;
        if (twice == other - high) {
            high = other;
        }
    }
    return high;
}
