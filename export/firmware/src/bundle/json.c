#include "json.h"

#include <string.h>

#include "decimal.h"

static const qdr_text NO_TEXT = {NULL, 0};
static const qdr_view NO_VIEW = {NULL, 0};

/* Depth of a tree's deepest value; the tree itself has depth 0. See MAX_NESTING in manifest.py. */
#define TREE_DEPTH 32u

qdr_json qdr_json_over(qdr_view value) {
    qdr_json json = {value.bytes, value.bytes == NULL ? NULL : value.bytes + value.size, NULL};
    return json;
}

void qdr_json_fail(qdr_json *json, const char *what) {
    if (json->what == NULL) {
        json->what = what;
    }
}

uint8_t qdr_json_peek(const qdr_json *json) {
    return json->what == NULL && json->at != json->end ? *json->at : 0;
}

void qdr_json_enter(qdr_json *json, uint8_t bracket) {
    if (qdr_json_peek(json) == bracket) {
        json->at++;
    } else {
        qdr_json_fail(json, bracket == '{' ? "expected an object" : "expected an array");
    }
}

bool qdr_json_more(qdr_json *json) {
    uint8_t next = qdr_json_peek(json);
    if (next == '}' || next == ']' || next == 0) {
        json->at += next == 0 ? 0 : 1;
        return false;
    }
    /* Commas stand where they must: that was checked. */
    json->at += next == ',' ? 1 : 0;
    return true;
}

qdr_text qdr_json_string(qdr_json *json) {
    if (qdr_json_peek(json) != '"') {
        qdr_json_fail(json, "expected text");
        return NO_TEXT;
    }
    qdr_text text = {json->at + 1, 0};
    const uint8_t *at = text.bytes;
    while (at != json->end && *at != '"') {
        at += *at == '\\' && json->end - at > 1 ? 2 : 1;
    }
    if (at == json->end) {
        qdr_json_fail(json, "text without an end");
        return NO_TEXT;
    }
    text.size = (size_t)(at - text.bytes);
    json->at = at + 1;
    return text;
}

qdr_text qdr_json_key(qdr_json *json) {
    qdr_text key = qdr_json_string(json);
    if (qdr_json_peek(json) == ':') {
        json->at++;
        return key;
    }
    qdr_json_fail(json, "expected a key");
    return NO_TEXT;
}

qdr_text qdr_json_short_text(qdr_json *json) {
    const uint8_t *start = json->at;
    qdr_text text = qdr_json_string(json);
    if (json->what == NULL && qdr_text_length(text) > QDR_MAX_TEXT) {
        json->at = start;
        qdr_json_fail(json, "text that is too long");
    }
    return json->what == NULL ? text : NO_TEXT;
}

qdr_text qdr_json_name(qdr_json *json) {
    const uint8_t *start = json->at;
    qdr_text text = qdr_json_string(json);
    if (json->what == NULL && !qdr_text_is_name(text)) {
        json->at = start;
        qdr_json_fail(json, "not a name");
    }
    return json->what == NULL ? text : NO_TEXT;
}

bool qdr_json_bool(qdr_json *json) {
    uint8_t kind = qdr_json_peek(json);
    if (kind == 't' || kind == 'f') {
        json->at += kind == 't' ? 4 : 5;
        return kind == 't';
    }
    qdr_json_fail(json, "expected true or false");
    return false;
}

uint32_t qdr_json_u32(qdr_json *json, uint32_t least, uint32_t most) {
    const uint8_t *at = json->at;
    uint8_t kind = qdr_json_peek(json);
    uint64_t value = 0;
    if (kind < '0' || kind > '9') {
        qdr_json_fail(json, "expected a whole number that is not negative");
        return 0;
    }
    while (at != json->end && *at >= '0' && *at <= '9' && value <= most) {
        value = value * 10 + (uint64_t)(*at - '0');
        at++;
    }
    if (value < least || value > most) {
        qdr_json_fail(json, "a number out of range");
        return 0;
    }
    json->at = at;
    return (uint32_t)value;
}

double qdr_json_float(qdr_json *json) {
    const uint8_t *start = json->at;
    qdr_text text = qdr_json_string(json);
    double value = 0;
    if (json->what == NULL && !qdr_decimal_read(text, &value)) {
        json->at = start;
        qdr_json_fail(json, "not a number in its shortest exact form");
    }
    return value;
}

void qdr_json_sha256(qdr_json *json, uint8_t digest[QDR_SHA256_BYTES]) {
    const uint8_t *start = json->at;
    qdr_text text = qdr_json_string(json);
    if (json->what == NULL && !qdr_text_hex(text, digest, QDR_SHA256_BYTES)) {
        json->at = start;
        qdr_json_fail(json, "not a SHA-256");
    }
}

/* Skip a value; `*deepest` receives the largest depth of a value in it, its own being 0. */
static qdr_view skip(qdr_json *json, unsigned *deepest) {
    const uint8_t *start = json->at;
    unsigned depth = 0;
    *deepest = 0;
    do {
        uint8_t kind = qdr_json_peek(json);
        if (kind == '"') {
            (void)qdr_json_string(json);
        } else if (kind == 0) {
            qdr_json_fail(json, "a value without an end");
        } else {
            json->at++;
        }
        if (kind == '{' || kind == '[') {
            uint8_t inner = qdr_json_peek(json);
            depth++;
            if (inner != '}' && inner != ']' && depth > *deepest) {
                *deepest = depth;
            }
        } else if (kind == '}' || kind == ']') {
            depth--;
        } else if (depth == 0 && kind != '"') {
            /* The rest of a number or of a literal. */
            uint8_t next = qdr_json_peek(json);
            while (next != ',' && next != '}' && next != ']' && next != 0) {
                json->at++;
                next = qdr_json_peek(json);
            }
        }
    } while (depth > 0 && json->what == NULL);
    if (json->what != NULL) {
        return NO_VIEW;
    }
    qdr_view whole = {start, (size_t)(json->at - start)};
    return whole;
}

qdr_view qdr_json_any(qdr_json *json) {
    unsigned deepest;
    return skip(json, &deepest);
}

qdr_view qdr_json_tree(qdr_json *json) {
    const uint8_t *start = json->at;
    unsigned deepest = 0;
    if (qdr_json_peek(json) != '{') {
        qdr_json_fail(json, "expected an object");
        return NO_VIEW;
    }
    qdr_view whole = skip(json, &deepest);
    if (json->what == NULL && deepest > TREE_DEPTH) {
        json->at = start;
        qdr_json_fail(json, "a tree that is nested too deeply");
    }
    return json->what == NULL ? whole : NO_VIEW;
}

bool qdr_json_field(qdr_json *json, const char *const *fields, unsigned count, uint32_t *seen,
                    unsigned *which) {
    if (!qdr_json_more(json)) {
        return false;
    }
    const uint8_t *start = json->at;
    qdr_text key = qdr_json_key(json);
    for (unsigned k = 0; k < count && json->what == NULL; k++) {
        if (qdr_text_equal(key, qdr_text_of(fields[k]))) {
            *seen |= UINT32_C(1) << k;
            *which = k;
            return true;
        }
    }
    if (json->what == NULL) {
        json->at = start;
        qdr_json_fail(json, "an unknown field");
    }
    return false;
}

void qdr_json_need(qdr_json *json, uint32_t seen, uint32_t needed) {
    if ((seen & needed) != needed) {
        qdr_json_fail(json, "a field is missing before this place");
    }
}

void qdr_json_expect(qdr_json *json, const char *expected) {
    if (!qdr_text_equal(qdr_json_string(json), qdr_text_of(expected))) {
        qdr_json_fail(json, "a field with only one allowed value has another");
    }
}
