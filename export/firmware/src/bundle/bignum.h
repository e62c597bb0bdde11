/* Whole numbers below 2^1280, enough for every float64 with its digits. */
#ifndef QDR_BIGNUM_H
#define QDR_BIGNUM_H

#include <stdint.h>

/* The largest numbers: a quotient's numerator of 56 bits more than 10^342 (1193 bits), and
 * 2^53 x 2 x 10^324 x 10 (1134 bits).
 */
#define QDR_BIG_WORDS 40u

typedef struct qdr_big {
    uint32_t count; /* words in use, the highest of which is not 0; 0 for zero */
    uint32_t words[QDR_BIG_WORDS];
} qdr_big;

void qdr_big_set(qdr_big *big, uint64_t value);
void qdr_big_times_small(qdr_big *big, uint32_t factor);
void qdr_big_times_power_of_ten(qdr_big *big, unsigned exponent);
void qdr_big_shift_left(qdr_big *big, unsigned bits);
void qdr_big_halve(qdr_big *big);
void qdr_big_add(qdr_big *big, const qdr_big *other);
void qdr_big_subtract(qdr_big *big, const qdr_big *other); /* other <= big */
int qdr_big_compare(const qdr_big *a, const qdr_big *b);   /* below 0, 0, above 0 */
unsigned qdr_big_bits(const qdr_big *big);

#endif
