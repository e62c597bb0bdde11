/* SHA-512 (FIPS 180-4) for Ed25519: three parts are hashed one after another. */
#ifndef QDR_SHA512_H
#define QDR_SHA512_H

#include <stddef.h>
#include <stdint.h>

typedef struct qdr_sha512 {
    uint64_t state[8];
    uint64_t size; /* bytes so far; a message here is far below 2^61 bytes */
    uint8_t block[128];
} qdr_sha512;

void qdr_sha512_start(qdr_sha512 *hash);
void qdr_sha512_add(qdr_sha512 *hash, const uint8_t *bytes, size_t size);
void qdr_sha512_finish(qdr_sha512 *hash, uint8_t digest[64]);

#endif
