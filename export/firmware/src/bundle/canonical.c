#include <string.h>

#include "json.h"

typedef struct scanner {
    const uint8_t *raw;
    size_t size;
    size_t at;
} scanner;

/* One more than the last byte, so that no comparison needs to ask for the end first. */
static unsigned peek(const scanner *s) {
    return s->at < s->size ? s->raw[s->at] : 256u;
}

static bool scan_literal(scanner *s, const char *word) {
    size_t size = strlen(word);
    if (s->size - s->at < size || memcmp(s->raw + s->at, word, size) != 0) {
        return false;
    }
    s->at += size;
    return true;
}

static bool scan_integer(scanner *s) {
    bool negative = peek(s) == '-';
    s->at += negative ? 1 : 0;
    if (peek(s) == '0') {
        s->at++;
        return !negative;
    }
    size_t digits = 0;
    while (peek(s) >= '0' && peek(s) <= '9') {
        s->at++;
        digits++;
    }
    return digits >= 1 && digits <= QDR_JSON_DIGITS;
}

/* What stands behind a backslash: only what Python's encoder escapes, in the way it does. */
static bool scan_escape(scanner *s) {
    unsigned kind = peek(s);
    s->at++;
    if (kind == '"' || kind == '\\' || kind == 'b' || kind == 'f' || kind == 'n' || kind == 'r' ||
        kind == 't') {
        return true;
    }
    if (kind != 'u' || !scan_literal(s, "00")) {
        return false;
    }
    unsigned high = peek(s);
    s->at++;
    unsigned low = peek(s);
    s->at++;
    bool digit = low >= '0' && low <= '9';
    if (high == '1') {
        return digit || (low >= 'a' && low <= 'f');
    }
    /* 08, 09, 0a, 0c and 0d have the short forms above. */
    return high == '0' && ((digit && low < '8') || low == 'b' || low == 'e' || low == 'f');
}

/* One character of two to four bytes: RFC 3629's table of well-formed sequences. */
static bool scan_wide(scanner *s) {
    unsigned first = peek(s);
    unsigned least = 0x80;
    unsigned most = 0xbf;
    unsigned more;
    if (first >= 0xc2 && first <= 0xdf) {
        more = 1;
    } else if (first >= 0xe0 && first <= 0xef) {
        more = 2;
        least = first == 0xe0 ? 0xa0 : least;
        most = first == 0xed ? 0x9f : most;
    } else if (first >= 0xf0 && first <= 0xf4) {
        more = 3;
        least = first == 0xf0 ? 0x90 : least;
        most = first == 0xf4 ? 0x8f : most;
    } else {
        return false;
    }
    for (s->at++; more > 0; more--) {
        if (peek(s) < least || peek(s) > most) {
            return false;
        }
        s->at++;
        least = 0x80;
        most = 0xbf;
    }
    return true;
}

static bool scan_string(scanner *s, qdr_text *text) {
    if (peek(s) != '"') {
        return false;
    }
    s->at++;
    size_t start = s->at;
    while (peek(s) != '"') {
        unsigned c = peek(s);
        bool good;
        if (c == '\\') {
            s->at++;
            good = scan_escape(s);
        } else if (c >= 0x80) {
            good = scan_wide(s);
        } else {
            s->at++;
            good = c >= 0x20;
        }
        if (!good) {
            return false;
        }
    }
    text->bytes = s->raw + start;
    text->size = s->at - start;
    s->at++;
    return true;
}

static bool is_less(qdr_text a, qdr_text b) {
    size_t at_a = 0;
    size_t at_b = 0;
    int from_a;
    int from_b;
    do {
        from_a = qdr_text_next(a, &at_a);
        from_b = qdr_text_next(b, &at_b);
    } while (from_a == from_b && from_a >= 0);
    return from_a < from_b;
}

/* A key and its colon; it must follow the object's last key, which it replaces. */
static bool scan_key(scanner *s, qdr_text *last) {
    qdr_text key;
    if (!scan_string(s, &key) || peek(s) != ':' || (last->bytes != NULL && !is_less(*last, key))) {
        return false;
    }
    s->at++;
    *last = key;
    return true;
}

static bool scan_scalar(scanner *s) {
    qdr_text text;
    switch (peek(s)) {
    case '"':
        return scan_string(s, &text);
    case 't':
        return scan_literal(s, "true");
    case 'f':
        return scan_literal(s, "false");
    case 'n':
        return scan_literal(s, "null");
    default:
        return scan_integer(s);
    }
}

/* Values from where the scanner stands until the outermost object is closed. */
static bool scan_object(scanner *s) {
    unsigned closing[QDR_JSON_DEPTH];
    qdr_text last[QDR_JSON_DEPTH]; /* key of each open object */
    unsigned depth = 0;
    do {
        unsigned kind = peek(s);
        if (kind == '{' || kind == '[') {
            if (depth == QDR_JSON_DEPTH) {
                return false;
            }
            s->at++;
            closing[depth] = kind == '{' ? '}' : ']';
            last[depth].bytes = NULL;
            depth++;
            if (peek(s) != closing[depth - 1]) {
                if (kind == '{' && !scan_key(s, &last[depth - 1])) {
                    return false;
                }
                continue;
            }
        } else if (!scan_scalar(s)) {
            return false;
        }
        while (depth > 0 && peek(s) == closing[depth - 1]) {
            s->at++;
            depth--;
        }
        if (depth > 0) {
            if (peek(s) != ',') {
                return false;
            }
            s->at++;
            if (closing[depth - 1] == '}' && !scan_key(s, &last[depth - 1])) {
                return false;
            }
        }
    } while (depth > 0);
    return true;
}

bool qdr_json_is_canonical(const uint8_t *raw, size_t size, size_t *place) {
    scanner s = {raw, size, 0};
    bool good = peek(&s) == '{' && scan_object(&s) && s.at == size;
    *place = s.at < size ? s.at : size;
    return good;
}
