#include "manifest.h"

#define BIT(field) (UINT32_C(1) << (field))
#define COUNT(names) ((unsigned)(sizeof(names) / sizeof((names)[0])))

static qdr_outcome read_outcome(qdr_json *json) {
    static const char *const OUTCOMES[] = {"POSITIVE", "NEGATIVE", "UNGRADABLE", "INVALID_INPUT"};
    qdr_text text = qdr_json_string(json);
    for (unsigned k = 0; k < COUNT(OUTCOMES); k++) {
        if (qdr_text_equal(text, qdr_text_of(OUTCOMES[k]))) {
            return (qdr_outcome)(QDR_OUTCOME_POSITIVE + (int)k);
        }
    }
    qdr_json_fail(json, "not an outcome");
    return QDR_OUTCOME_FAULT;
}

static void read_positives(qdr_json *json, const qdr_manifest *manifest, qdr_golden *out) {
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        uint32_t k = qdr_label_index(manifest, qdr_json_name(json));
        if (k == manifest->label_count) {
            qdr_json_fail(json, "a positive that is no label's code");
            return;
        }
        /* Some bit at or above this one: not in logit order, or twice. */
        out->in_order = out->in_order && out->positives >> k == 0;
        out->positives |= UINT64_C(1) << k;
    }
}

static qdr_view read_logits(qdr_json *json, const qdr_manifest *manifest) {
    const uint8_t *start = json->at;
    qdr_json_enter(json, '{');
    while (qdr_json_more(json)) {
        uint32_t count = 0;
        if (qdr_manifest_artefact(manifest, qdr_json_key(json)) == NULL) {
            qdr_json_fail(json, "golden logits of an unknown target");
        }
        qdr_json_enter(json, '[');
        while (qdr_json_more(json)) {
            (void)qdr_json_float(json);
            count++;
        }
        if (count != manifest->label_count) {
            qdr_json_fail(json, "not one golden logit a label");
        }
    }
    qdr_view whole = {start, (size_t)(json->at - start)};
    return whole;
}

static void read_vector(qdr_json *json, const qdr_manifest *manifest, qdr_golden *out) {
    static const char *const FIELDS[] = {"image",   "logits",    "name",
                                         "outcome", "positives", "preprocessed_sha256"};
    uint32_t seen = 0;
    unsigned which;
    out->in_order = true;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            out->image = qdr_json_short_text(json);
            break;
        case 1:
            out->logits = read_logits(json, manifest);
            break;
        case 2:
            out->name = qdr_json_name(json);
            break;
        case 3:
            out->outcome = read_outcome(json);
            break;
        case 4:
            read_positives(json, manifest, out);
            break;
        default:
            out->has_pixels = json->end - json->at > 1 && json->at[1] != '"';
            if (out->has_pixels) {
                qdr_json_sha256(json, out->preprocessed_sha256);
            } else {
                qdr_json_expect(json, "");
            }
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(2) | BIT(3));
}

void qdr_read_golden(qdr_json *json, qdr_manifest *out) {
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        if (out->golden_count == QDR_MAX_GOLDEN) {
            qdr_json_fail(json, "too many golden vectors");
            return;
        }
        read_vector(json, out, &out->golden[out->golden_count++]);
    }
}

bool qdr_next_record(qdr_json *json, qdr_record *out) {
    static const char *const FIELDS[] = {"sha256", "size"};
    uint32_t seen = 0;
    unsigned which;
    if (!qdr_json_more(json)) {
        return false;
    }
    out->name = qdr_json_key(json);
    if (json->what == NULL && qdr_text_length(out->name) > QDR_MAX_TEXT) {
        qdr_json_fail(json, "an entry's name is too long");
    }
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        if (which == 0) {
            qdr_json_sha256(json, out->sha256);
        } else {
            out->size = qdr_json_u32(json, 0, QDR_MAX_ENTRY_BYTES);
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(1));
    return json->what == NULL;
}

void qdr_read_entries(qdr_json *json, qdr_manifest *out) {
    const uint8_t *start = json->at;
    uint32_t count = 0;
    qdr_record record;
    qdr_json_enter(json, '{');
    while (qdr_next_record(json, &record)) {
        if (++count > QDR_MAX_ENTRIES) {
            qdr_json_fail(json, "too many entries");
        }
    }
    out->entries.bytes = start;
    out->entries.size = (size_t)(json->at - start);
}
