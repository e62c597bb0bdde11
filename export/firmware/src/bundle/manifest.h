/* The parts of a manifest, each read from its own JSON value; see qdr_edge/manifest.py. */
#ifndef QDR_MANIFEST_H
#define QDR_MANIFEST_H

#include "json.h"

/* Each reads one field of the manifest and moves behind it. Labels come first: the others refer to
 * them.
 */
void qdr_read_labels(qdr_json *json, qdr_manifest *out);
void qdr_read_input(qdr_json *json, qdr_manifest *out);
void qdr_read_preprocess(qdr_json *json, qdr_manifest *out);
void qdr_read_decision(qdr_json *json, qdr_manifest *out);
void qdr_read_artefacts(qdr_json *json, qdr_manifest *out);
void qdr_read_golden(qdr_json *json, qdr_manifest *out);
void qdr_read_entries(qdr_json *json, qdr_manifest *out);

/* Index of a label's code; label_count if there is none. */
uint32_t qdr_label_index(const qdr_manifest *manifest, qdr_text code);

/* The next record of `entries`: cursor from qdr_json_enter. False behind the last one. */
typedef struct qdr_record {
    qdr_text name;
    uint32_t size;
    uint8_t sha256[QDR_SHA256_BYTES];
} qdr_record;

bool qdr_next_record(qdr_json *json, qdr_record *out);

#endif
