/* Whether a runtime's version is one that an artefact was proven for. */
#include "machine.h"

static bool is_digit(qdr_text text, size_t at) {
    return at < text.size && text.bytes[at] >= '0' && text.bytes[at] <= '9';
}

/* How much of a text reads as "1.20.3". */
static size_t version_length(qdr_text text) {
    size_t end = 0;
    while (is_digit(text, end)) {
        end++;
        if (end < text.size && text.bytes[end] == '.' && is_digit(text, end + 1)) {
            end++;
        }
    }
    return end;
}

/* The number at `*at`, which moves to the next one; 0 behind the last: 10.3 is 10.3.0. */
static uint32_t next_number(qdr_text version, size_t *at) {
    uint32_t value = 0;
    while (is_digit(version, *at)) {
        uint32_t digit = (uint32_t)(version.bytes[(*at)++] - '0');
        value = value > (UINT32_MAX - digit) / 10 ? UINT32_MAX : value * 10 + digit;
    }
    *at += *at < version.size ? 1 : 0;
    return value;
}

static bool is_less(qdr_text a, qdr_text b) {
    size_t i = 0, j = 0;
    while (i < a.size || j < b.size) {
        uint32_t x = next_number(a, &i), y = next_number(b, &j);
        if (x != y) {
            return x < y;
        }
    }
    return false;
}

static qdr_text trimmed(qdr_text text) {
    while (text.size > 0 && text.bytes[0] == ' ') {
        text = (qdr_text){text.bytes + 1, text.size - 1};
    }
    while (text.size > 0 && text.bytes[text.size - 1] == ' ') {
        text.size--;
    }
    return text;
}

/* One bound, such as ">=1.20" or "<2". */
static bool holds(qdr_text version, qdr_text bound) {
    bool least = bound.size > 1 && bound.bytes[0] == '>' && bound.bytes[1] == '=';
    if (!least && bound.bytes[0] != '<') {
        return false;
    }
    size_t sign = least ? 2 : 1;
    qdr_text limit = trimmed((qdr_text){bound.bytes + sign, bound.size - sign});
    if (limit.size == 0 || version_length(limit) != limit.size) {
        return false;
    }
    return is_less(version, limit) != least;
}

bool qdr_version_in(qdr_text version, qdr_text accepted) {
    version.size = version_length(version);
    while (accepted.size > 0) {
        size_t end = 0;
        while (end < accepted.size && accepted.bytes[end] != ',') {
            end++;
        }
        qdr_text bound = trimmed((qdr_text){accepted.bytes, end});
        if (bound.size > 0 && !holds(version, bound)) {
            return false;
        }
        end += end < accepted.size ? 1 : 0;
        accepted = (qdr_text){accepted.bytes + end, accepted.size - end};
    }
    return true;
}
