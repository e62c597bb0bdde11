#include "signature.h"

#include <string.h>

#include "../../vendor/monocypher/monocypher.h"
#include "sha512.h"

bool qdr_signature_holds(const uint8_t signature[QDR_SIGNATURE_BYTES],
                         const uint8_t key[QDR_KEY_BYTES], qdr_view message) {
    qdr_sha512 hash;
    uint8_t digest[64];
    uint8_t reduced[32];
    /* RFC 8032, 5.1.7: h = SHA-512(R || A || M), here modulo the group's order. */
    qdr_sha512_start(&hash);
    qdr_sha512_add(&hash, signature, 32);
    qdr_sha512_add(&hash, key, QDR_KEY_BYTES);
    qdr_sha512_add(&hash, message.bytes, message.size);
    qdr_sha512_finish(&hash, digest);
    crypto_eddsa_reduce(reduced, digest);
    return crypto_eddsa_check_equation(signature, key, reduced) == 0;
}

bool qdr_trust_vouches(const qdr_trust *trust, const uint8_t key_id[QDR_KEY_ID_BYTES],
                       const uint8_t signature[QDR_SIGNATURE_BYTES], qdr_view message) {
    for (size_t k = 0; k < trust->count; k++) {
        uint8_t digest[QDR_SHA256_BYTES];
        qdr_sha256(trust->keys[k], QDR_KEY_BYTES, digest);
        if (memcmp(digest, key_id, QDR_KEY_ID_BYTES) == 0 &&
            qdr_signature_holds(signature, trust->keys[k], message)) {
            return true;
        }
    }
    return false;
}
