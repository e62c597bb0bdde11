#include <string.h>

#include "json.h"

static bool is_letter_or_digit(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static int digit_of(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

qdr_text qdr_text_of(const char *string) {
    qdr_text text = {(const uint8_t *)string, strlen(string)};
    return text;
}

bool qdr_text_equal(qdr_text a, qdr_text b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.bytes, b.bytes, a.size) == 0);
}

bool qdr_text_is_name(qdr_text text) {
    if (text.size < 1 || text.size > 128 || !is_letter_or_digit(text.bytes[0])) {
        return false;
    }
    for (size_t i = 1; i < text.size; i++) {
        uint8_t c = text.bytes[i];
        if (!is_letter_or_digit(c) && c != '.' && c != '_' && c != '+' && c != '-') {
            return false;
        }
    }
    return true;
}

int qdr_text_next(qdr_text text, size_t *at) {
    size_t i = *at;
    if (i >= text.size) {
        return -1;
    }
    uint8_t c = text.bytes[i];
    if (c != '\\' || text.size - i < 2) {
        *at = i + 1;
        return c;
    }
    *at = i + 2;
    switch (text.bytes[i + 1]) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'u': {
        int high = text.size - i < 6 ? -1 : digit_of(text.bytes[i + 4]);
        int low = text.size - i < 6 ? -1 : digit_of(text.bytes[i + 5]);
        if (high >= 0 && low >= 0) {
            *at = i + 6;
            return high * 16 + low;
        }
        return 'u';
    }
    default:
        return text.bytes[i + 1];
    }
}

size_t qdr_text_length(qdr_text text) {
    size_t length = 0;
    size_t at = 0;
    for (int c = qdr_text_next(text, &at); c >= 0; c = qdr_text_next(text, &at)) {
        /* Bytes 10xxxxxx continue a character. */
        length += (c & 0xc0) == 0x80 ? 0 : 1;
    }
    return length;
}

bool qdr_text_hex(qdr_text text, uint8_t *out, size_t size) {
    if (text.size != 2 * size) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        int high = digit_of(text.bytes[2 * i]);
        int low = digit_of(text.bytes[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

qdr_status qdr_text_copy(qdr_text text, char *out, size_t size, size_t *length) {
    size_t at = 0;
    size_t used = 0;
    if (out == NULL || (text.bytes == NULL && text.size > 0)) {
        return QDR_BAD_ARGUMENT;
    }
    for (int c = qdr_text_next(text, &at); c >= 0; c = qdr_text_next(text, &at)) {
        uint8_t byte = (uint8_t)c;
        if (used == size) {
            return QDR_NO_SPACE;
        }
        memcpy(out + used, &byte, 1);
        used++;
    }
    if (used == size) {
        return QDR_NO_SPACE;
    }
    out[used] = '\0';
    if (length != NULL) {
        *length = used;
    }
    return QDR_OK;
}
