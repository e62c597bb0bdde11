#include "manifest.h"

#include <string.h>

/* Schema 1 has no exclusive labels; all else that it says means the same. */
#define NEWEST_SCHEMA 2u

enum root_field {
    ARTEFACTS,
    BUNDLE_ID,
    CREATED,
    DECISION,
    ENTRIES,
    EVIDENCE,
    FORMAT,
    GOLDEN,
    INPUT,
    KEY_ID,
    LABELS,
    LICENCE,
    MODALITY,
    MODEL_VERSION,
    PREPROCESS,
    PROVEN,
    PROVENANCE,
    SCHEMA_VERSION,
    SCHEME,
    SECURITY_VERSION,
    SYNTHETIC,
    ROOT_FIELDS
};

static const char *const NAMES[ROOT_FIELDS] = {
    "artefacts",  "bundle_id", "created",          "decision",  "entries",       "evidence",
    "format",     "golden",    "input",            "key_id",    "labels",        "licence",
    "modality",   "model_version", "preprocess",   "proven",    "provenance",    "schema_version",
    "scheme",     "security_version", "synthetic",
};

#define BIT(field) (UINT32_C(1) << (field))
static const uint32_t NEEDED = BIT(ARTEFACTS) | BIT(BUNDLE_ID) | BIT(DECISION) | BIT(INPUT) |
                               BIT(LABELS) | BIT(LICENCE) | BIT(MODALITY) | BIT(MODEL_VERSION) |
                               BIT(PREPROCESS) | BIT(PROVEN) | BIT(SCHEME) | BIT(SYNTHETIC);

typedef struct reader {
    qdr_view field[ROOT_FIELDS]; /* {NULL, 0} where the manifest has none */
    qdr_manifest *out;
    const uint8_t *raw;
    qdr_bundle_error *where;
} reader;

typedef void (*part_reader)(qdr_json *json, qdr_manifest *out);

static qdr_status refused(const reader *r, qdr_status status, const char *what, size_t offset) {
    r->where->what = what;
    r->where->offset = offset;
    return status;
}

static qdr_status failed(const reader *r, const qdr_json *json) {
    return refused(r, QDR_BAD_BUNDLE, json->what, (size_t)(json->at - r->raw));
}

/* Where each field's value stands. Unknown fields are noted, but refused only after the schema was
 * looked at: a newer one may have more.
 */
static const char *find_fields(reader *r, qdr_view whole) {
    qdr_json json = qdr_json_over(whole);
    const char *unknown = NULL;
    qdr_json_enter(&json, '{');
    while (qdr_json_more(&json)) {
        qdr_text key = qdr_json_key(&json);
        qdr_view value = qdr_json_any(&json);
        unsigned k = 0;
        while (k < ROOT_FIELDS && !qdr_text_equal(key, qdr_text_of(NAMES[k]))) {
            k++;
        }
        if (k < ROOT_FIELDS) {
            r->field[k] = value;
        } else {
            unknown = "an unknown field of the manifest";
        }
    }
    return json.what != NULL ? json.what : unknown;
}

static bool value_is(qdr_view value, const char *json) {
    return value.size == strlen(json) && memcmp(value.bytes, json, value.size) == 0;
}

/* As Manifest.from_bytes: only of a bundle that says it is one, a schema can be unknown. */
static qdr_status check_schema(reader *r) {
    qdr_view format = r->field[FORMAT];
    qdr_view version = r->field[SCHEMA_VERSION];
    bool known = value_is(version, "1") || value_is(version, "2");
    size_t place = version.bytes == NULL ? 0 : (size_t)(version.bytes - r->raw);
    if (value_is(format, "\"qdr-bundle\"") && !known) {
        return refused(r, QDR_UNSUPPORTED, "a schema version that is not known", place);
    }
    if ((format.bytes != NULL && !value_is(format, "\"qdr-bundle\"")) ||
        (version.bytes != NULL && !known)) {
        return refused(r, QDR_BAD_BUNDLE, "not the manifest of a bundle", place);
    }
    r->out->schema_version = value_is(version, "1") ? 1 : NEWEST_SCHEMA;
    return QDR_OK;
}

/* The pattern dddd-dd-ddTdd:dd:ddZ. */
static bool is_time(qdr_text text) {
    static const char SHAPE[] = "0000-00-00T00:00:00Z";
    if (text.size != sizeof SHAPE - 1) {
        return false;
    }
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.bytes[i];
        bool digit = c >= '0' && c <= '9';
        if (SHAPE[i] == '0' ? !digit : c != (uint8_t)SHAPE[i]) {
            return false;
        }
    }
    return true;
}

static void read_created(qdr_json *json, qdr_manifest *out) {
    out->created = qdr_json_string(json);
    if (!is_time(out->created)) {
        qdr_json_fail(json, "not a time in UTC");
    }
}

static void read_key_id(qdr_json *json, qdr_manifest *out) {
    qdr_text text = qdr_json_string(json);
    out->signed_by_key = text.size > 0;
    if (out->signed_by_key && !qdr_text_hex(text, out->key_id, QDR_KEY_ID_BYTES)) {
        qdr_json_fail(json, "not a key id");
    }
}

static void read_modality(qdr_json *json, qdr_manifest *out) {
    qdr_text text = qdr_json_string(json);
    if (qdr_text_equal(text, qdr_text_of("fundus"))) {
        out->modality = QDR_MODALITY_FUNDUS;
    } else if (qdr_text_equal(text, qdr_text_of("oct"))) {
        out->modality = QDR_MODALITY_OCT;
    } else {
        qdr_json_fail(json, "not a modality");
    }
}

static void read_bundle_id(qdr_json *json, qdr_manifest *out) {
    out->bundle_id = qdr_json_name(json);
}

static void read_model_version(qdr_json *json, qdr_manifest *out) {
    out->model_version = qdr_json_name(json);
}

static void read_licence(qdr_json *json, qdr_manifest *out) {
    out->licence = qdr_json_short_text(json);
}

static void read_proven(qdr_json *json, qdr_manifest *out) {
    out->proven = qdr_json_bool(json);
}

static void read_synthetic(qdr_json *json, qdr_manifest *out) {
    out->synthetic = qdr_json_bool(json);
}

static void read_security_version(qdr_json *json, qdr_manifest *out) {
    out->security_version = qdr_json_u32(json, 0, 0x7fffffffu);
}

/* Trees that no device acts upon. */
static void read_tree(qdr_json *json, qdr_manifest *out) {
    (void)out;
    (void)qdr_json_tree(json);
}

static const struct {
    enum root_field field;
    part_reader read;
} PARTS[] = {
    /* Labels first, for golden vectors and thresholds refer to them; artefacts before golden. */
    {LABELS, qdr_read_labels},
    {ARTEFACTS, qdr_read_artefacts},
    {BUNDLE_ID, read_bundle_id},
    {CREATED, read_created},
    {DECISION, qdr_read_decision},
    {ENTRIES, qdr_read_entries},
    {EVIDENCE, read_tree},
    {GOLDEN, qdr_read_golden},
    {INPUT, qdr_read_input},
    {KEY_ID, read_key_id},
    {LICENCE, read_licence},
    {MODALITY, read_modality},
    {MODEL_VERSION, read_model_version},
    {PREPROCESS, qdr_read_preprocess},
    {PROVEN, read_proven},
    {PROVENANCE, read_tree},
    {SCHEME, read_tree},
    {SECURITY_VERSION, read_security_version},
    {SYNTHETIC, read_synthetic},
};

static bool is_listed(const qdr_manifest *manifest, qdr_text entry) {
    qdr_json json = qdr_json_over(manifest->entries);
    qdr_record record;
    qdr_json_enter(&json, '{');
    while (qdr_next_record(&json, &record)) {
        if (qdr_text_equal(record.name, entry)) {
            return true;
        }
    }
    return false;
}

/* What refers to each other must agree. A manifest without entries is not sealed yet. */
static const char *check_agreement(const qdr_manifest *m) {
    if (m->exclusive && (m->schema_version == 1 || m->label_count < 2)) {
        return "exclusive labels need schema 2 and two labels";
    }
    qdr_json entries = qdr_json_over(m->entries);
    qdr_json_enter(&entries, '{');
    if (m->entries.bytes == NULL || !qdr_json_more(&entries)) {
        return NULL;
    }
    for (uint32_t k = 0; k < m->artefact_count; k++) {
        if (!is_listed(m, m->artefacts[k].entry)) {
            return "an artefact's entry is not listed";
        }
    }
    for (uint32_t k = 0; k < m->golden_count; k++) {
        if (!is_listed(m, m->golden[k].image)) {
            return "a golden image is not listed";
        }
    }
    return NULL;
}

static qdr_status read_parts(reader *r, const char *unknown) {
    for (size_t k = 0; k < sizeof PARTS / sizeof PARTS[0]; k++) {
        enum root_field field = PARTS[k].field;
        if (r->field[field].bytes == NULL) {
            if ((NEEDED & BIT(field)) != 0) {
                return refused(r, QDR_BAD_BUNDLE, "the manifest lacks a field", 0);
            }
            continue;
        }
        qdr_json json = qdr_json_over(r->field[field]);
        PARTS[k].read(&json, r->out);
        if (json.what != NULL) {
            return failed(r, &json);
        }
    }
    if (unknown == NULL) {
        unknown = check_agreement(r->out);
    }
    return unknown == NULL ? QDR_OK : refused(r, QDR_BAD_BUNDLE, unknown, 0);
}

qdr_status qdr_manifest_read(qdr_manifest *out, const uint8_t *raw, size_t size,
                             qdr_bundle_error *where) {
    qdr_bundle_error unused;
    reader r;
    if (out == NULL || raw == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(&r, 0, sizeof r);
    memset(out, 0, sizeof *out);
    r.out = out;
    r.raw = raw;
    r.where = where == NULL ? &unused : where;
    r.where->what = "";
    r.where->offset = 0;
    qdr_view whole = {raw, size};
    size_t place = 0;
    if (size > QDR_MAX_MANIFEST_BYTES || !qdr_json_is_canonical(raw, size, &place)) {
        return refused(&r, QDR_BAD_BUNDLE, "the manifest is not canonical JSON", place);
    }
    const char *unknown = find_fields(&r, whole);
    qdr_status status = check_schema(&r);
    if (status == QDR_OK) {
        status = read_parts(&r, unknown);
    }
    if (status != QDR_OK) {
        memset(out, 0, sizeof *out);
    }
    return status;
}
