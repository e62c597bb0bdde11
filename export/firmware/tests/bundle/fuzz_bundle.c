/* Fuzz target of the bundle's reader, in libFuzzer's form: tests/fuzz builds it.
 *
 * The first byte chooses what the others are: 'b' a bundle, 'm' a manifest, 'c' a container, any
 * other a text. To get behind the signature, this is linked INSTEAD of src/bundle/signature.c.
 * Without libFuzzer: with fuzz_main.c and any compiler.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/bundle/container.h"
#include "../../src/bundle/decimal.h"
#include "../../src/bundle/json.h"
#include "any_signature.h"

#define HOLDS(condition)                                           \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                               \
        }                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Inputs that were accepted so far. */
unsigned long fuzz_accepted;

static void use_text(qdr_text text) {
    static char copy[QDR_MAX_MANIFEST_BYTES + 1];
    size_t length;
    HOLDS(qdr_text_copy(text, copy, sizeof copy, &length) == QDR_OK && length <= text.size);
}

/* All that a device may ask of a manifest that was accepted. */
static void use_manifest(const qdr_manifest *m) {
    qdr_contract spec;
    qdr_gate_limits gates;
    qdr_rule rule;
    double logits[QDR_MAX_LABELS];
    static qdr_decision decision;
    const float zeros[QDR_MAX_LABELS] = {0};
    HOLDS(m->label_count >= 1 && m->label_count <= QDR_MAX_LABELS && m->artefact_count >= 1);
    use_text(m->licence);
    for (uint32_t k = 0; k < m->label_count; k++) {
        use_text(m->labels[k].name);
    }
    for (uint32_t g = 0; g < m->golden_count; g++) {
        for (uint32_t a = 0; a < m->artefact_count; a++) {
            qdr_status found = qdr_golden_logits(&m->golden[g], m->artefacts[a].target, logits,
                                                 m->label_count);
            HOLDS(found == QDR_OK || found == QDR_UNSUPPORTED);
        }
    }
    (void)qdr_manifest_preprocess(m, &spec);
    (void)qdr_manifest_gates(m, &gates);
    if (qdr_manifest_rule(m, &rule) == QDR_OK) {
        HOLDS(qdr_decide(&rule, zeros, m->label_count, &decision) == QDR_OK);
        HOLDS(decision.outcome == QDR_OUTCOME_POSITIVE || decision.outcome == QDR_OUTCOME_NEGATIVE);
    }
}

static unsigned try_bundle(const uint8_t *data, size_t size) {
    static qdr_bundle bundle;
    qdr_bundle_error where;
    qdr_trust nobody = {NULL, 0};
    qdr_view view;
    qdr_status status = qdr_bundle_open(&bundle, data, size, &nobody, 0, &where);
    HOLDS((status == QDR_OK) == (where.what[0] == '\0') && where.offset <= size);
    if (status != QDR_OK) {
        return 0;
    }
    use_manifest(&bundle.manifest);
    for (uint32_t k = 0; k < bundle.manifest.artefact_count; k++) {
        HOLDS(qdr_bundle_entry(&bundle, bundle.manifest.artefacts[k].entry, &view) == QDR_OK);
        HOLDS(view.bytes > data && view.bytes + view.size < data + size);
    }
    return 1;
}

static unsigned try_manifest(const uint8_t *data, size_t size) {
    static qdr_manifest manifest;
    qdr_bundle_error where;
    if (qdr_manifest_read(&manifest, data, size, &where) != QDR_OK) {
        HOLDS(where.what[0] != '\0' && where.offset <= size);
        return 0;
    }
    use_manifest(&manifest);
    return 1;
}

static unsigned try_container(const uint8_t *data, size_t size) {
    qdr_container container;
    qdr_bundle_error where = {"", 0};
    if (qdr_container_check(&container, data, size, &where) != QDR_OK) {
        return 0;
    }
    size_t row = container.table;
    uint32_t sum = 0;
    for (uint32_t k = 0; k < container.count; k++) {
        qdr_entry entry = qdr_container_entry(&container, &row);
        sum ^= qdr_crc32(entry.content.bytes, entry.content.size);
        use_text(entry.name);
    }
    return sum != 1 ? 1u : 0u;
}

static unsigned try_text(const uint8_t *data, size_t size) {
    qdr_text text = {data, size};
    char again[QDR_DECIMAL_BYTES];
    double value;
    use_text(text);
    HOLDS(qdr_text_length(text) <= size);
    if (!qdr_decimal_read(text, &value)) {
        return 0;
    }
    HOLDS(qdr_decimal_write(value, again) == size && memcmp(again, data, size) == 0);
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > QDR_MAX_MANIFEST_BYTES) {
        return 0;
    }
    switch (data[0]) {
    case 'b':
        fuzz_accepted += try_bundle(data + 1, size - 1);
        break;
    case 'm':
        fuzz_accepted += try_manifest(data + 1, size - 1);
        break;
    case 'c':
        fuzz_accepted += try_container(data + 1, size - 1);
        break;
    default:
        fuzz_accepted += try_text(data + 1, size - 1);
    }
    return 0;
}
