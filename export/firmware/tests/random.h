/* Random numbers for the fuzzers: the same for the same seed, on every machine. */
#ifndef QDR_TESTS_RANDOM_H
#define QDR_TESTS_RANDOM_H

#include <stdint.h>

/* xorshift64*; the state must not be 0. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

#endif
