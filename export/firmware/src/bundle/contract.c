#include <string.h>

#include "json.h"

#define COUNT(names) ((unsigned)(sizeof(names) / sizeof((names)[0])))
#define MANY 0xffffu /* no number of the contract is larger */

const qdr_artefact *qdr_manifest_artefact(const qdr_manifest *manifest, qdr_text target) {
    for (uint32_t k = 0; manifest != NULL && k < manifest->artefact_count; k++) {
        if (qdr_text_equal(manifest->artefacts[k].target, target)) {
            return &manifest->artefacts[k];
        }
    }
    return NULL;
}

static bool spec_is_valid(const qdr_contract *s) {
    return s->modality != 0 && s->version == QDR_PREPROCESS_VERSION && s->clahe_tiles >= 1 &&
           s->clahe_tiles <= 32 && s->size >= 32 && s->size <= 1024 && s->decode_margin >= 1 &&
           s->decode_margin <= 8 && s->window_low < s->window_high && s->window_high <= 65535 &&
           s->clahe_clip_x100 >= 1 && s->clahe_clip_x100 <= 10000 &&
           (s->median_kernel == 3 || s->median_kernel == 5) && s->size % s->clahe_tiles == 0;
}

static size_t put(char *out, size_t used, const char *text) {
    size_t size = strlen(text);
    memcpy(out + used, text, size);
    return used + size;
}

static size_t put_number(char *out, size_t used, uint32_t value) {
    char digits[10];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0) {
        out[used++] = digits[--count];
    }
    return used;
}

/* SHA-256 of PreprocessSpec.to_dict() as canonical JSON. */
static void hash_spec(const qdr_contract *s, uint8_t digest[QDR_SHA256_BYTES]) {
    const struct {
        const char *before;
        uint32_t value;
    } numbers[] = {
        {"{\"clahe_clip_x100\":", s->clahe_clip_x100},
        {",\"clahe_tiles\":", s->clahe_tiles},
        {",\"decode_margin\":", s->decode_margin},
        {",\"median_kernel\":", s->median_kernel},
        {s->modality == QDR_MODALITY_OCT ? ",\"modality\":\"oct\",\"size\":"
                                         : ",\"modality\":\"fundus\",\"size\":",
         s->size},
        {",\"version\":", s->version},
        {",\"window_high\":", s->window_high},
        {",\"window_low\":", s->window_low},
    };
    char json[256]; /* 131 characters of names and eight numbers of at most 5 digits */
    size_t used = 0;
    for (unsigned k = 0; k < COUNT(numbers); k++) {
        used = put_number(json, put(json, used, numbers[k].before), numbers[k].value);
    }
    used = put(json, used, "}");
    qdr_sha256((const uint8_t *)json, used, digest);
}

static qdr_modality read_modality(qdr_json *json) {
    qdr_text text = qdr_json_string(json);
    if (qdr_text_equal(text, qdr_text_of("fundus"))) {
        return QDR_MODALITY_FUNDUS;
    }
    if (!qdr_text_equal(text, qdr_text_of("oct"))) {
        qdr_json_fail(json, "not a modality");
    }
    return QDR_MODALITY_OCT;
}

qdr_status qdr_manifest_preprocess(const qdr_manifest *manifest, qdr_contract *out) {
    static const char *const FIELDS[] = {
        "clahe_clip_x100", "clahe_tiles", "decode_margin", "median_kernel", "modality",
        "size",            "version",     "window_high",   "window_low",
    };
    if (manifest == NULL || out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    /* The defaults of PreprocessSpec; what has none must be stated. */
    memset(out, 0, sizeof *out);
    out->decode_margin = 2;
    out->window_high = 65535;
    out->clahe_clip_x100 = 200;
    out->clahe_tiles = 8;
    out->median_kernel = 3;
    uint32_t *const numbers[] = {
        &out->clahe_clip_x100, &out->clahe_tiles, &out->decode_margin, &out->median_kernel, NULL,
        &out->size,            &out->version,     &out->window_high,   &out->window_low,
    };
    qdr_json json = qdr_json_over(manifest->preprocess);
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(&json, '{');
    while (qdr_json_field(&json, FIELDS, COUNT(FIELDS), &seen, &which)) {
        if (numbers[which] == NULL) {
            out->modality = read_modality(&json);
        } else {
            *numbers[which] = qdr_json_u32(&json, 0, MANY);
        }
    }
    if (json.what != NULL || !spec_is_valid(out)) {
        return QDR_UNSUPPORTED;
    }
    uint8_t digest[QDR_SHA256_BYTES];
    hash_spec(out, digest);
    bool agrees = memcmp(digest, manifest->preprocess_sha256, sizeof digest) == 0 &&
                  out->size == manifest->input_size && out->modality == manifest->modality;
    return agrees ? QDR_OK : QDR_BAD_BUNDLE;
}

/* Features as the manifest sorts them, and where each stands in qdr_gate_limits. */
static const char *const GATE_FIELDS[] = {
    "backdrop", "bands",  "brightness", "contrast", "corners",   "detail",  "fill",  "flat",
    "grain",    "layers", "redness",    "structure", "version",  "visible", "warmth",
};
static const unsigned GATE_PLACE[] = {7, 6, 8, 9, 4, 10, 5, 13, 1, 12, 2, 0, 0, 11, 3};
#define STRUCTURE 11u
#define VERSION 12u

/* Whether the version of the features is ours. Their first version wrote none; an object without
 * features is not of another version but damaged.
 */
static bool gate_version_is_known(qdr_view gates) {
    qdr_json json = qdr_json_over(gates);
    bool found = false;
    bool known = false;
    bool structure = false;
    qdr_json_enter(&json, '{');
    while (qdr_json_more(&json)) {
        qdr_text key = qdr_json_key(&json);
        qdr_view value = qdr_json_any(&json);
        if (qdr_text_equal(key, qdr_text_of(GATE_FIELDS[VERSION]))) {
            found = true;
            known = value.size == 5 && memcmp(value.bytes, "[\"2\"]", 5) == 0;
        }
        structure = structure || qdr_text_equal(key, qdr_text_of(GATE_FIELDS[STRUCTURE]));
    }
    return found ? known : !structure;
}

qdr_status qdr_manifest_gates(const qdr_manifest *manifest, qdr_gate_limits *out) {
    if (manifest == NULL || out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(out, 0, sizeof *out);
    if (!gate_version_is_known(manifest->gates)) {
        return QDR_UNSUPPORTED;
    }
    qdr_json json = qdr_json_over(manifest->gates);
    uint32_t seen = 0;
    unsigned which;
    qdr_json_enter(&json, '{');
    while (qdr_json_field(&json, GATE_FIELDS, COUNT(GATE_FIELDS), &seen, &which)) {
        if (which == VERSION) {
            (void)qdr_json_any(&json);
            continue;
        }
        double ends[2] = {0, 0};
        unsigned count = 0;
        qdr_json_enter(&json, '[');
        while (qdr_json_more(&json)) {
            double end = qdr_json_float(&json);
            if (count < 2) {
                ends[count] = end;
            }
            count++;
        }
        out->low[GATE_PLACE[which]] = ends[0];
        out->high[GATE_PLACE[which]] = ends[1];
        if (count != 2 || ends[0] > ends[1]) {
            qdr_json_fail(&json, "not an interval");
        }
    }
    uint32_t all = ((UINT32_C(1) << COUNT(GATE_FIELDS)) - 1) & ~(UINT32_C(1) << VERSION);
    qdr_json_need(&json, seen, all);
    return json.what == NULL ? QDR_OK : QDR_BAD_BUNDLE;
}

qdr_status qdr_manifest_rule(const qdr_manifest *manifest, qdr_rule *out) {
    if (manifest == NULL || out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(out, 0, sizeof *out);
    /* Differences of infinities are NaN, which is not 0. */
    if (!(manifest->temperature > 0) || manifest->temperature - manifest->temperature != 0) {
        return QDR_BAD_BUNDLE;
    }
    out->label_count = manifest->label_count;
    out->normal = manifest->label_count;
    out->exclusive = manifest->exclusive;
    out->temperature = manifest->temperature;
    for (uint32_t k = 0; k < manifest->label_count; k++) {
        out->thresholds[k] = manifest->labels[k].threshold;
        if (qdr_text_equal(manifest->labels[k].code, qdr_text_of("NOR"))) {
            out->normal = k;
        }
    }
    return QDR_OK;
}

qdr_status qdr_golden_logits(const qdr_golden *golden, qdr_text target, double *out, size_t count) {
    if (golden == NULL || out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    qdr_json json = qdr_json_over(golden->logits);
    if (golden->logits.bytes == NULL) {
        return QDR_UNSUPPORTED;
    }
    qdr_json_enter(&json, '{');
    while (qdr_json_more(&json)) {
        size_t k = 0;
        if (!qdr_text_equal(qdr_json_key(&json), target)) {
            (void)qdr_json_any(&json);
            continue;
        }
        qdr_json_enter(&json, '[');
        while (qdr_json_more(&json)) {
            double logit = qdr_json_float(&json);
            if (k < count) {
                out[k] = logit;
            }
            k++;
        }
        return k == count && json.what == NULL ? QDR_OK : QDR_BAD_ARGUMENT;
    }
    return QDR_UNSUPPORTED;
}
