#include "bignum.h"

static void trim(qdr_big *big) {
    while (big->count > 0 && big->words[big->count - 1] == 0) {
        big->count--;
    }
}

/* Append a word. The header's bound says there is room; the test keeps memory safe regardless. */
static void push(qdr_big *big, uint32_t word) {
    if (word != 0 && big->count < QDR_BIG_WORDS) {
        big->words[big->count++] = word;
    }
}

void qdr_big_set(qdr_big *big, uint64_t value) {
    big->words[0] = (uint32_t)(value & 0xffffffffu);
    big->words[1] = (uint32_t)(value >> 32);
    big->count = 2;
    trim(big);
}

void qdr_big_times_small(qdr_big *big, uint32_t factor) {
    uint64_t carry = 0;
    for (uint32_t i = 0; i < big->count; i++) {
        carry += (uint64_t)big->words[i] * factor;
        big->words[i] = (uint32_t)(carry & 0xffffffffu);
        carry >>= 32;
    }
    push(big, (uint32_t)carry);
}

void qdr_big_times_power_of_ten(qdr_big *big, unsigned exponent) {
    for (; exponent >= 9; exponent -= 9) {
        qdr_big_times_small(big, 1000000000u);
    }
    for (; exponent > 0; exponent--) {
        qdr_big_times_small(big, 10);
    }
}

void qdr_big_shift_left(qdr_big *big, unsigned bits) {
    uint32_t words = bits / 32;
    unsigned rest = bits % 32;
    if (big->count == 0) {
        return;
    }
    qdr_big_times_small(big, UINT32_C(1) << rest);
    if (words > 0 && words <= QDR_BIG_WORDS - big->count) {
        for (uint32_t i = big->count; i > 0; i--) {
            big->words[i - 1 + words] = big->words[i - 1];
        }
        for (uint32_t i = 0; i < words; i++) {
            big->words[i] = 0;
        }
        big->count += words;
    }
}

void qdr_big_halve(qdr_big *big) {
    for (uint32_t i = 0; i < big->count; i++) {
        uint32_t above = i + 1 < big->count ? big->words[i + 1] : 0;
        big->words[i] = big->words[i] >> 1 | above << 31;
    }
    trim(big);
}

void qdr_big_add(qdr_big *big, const qdr_big *other) {
    uint64_t carry = 0;
    while (big->count < other->count) {
        big->words[big->count++] = 0;
    }
    for (uint32_t i = 0; i < big->count; i++) {
        carry += (uint64_t)big->words[i] + (i < other->count ? other->words[i] : 0);
        big->words[i] = (uint32_t)(carry & 0xffffffffu);
        carry >>= 32;
    }
    push(big, (uint32_t)carry);
}

void qdr_big_subtract(qdr_big *big, const qdr_big *other) {
    uint64_t borrow = 0;
    for (uint32_t i = 0; i < big->count; i++) {
        uint64_t word = (uint64_t)(i < other->count ? other->words[i] : 0) + borrow;
        borrow = big->words[i] < word ? 1 : 0;
        big->words[i] = (uint32_t)(((borrow << 32) + big->words[i] - word) & 0xffffffffu);
    }
    trim(big);
}

int qdr_big_compare(const qdr_big *a, const qdr_big *b) {
    if (a->count != b->count) {
        return a->count < b->count ? -1 : 1;
    }
    for (uint32_t i = a->count; i > 0; i--) {
        if (a->words[i - 1] != b->words[i - 1]) {
            return a->words[i - 1] < b->words[i - 1] ? -1 : 1;
        }
    }
    return 0;
}

unsigned qdr_big_bits(const qdr_big *big) {
    if (big->count == 0) {
        return 0;
    }
    unsigned bits = 32u * (big->count - 1);
    for (uint32_t top = big->words[big->count - 1]; top != 0; top >>= 1) {
        bits++;
    }
    return bits;
}
