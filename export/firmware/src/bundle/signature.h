/* Ed25519 (RFC 8032) over Monocypher's curve arithmetic, and whose signatures count. */
#ifndef QDR_SIGNATURE_H
#define QDR_SIGNATURE_H

#include "qdr/bundle.h"

#define QDR_SIGNATURE_BYTES 64u

/* Whether `signature` over `message` was made by the private part of `key`. */
bool qdr_signature_holds(const uint8_t signature[QDR_SIGNATURE_BYTES],
                         const uint8_t key[QDR_KEY_BYTES], qdr_view message);

/* Whether one of the trusted keys has this id and made this signature over `message`. */
bool qdr_trust_vouches(const qdr_trust *trust, const uint8_t key_id[QDR_KEY_ID_BYTES],
                       const uint8_t signature[QDR_SIGNATURE_BYTES], qdr_view message);

#endif
