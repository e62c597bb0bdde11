#include "manifest.h"

#define MAX_REQUIRES 16u
#define BIT(field) (UINT32_C(1) << (field))
#define COUNT(names) ((unsigned)(sizeof(names) / sizeof((names)[0])))

/* Values that a device does not act upon, but that must be of their type. */

static bool is_null(qdr_json *json) {
    if (qdr_json_peek(json) != 'n') {
        return false;
    }
    (void)qdr_json_any(json);
    return true;
}

static void skip_count(qdr_json *json) {
    uint8_t kind = qdr_json_peek(json);
    if (!is_null(json)) {
        if (kind < '0' || kind > '9') {
            qdr_json_fail(json, "expected a count or null");
        }
        (void)qdr_json_any(json);
    }
}

static void skip_float(qdr_json *json) {
    if (!is_null(json)) {
        (void)qdr_json_float(json);
    }
}

uint32_t qdr_label_index(const qdr_manifest *manifest, qdr_text code) {
    uint32_t k = 0;
    while (k < manifest->label_count && !qdr_text_equal(manifest->labels[k].code, code)) {
        k++;
    }
    return k;
}

static void read_codes(qdr_json *json, qdr_manifest *out) {
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        qdr_text code = qdr_json_name(json);
        if (out->label_count == QDR_MAX_LABELS || qdr_label_index(out, code) < out->label_count) {
            qdr_json_fail(json, "too many labels, or a code twice");
            return;
        }
        out->labels[out->label_count++].code = code;
    }
    if (out->label_count == 0) {
        qdr_json_fail(json, "no labels");
    }
}

static void read_names(qdr_json *json, qdr_manifest *out) {
    uint32_t k = 0;
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        qdr_text name = qdr_json_short_text(json);
        if (k >= out->label_count) {
            qdr_json_fail(json, "more names than codes");
            return;
        }
        out->labels[k++].name = name;
    }
    if (k != out->label_count) {
        qdr_json_fail(json, "fewer names than codes");
    }
}

void qdr_read_labels(qdr_json *json, qdr_manifest *out) {
    static const char *const FIELDS[] = {"codes", "exclusive", "name", "names"};
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            read_codes(json, out);
            break;
        case 1:
            out->exclusive = qdr_json_bool(json);
            break;
        case 2:
            out->labels_name = qdr_json_short_text(json);
            break;
        default:
            read_names(json, out);
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(2) | BIT(3));
}

void qdr_read_input(qdr_json *json, qdr_manifest *out) {
    static const char *const FIELDS[] = {"channels", "dtype", "layout", "name", "size"};
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            (void)qdr_json_u32(json, 3, 3);
            break;
        case 1:
            qdr_json_expect(json, "uint8");
            break;
        case 2:
            qdr_json_expect(json, "NCHW");
            break;
        case 3:
            qdr_json_expect(json, "pixels");
            break;
        default:
            out->input_size = qdr_json_u32(json, 8, 4096);
        }
    }
    qdr_json_need(json, seen, BIT(4));
}

void qdr_read_preprocess(qdr_json *json, qdr_manifest *out) {
    static const char *const FIELDS[] = {"sha256", "spec"};
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        if (which == 0) {
            qdr_json_sha256(json, out->preprocess_sha256);
        } else {
            out->preprocess = qdr_json_tree(json);
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(1));
}

static void read_threshold(qdr_json *json, qdr_label *label) {
    static const char *const FIELDS[] = {
        "code",     "confidence_bound", "fitted_for", "logit",       "lower_bound",
        "patients", "positives",        "reached",    "sensitivity", "split",
    };
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            if (!qdr_text_equal(qdr_json_name(json), label->code)) {
                qdr_json_fail(json, "thresholds are not one a label, in logit order");
            }
            break;
        case 3:
            label->threshold = qdr_json_float(json);
            break;
        case 4:
        case 8:
            skip_float(json);
            break;
        case 5:
        case 6:
            skip_count(json);
            break;
        case 7:
            if (!is_null(json)) {
                (void)qdr_json_bool(json);
            }
            break;
        default:
            (void)qdr_json_short_text(json);
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(2) | BIT(3) | BIT(9));
}

static void read_thresholds(qdr_json *json, qdr_manifest *out) {
    uint32_t k = 0;
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        if (k >= out->label_count) {
            qdr_json_fail(json, "more thresholds than labels");
            return;
        }
        read_threshold(json, &out->labels[k++]);
    }
    if (k != out->label_count) {
        qdr_json_fail(json, "fewer thresholds than labels");
    }
}

void qdr_read_decision(qdr_json *json, qdr_manifest *out) {
    static const char *const FIELDS[] = {"aggregation", "gates", "rejection_rate", "temperature",
                                         "thresholds"};
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            (void)qdr_json_short_text(json);
            break;
        case 1:
            out->gates = qdr_json_tree(json);
            break;
        case 2:
            skip_float(json);
            break;
        case 3:
            out->temperature = qdr_json_float(json);
            break;
        default:
            read_thresholds(json, out);
        }
    }
    qdr_json_need(json, seen, BIT(1) | BIT(3) | BIT(4));
}

static qdr_view read_requires(qdr_json *json) {
    const uint8_t *start = json->at;
    unsigned count = 0;
    qdr_json_enter(json, '[');
    while (qdr_json_more(json)) {
        (void)qdr_json_name(json);
        if (++count > MAX_REQUIRES) {
            qdr_json_fail(json, "too many requirements");
        }
    }
    qdr_view whole = {start, (size_t)(json->at - start)};
    return whole;
}

static qdr_view read_options(qdr_json *json) {
    const uint8_t *start = json->at;
    qdr_json_enter(json, '{');
    while (qdr_json_more(json)) {
        if (!qdr_text_is_name(qdr_json_key(json))) {
            qdr_json_fail(json, "an option's key is not a name");
        }
        (void)qdr_json_short_text(json);
    }
    qdr_view whole = {start, (size_t)(json->at - start)};
    return whole;
}

static void read_artefact(qdr_json *json, qdr_artefact *out) {
    static const char *const FIELDS[] = {"backend",  "entry",   "logit_step", "opset",
                                         "options",  "requires", "runtime",   "tolerance_steps"};
    uint32_t seen = 0;
    unsigned which;
    double step = 0;
    qdr_json_enter(json, '{');
    while (qdr_json_field(json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        switch (which) {
        case 0:
            out->backend = qdr_json_name(json);
            break;
        case 1:
            out->entry = qdr_json_short_text(json);
            break;
        case 2:
            step = qdr_json_float(json);
            break;
        case 3:
            out->opset = qdr_json_u32(json, 1, 64);
            break;
        case 4:
            out->options = read_options(json);
            break;
        case 5:
            out->requires = read_requires(json);
            break;
        case 6:
            out->runtime = qdr_json_short_text(json);
            break;
        default:
            out->tolerance_steps = qdr_json_u32(json, 0, 255);
        }
    }
    qdr_json_need(json, seen, BIT(0) | BIT(1) | BIT(3));
    out->logit_tolerance = out->tolerance_steps == 0 ? 0.0 : (double)out->tolerance_steps * step;
}

void qdr_read_artefacts(qdr_json *json, qdr_manifest *out) {
    qdr_json_enter(json, '{');
    while (qdr_json_more(json)) {
        qdr_text target = qdr_json_key(json);
        if (!qdr_text_is_name(target) || out->artefact_count == QDR_MAX_ARTEFACTS) {
            qdr_json_fail(json, "too many artefacts, or a target that is not a name");
            return;
        }
        qdr_artefact *artefact = &out->artefacts[out->artefact_count++];
        artefact->target = target;
        read_artefact(json, artefact);
    }
    if (out->artefact_count == 0) {
        qdr_json_fail(json, "no artefacts");
    }
}
