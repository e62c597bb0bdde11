#include "decimal.h"

#include <string.h>

#include "bignum.h"

#define FRACTION_BITS 52u
#define HIDDEN_BIT (UINT64_C(1) << FRACTION_BITS)
#define MAX_DIGITS 17 /* that any float64 needs */

static uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round quotient x 2^-shift, plus a little more if `sticky`, to float64, half to even. The quotient
 * has 55 or 56 bits. Gives false on overflow and where nothing is left.
 */
static bool rounded(uint64_t quotient, bool sticky, int shift, uint64_t *bits) {
    int top = quotient >> 55 != 0 ? 55 : 54;
    int exponent = top - shift; /* of the leading bit */
    int lowest = exponent - (int)FRACTION_BITS;
    if (lowest < -1074) {
        lowest = -1074; /* subnormal numbers end there */
    }
    int drop = lowest + shift;
    if (exponent > 1023 || drop > 60) {
        return false;
    }
    uint64_t mantissa = quotient >> drop;
    uint64_t rest = quotient & ((UINT64_C(1) << drop) - 1);
    uint64_t half = UINT64_C(1) << (drop - 1);
    if (rest > half || (rest == half && (sticky || (mantissa & 1) != 0))) {
        mantissa++;
    }
    /* A mantissa that was rounded up to the next power of two carries into the exponent. */
    *bits = exponent < -1022 ? mantissa
                             : ((uint64_t)(exponent + 1022) << FRACTION_BITS) + mantissa;
    return *bits < UINT64_C(0x7ff0000000000000);
}

/* digits x 10^exponent, not 0, as the nearest float64. */
static bool nearest(uint64_t digits, int exponent, uint64_t *bits) {
    qdr_big numerator;
    qdr_big denominator;
    qdr_big_set(&numerator, digits);
    qdr_big_set(&denominator, 1);
    qdr_big_times_power_of_ten(exponent < 0 ? &denominator : &numerator,
                               (unsigned)(exponent < 0 ? -exponent : exponent));
    /* Scaled so that the quotient has 55 or 56 bits: two more than are kept. */
    int shift = 55 - ((int)qdr_big_bits(&numerator) - (int)qdr_big_bits(&denominator));
    qdr_big_shift_left(shift > 0 ? &numerator : &denominator,
                       (unsigned)(shift > 0 ? shift : -shift));
    /* Long division from the highest bit; the divisor moves down a bit a step. */
    uint64_t quotient = 0;
    qdr_big_shift_left(&denominator, 55);
    for (int bit = 55; bit >= 0; bit--) {
        quotient <<= 1;
        if (qdr_big_compare(&numerator, &denominator) >= 0) {
            qdr_big_subtract(&numerator, &denominator);
            quotient |= 1;
        }
        qdr_big_halve(&denominator);
    }
    return rounded(quotient, numerator.count != 0, shift, bits);
}

/* The shortest digits that read back as the number, not 0, with these bits; the value is
 * 0.d1d2... x 10^*point. Steele and White's algorithm with the choices of Gay's dtoa, mode 0, which
 * Python uses: bounds count for even mantissas, ties of the last digit go to the even one.
 */
static unsigned shortest(uint64_t bits, char digits[MAX_DIGITS + 1], int *point) {
    uint64_t fraction = bits & (HIDDEN_BIT - 1);
    int biased = (int)(bits >> FRACTION_BITS);
    uint64_t mantissa = biased == 0 ? fraction : fraction | HIDDEN_BIT;
    int exponent = (biased == 0 ? 1 : biased) - 1075;
    bool even = (mantissa & 1) == 0;
    /* Below a power of two, neighbours lie half as far. */
    unsigned closer = fraction == 0 && biased > 1 ? 1 : 0;
    qdr_big rest;  /* value = rest / one */
    qdr_big one;
    qdr_big below; /* half the distance to the lower neighbour = below / one */
    qdr_big above;
    qdr_big_set(&rest, mantissa);
    qdr_big_set(&one, 1);
    qdr_big_set(&below, 1);
    qdr_big_shift_left(&rest, 1 + closer + (unsigned)(exponent > 0 ? exponent : 0));
    qdr_big_shift_left(&one, 1 + closer + (unsigned)(exponent > 0 ? 0 : -exponent));
    qdr_big_shift_left(&below, (unsigned)(exponent > 0 ? exponent : 0));
    above = below;
    qdr_big_shift_left(&above, closer);

    /* An estimate of the decimal exponent that is never too large: 1233 / 4096 < log10(2). */
    int binary = (int)qdr_big_bits(&rest) - (int)qdr_big_bits(&one) - 1;
    int decimal = binary >= 0 ? binary * 1233 / 4096 : -(-binary * 1234 / 4096) - 1;
    if (decimal > 0) {
        qdr_big_times_power_of_ten(&one, (unsigned)decimal);
    } else {
        qdr_big_times_power_of_ten(&rest, (unsigned)-decimal);
        qdr_big_times_power_of_ten(&below, (unsigned)-decimal);
        qdr_big_times_power_of_ten(&above, (unsigned)-decimal);
    }
    qdr_big ten = one;
    qdr_big_times_small(&ten, 10);
    while (qdr_big_compare(&rest, &ten) >= 0) {
        one = ten;
        qdr_big_times_small(&ten, 10);
        decimal++;
    }

    unsigned count = 0;
    bool last = false;
    while (!last && count < MAX_DIGITS) {
        unsigned digit = 0;
        while (qdr_big_compare(&rest, &one) >= 0) {
            qdr_big_subtract(&rest, &one);
            digit++;
        }
        int low = qdr_big_compare(&rest, &below);
        qdr_big sum = rest;
        qdr_big_add(&sum, &above);
        int high = qdr_big_compare(&sum, &one);
        if (high == 0 && even) {
            digit += digit == 9 || low > 0 ? 1 : 0;
            last = true;
        } else if (low < 0 || (low == 0 && even)) {
            if (high > 0) {
                qdr_big_shift_left(&rest, 1);
                int half = qdr_big_compare(&rest, &one);
                digit += half > 0 || (half == 0 && (digit & 1) != 0) ? 1 : 0;
            }
            last = true;
        } else if (high > 0) {
            digit++;
            last = true;
        }
        digits[count++] = (char)digit;
        qdr_big_times_small(&rest, 10);
        qdr_big_times_small(&below, 10);
        qdr_big_times_small(&above, 10);
    }
    while (count > 1 && digits[count - 1] == 10) {
        count--;
        digits[count - 1]++;
    }
    if (digits[0] == 10) {
        digits[0] = 1;
        decimal++;
    }
    while (count > 1 && digits[count - 1] == 0) {
        count--;
    }
    for (unsigned k = 0; k < count; k++) {
        digits[k] = (char)('0' + digits[k]);
    }
    *point = decimal + 1;
    return count;
}

static size_t write_exponent(int exponent, char *out) {
    unsigned size = (unsigned)(exponent < 0 ? -exponent : exponent);
    size_t used = 0;
    out[used++] = 'e';
    out[used++] = exponent < 0 ? '-' : '+';
    if (size >= 100) {
        out[used++] = (char)('0' + size / 100);
    }
    out[used++] = (char)('0' + size / 10 % 10);
    out[used++] = (char)('0' + size % 10);
    return used;
}

/* Digits and the place of the point as Python's repr lays them out. */
static size_t lay_out(const char *digits, unsigned count, int point, char *out) {
    size_t used = 0;
    if (point > 16 || point < -3) {
        out[used++] = digits[0];
        if (count > 1) {
            out[used++] = '.';
            memcpy(out + used, digits + 1, count - 1);
            used += count - 1;
        }
        return used + write_exponent(point - 1, out + used);
    }
    if (point <= 0) {
        out[used++] = '0';
        out[used++] = '.';
        for (int k = point; k < 0; k++) {
            out[used++] = '0';
        }
        memcpy(out + used, digits, count);
        return used + count;
    }
    for (unsigned k = 0; k < (unsigned)point; k++) {
        out[used++] = (char)(k < count ? digits[k] : '0');
    }
    out[used++] = '.';
    if (count <= (unsigned)point) {
        out[used++] = '0';
        return used;
    }
    memcpy(out + used, digits + point, count - (unsigned)point);
    return used + count - (unsigned)point;
}

size_t qdr_decimal_write(double value, char out[QDR_DECIMAL_BYTES]) {
    uint64_t bits = bits_of(value);
    uint64_t size = bits & ~(UINT64_C(1) << 63);
    char digits[MAX_DIGITS + 1];
    int point;
    size_t used = 0;
    if (size != bits) {
        out[used++] = '-';
    }
    if (size >= UINT64_C(0x7ff0000000000000)) {
        memcpy(out + used, "inf", 3);
        return used + 3;
    }
    if (size == 0) {
        memcpy(out + used, "0.0", 3);
        return used + 3;
    }
    unsigned count = shortest(size, digits, &point);
    return used + lay_out(digits, count, point, out + used);
}

static bool is_digit(qdr_text text, size_t at) {
    return at < text.size && text.bytes[at] >= '0' && text.bytes[at] <= '9';
}

/* The number that a text of the shape [digits][.digits][e+-digits] is nearest to, without its sign.
 * Only roughly strict: who reads compares with what is written.
 */
static bool read_size(qdr_text text, uint64_t *bits) {
    uint64_t digits = 0;
    int exponent = 0;
    int written = 0;
    size_t at = 0;
    bool fraction = false;
    for (; is_digit(text, at) || (at < text.size && text.bytes[at] == '.' && !fraction); at++) {
        if (text.bytes[at] == '.') {
            fraction = true;
            continue;
        }
        if (digits >= UINT64_C(1000000000000000000)) {
            return false; /* more digits than the shortest form ever has */
        }
        digits = digits * 10 + (uint64_t)(text.bytes[at] - '0');
        exponent -= fraction ? 1 : 0;
    }
    if (at + 2 < text.size && text.bytes[at] == 'e') {
        bool negative = text.bytes[at + 1] == '-';
        for (at += 2; is_digit(text, at) && written < 1000; at++) {
            written = written * 10 + (text.bytes[at] - '0');
        }
        exponent += negative ? -written : written;
    }
    if (at != text.size || exponent < -342 || exponent > 308) {
        return false;
    }
    *bits = 0;
    return digits == 0 || nearest(digits, exponent, bits);
}

bool qdr_decimal_read(qdr_text text, double *value) {
    char again[QDR_DECIMAL_BYTES];
    uint64_t bits = UINT64_C(0x7ff0000000000000);
    if (text.size < 1 || text.size > QDR_DECIMAL_BYTES) {
        return false;
    }
    bool negative = text.bytes[0] == '-';
    qdr_text size = {text.bytes + (negative ? 1 : 0), text.size - (negative ? 1 : 0)};
    if (!qdr_text_equal(size, qdr_text_of("inf")) && !read_size(size, &bits)) {
        return false;
    }
    double found = double_of(negative ? bits | UINT64_C(1) << 63 : bits);
    size_t used = qdr_decimal_write(found, again);
    if (used != text.size || memcmp(again, text.bytes, used) != 0) {
        return false;
    }
    *value = found;
    return true;
}
