#include "ir.h"

#include <string.h>

#include "onnx.h"

static const uint8_t MAGIC[8] = {'Q', 'D', 'R', 'I', 'R', 0, 0, 1};
enum { HEADER_BYTES = 16, MAX_XML_BYTES = 16 << 20 };

bool qdr_is_ir(qdr_view model) {
    return model.size >= sizeof MAGIC && memcmp(model.bytes, MAGIC, sizeof MAGIC) == 0;
}

/* The value of an attribute of a tag; {NULL, 0} if it has none. */
static qdr_view attribute(qdr_view tag, const char *name) {
    size_t length = strlen(name);
    for (size_t k = 0; k + length + 2 < tag.size; k++) {
        const uint8_t *at = tag.bytes + k;
        if (at[0] == ' ' && memcmp(at + 1, name, length) == 0 && at[1 + length] == '=' &&
            at[2 + length] == '"') {
            const uint8_t *begin = at + 3 + length;
            const uint8_t *end = memchr(begin, '"', (size_t)(tag.bytes + tag.size - begin));
            return end == NULL ? (qdr_view){NULL, 0} : (qdr_view){begin, (size_t)(end - begin)};
        }
    }
    return (qdr_view){NULL, 0};
}

static bool number(qdr_view text, size_t *out) {
    *out = 0;
    for (size_t k = 0; k < text.size; k++) {
        if (text.bytes[k] < '0' || text.bytes[k] > '9') {
            return false;
        }
        *out = *out * 10 + (size_t)(text.bytes[k] - '0');
    }
    return text.size > 0 && text.size <= 9; /* a bundle's entry is smaller */
}

/* A tag that places a constant: its offset and size must lie inside the weights. */
static const char *look_at_tag(qdr_view tag, qdr_view weights, uint32_t *largest) {
    static const char OUTSIDE[] = "a constant of its IR lies outside the weights";
    size_t offset, size;
    qdr_view where = attribute(tag, "offset"), type = attribute(tag, "element_type");
    if (where.bytes == NULL || type.bytes == NULL) {
        return NULL;
    }
    if (!number(where, &offset) || !number(attribute(tag, "size"), &size) ||
        offset > weights.size || size > weights.size - offset) {
        return OUTSIDE;
    }
    if (type.size == 2 && memcmp(type.bytes, "i8", 2) == 0) {
        uint32_t found = qdr_largest_s8(weights.bytes + offset, size);
        *largest = found > *largest ? found : *largest;
    }
    return NULL;
}

const char *qdr_ir_look(qdr_view model, qdr_view *xml, qdr_view *weights, uint32_t *largest) {
    static const char DAMAGED[] = "not an OpenVINO IR entry, or cut short";
    uint64_t length = 0;
    if (!qdr_is_ir(model) || model.size < HEADER_BYTES) {
        return DAMAGED;
    }
    for (size_t k = HEADER_BYTES; k > sizeof MAGIC; k--) {
        length = length << 8 | model.bytes[k - 1];
    }
    if (length > MAX_XML_BYTES || length > model.size - HEADER_BYTES) {
        return DAMAGED;
    }
    *xml = (qdr_view){model.bytes + HEADER_BYTES, (size_t)length};
    *weights = (qdr_view){xml->bytes + xml->size, model.size - HEADER_BYTES - xml->size};
    *largest = 0;
    const char *why = NULL;
    const uint8_t *at = xml->bytes, *end = xml->bytes + xml->size;
    while (why == NULL && (at = memchr(at, '<', (size_t)(end - at))) != NULL) {
        const uint8_t *close = memchr(at, '>', (size_t)(end - at));
        if (close == NULL) {
            return DAMAGED;
        }
        why = look_at_tag((qdr_view){at, (size_t)(close - at)}, *weights, largest);
        at = close;
    }
    return why;
}
