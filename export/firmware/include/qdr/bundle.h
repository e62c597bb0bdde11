/* Read a bundle (.qdr) from memory as strictly as qdr_edge/bundle.py does.
 *
 * The whole bundle lies in the caller's memory and is never copied: all that is handed out points
 * into it, so it must stay there unchanged as long as the `qdr_bundle` is used. The order of work
 * is fixed: container, signature, manifest, security version, hashes. Nothing of a bundle may be
 * used unless `qdr_bundle_open` answered QDR_OK. Unsigned bundles are never opened.
 *
 * Accepted is what Python accepts, with three exceptions on the strict side, none of which a
 * maker's tool writes: digits outside ASCII in `created`, `true` as the schema of a manifest
 * without `format`, and gates that are not exactly pairs of exact numbers. And one on the other
 * side, open to the holder of a trusted key alone: Ed25519 is verified with the cofactor, as RFC
 * 8032 has it first, where Python's library verifies without it. One device and one workstation
 * can so be shown a signature on which they part; the bytes that are signed are the same.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_BUNDLE_H
#define QDR_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qdr/decision.h"
#include "qdr/pixels.h"
#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The format's own caps: a bundle beyond them is QDR_BAD_BUNDLE, as it is in Python. */
#define QDR_MAX_BUNDLE_BYTES (512u << 20)
#define QDR_MAX_ENTRY_BYTES (256u << 20)
#define QDR_MAX_ENTRIES 512u
#define QDR_MAX_MANIFEST_BYTES (1u << 20)
#define QDR_MAX_NAME_BYTES 128u
#define QDR_MAX_TEXT 4096u /* characters */
#define QDR_MAX_ARTEFACTS 32u
#define QDR_MAX_GOLDEN 64u
#define QDR_PREPROCESS_VERSION 1u
#define QDR_SHA256_BYTES 32u
#define QDR_KEY_BYTES 32u
#define QDR_KEY_ID_BYTES 8u

/* Bytes of the bundle. */
typedef struct qdr_view {
    const uint8_t *bytes;
    size_t size;
} qdr_view;

/* Text of the manifest, as it stands between its quotes: UTF-8 with JSON's escapes. Labels' codes,
 * names of targets, backends and entries hold no escape; for others see `qdr_text_copy`.
 */
typedef struct qdr_text {
    const uint8_t *bytes;
    size_t size;
} qdr_text;

/* The public keys whose signatures are accepted: raw Ed25519, 32 bytes each. */
typedef struct qdr_trust {
    const uint8_t (*keys)[QDR_KEY_BYTES];
    size_t count;
} qdr_trust;

/* Why a bundle was refused, for a log. */
typedef struct qdr_bundle_error {
    const char *what; /* a sentence in static memory; "" if the bundle was opened */
    size_t offset;    /* of the place in the bundle */
} qdr_bundle_error;

typedef enum qdr_modality { QDR_MODALITY_FUNDUS = 1, QDR_MODALITY_OCT = 2 } qdr_modality;

typedef struct qdr_label {
    qdr_text code;
    qdr_text name;
    double threshold; /* of the score; see qdr/decision.h */
} qdr_label;

/* One target's model. */
typedef struct qdr_artefact {
    qdr_text target;
    qdr_text entry;
    qdr_text backend;
    qdr_text runtime;  /* versions, such as ">=1.20,<2"; may be empty */
    qdr_view requires; /* JSON array of names; {NULL, 0} if the manifest has none */
    qdr_view options;  /* JSON object of texts; {NULL, 0} if the manifest has none */
    uint32_t opset;
    uint32_t tolerance_steps; /* 0..255 */
    double logit_tolerance;   /* largest difference from a golden logit; 0: equal bit for bit */
} qdr_artefact;

/* A known image with all that must come out of it. */
typedef struct qdr_golden {
    qdr_text name;
    qdr_text image; /* an entry */
    qdr_outcome outcome;
    bool has_pixels; /* false: the image cannot be read at all */
    uint8_t preprocessed_sha256[QDR_SHA256_BYTES]; /* of uint8 [3, S, S] */
    uint64_t positives; /* bit k: label k is positive */
    bool in_order; /* false: positives repeat or are not in logit order: no decision equals them */
    qdr_view logits; /* JSON object; see qdr_golden_logits; {NULL, 0} if there are none */
} qdr_golden;

/* What was signed: all that a device acts upon. 13 KB where a pointer has 8 bytes. */
typedef struct qdr_manifest {
    uint32_t schema_version;
    uint32_t security_version;
    qdr_text bundle_id;
    qdr_text model_version;
    qdr_text created; /* may be empty */
    qdr_text licence;
    bool signed_by_key; /* whether it names the key that signs it, in key_id */
    uint8_t key_id[QDR_KEY_ID_BYTES];
    qdr_modality modality;
    bool synthetic;
    bool proven;
    uint32_t input_size; /* S of the input, uint8 [1, 3, S, S] */
    double temperature;
    qdr_text labels_name;
    bool exclusive;
    uint32_t label_count;
    qdr_label labels[QDR_MAX_LABELS]; /* [label_count], in logit order */
    uint32_t artefact_count;
    qdr_artefact artefacts[QDR_MAX_ARTEFACTS]; /* [artefact_count], sorted by target */
    uint32_t golden_count;
    qdr_golden golden[QDR_MAX_GOLDEN]; /* [golden_count] */
    qdr_view preprocess; /* JSON object; see qdr_manifest_preprocess */
    uint8_t preprocess_sha256[QDR_SHA256_BYTES];
    qdr_view gates;   /* JSON object; see qdr_manifest_gates */
    qdr_view entries; /* JSON object; see qdr_bundle_entry */
} qdr_manifest;

/* A bundle that was verified completely. Its fields are for reading only. */
typedef struct qdr_bundle {
    const uint8_t *content;
    size_t size;
    size_t table;   /* where the entry table begins */
    uint32_t count; /* of entries, the manifest and the signature among them */
    uint8_t key_id[QDR_KEY_ID_BYTES];
    qdr_manifest manifest;
} qdr_bundle;

/* The preprocessing contract; ranges as in qdr_edge/preprocess.py. */
typedef struct qdr_contract {
    qdr_modality modality;
    uint32_t version;
    uint32_t size;
    uint32_t decode_margin;
    uint32_t window_low;
    uint32_t window_high;
    uint32_t clahe_clip_x100;
    uint32_t clahe_tiles;
    uint32_t median_kernel;
} qdr_contract;

/* Verify a bundle: container, signature, manifest, security version, every entry's hash.
 *
 * content: uint8 [size], the whole file. where: NULL, or receives why it was refused.
 * Needs about 4 KB of stack besides what is handed over, and no other memory.
 *
 * QDR_BAD_ARGUMENT: a null pointer.
 * QDR_BAD_BUNDLE: anything but the one valid form of container and manifest.
 * QDR_BAD_SIGNATURE: unsigned, by a key that is not trusted, or not what was signed.
 * QDR_UNSUPPORTED: a schema version that this library does not know.
 * QDR_ROLLBACK: its security version is below `minimum_security_version`.
 * `out` is all zero unless QDR_OK.
 */
qdr_status qdr_bundle_open(qdr_bundle *out, const uint8_t *content, size_t size,
                           const qdr_trust *trust, uint32_t minimum_security_version,
                           qdr_bundle_error *where);

/* The bytes of an entry of a verified bundle.
 *
 * QDR_BAD_ARGUMENT: a null pointer. QDR_BAD_BUNDLE: no such entry.
 */
qdr_status qdr_bundle_entry(const qdr_bundle *bundle, qdr_text name, qdr_view *out);

/* Read a manifest's exact bytes, uint8 [size], without trusting them: for tools and tests.
 *
 * QDR_BAD_BUNDLE: not canonical JSON, an unknown field, a value out of range.
 * QDR_UNSUPPORTED: a schema version that this library does not know.
 */
qdr_status qdr_manifest_read(qdr_manifest *out, const uint8_t *raw, size_t size,
                             qdr_bundle_error *where);

/* The artefact of a target; NULL if there is none. */
const qdr_artefact *qdr_manifest_artefact(const qdr_manifest *manifest, qdr_text target);

/* The preprocessing contract, held against its hash, the input's size and the modality.
 *
 * QDR_UNSUPPORTED: another version, an unknown field, a value out of range.
 * QDR_BAD_BUNDLE: it contradicts its hash, the model's size or the modality.
 */
qdr_status qdr_manifest_preprocess(const qdr_manifest *manifest, qdr_contract *out);

/* The gate's limits.
 *
 * QDR_UNSUPPORTED: of another version of the features.
 * QDR_BAD_BUNDLE: a feature is missing or unknown, or an interval is not two numbers as exact text.
 */
qdr_status qdr_manifest_gates(const qdr_manifest *manifest, qdr_gate_limits *out);

/* The operating point. QDR_BAD_BUNDLE: the temperature is not a positive number. */
qdr_status qdr_manifest_rule(const qdr_manifest *manifest, qdr_rule *out);

/* The logits recorded for a target, float64 [count]; `count` must be the manifest's label_count.
 *
 * QDR_UNSUPPORTED: none are recorded for it. QDR_BAD_ARGUMENT: a null pointer or another count.
 */
qdr_status qdr_golden_logits(const qdr_golden *golden, qdr_text target, double *out, size_t count);

/* Text of a zero-terminated string, not null, without characters that JSON escapes; not copied. */
qdr_text qdr_text_of(const char *string);

/* Whether two texts are the same. */
bool qdr_text_equal(qdr_text a, qdr_text b);

/* Copy a text without its escapes and with a zero behind it.
 *
 * out: char [size]. length: NULL, or receives the bytes before that zero (a text may hold a zero).
 * QDR_NO_SPACE: it does not fit; text.size + 1 bytes always do.
 */
qdr_status qdr_text_copy(qdr_text text, char *out, size_t size, size_t *length);

/* SHA-256 of uint8 [size]. */
void qdr_sha256(const uint8_t *bytes, size_t size, uint8_t digest[QDR_SHA256_BYTES]);

#ifdef __cplusplus
}
#endif

#endif
