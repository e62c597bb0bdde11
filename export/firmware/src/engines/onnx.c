/* Field numbers are those of onnx.proto; the wire format is protobuf's. */
#include "onnx.h"

static const char DAMAGED[] = "not an ONNX file, or damaged";

enum { VARINT = 0, FIXED64 = 1, LENGTH = 2, FIXED32 = 5 };
enum { INT8 = 3 };

/* A message that is read field by field. */
typedef struct message {
    const uint8_t *at;
    const uint8_t *end;
    const char *why; /* NULL until something is wrong */
} message;

typedef struct field {
    uint64_t number;
    uint64_t integer; /* of a varint */
    qdr_view bytes;   /* of text or a nested message; empty of anything else */
} field;

static message message_of(qdr_view bytes) {
    return (message){bytes.bytes, bytes.bytes + bytes.size, NULL};
}

static uint64_t varint(message *m) {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64; shift += 7) {
        if (m->at == m->end) {
            break;
        }
        uint8_t byte = *m->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    m->why = DAMAGED;
    return 0;
}

/* The next field; false behind the last, or where something is wrong. */
static bool next(message *m, field *out) {
    if (m->why != NULL || m->at == m->end) {
        return false;
    }
    uint64_t key = varint(m);
    size_t size = 0;
    *out = (field){.number = key >> 3};
    switch (key & 7) {
    case VARINT:
        out->integer = varint(m);
        break;
    case LENGTH:
        size = (size_t)varint(m);
        break;
    case FIXED64:
        size = 8;
        break;
    case FIXED32:
        size = 4;
        break;
    default:
        m->why = DAMAGED;
    }
    /* Other parsers keep the low bits of a key that is too large, and would see another field. */
    if (m->why != NULL || out->number == 0 || out->number >= 1u << 29 ||
        size > (size_t)(m->end - m->at)) {
        m->why = DAMAGED;
        return false;
    }
    out->bytes = (qdr_view){m->at, (key & 7) == LENGTH ? size : 0};
    m->at += size;
    return true;
}

uint32_t qdr_largest_s8(const uint8_t *codes, size_t size) {
    uint32_t largest = 0;
    for (size_t k = 0; k < size; k++) {
        uint32_t magnitude = codes[k] < 128 ? codes[k] : 256u - codes[k];
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

static const char *look_at_tensor(qdr_view bytes, uint32_t *largest) {
    message m = message_of(bytes);
    bool is_int8 = false, one_by_one = false;
    uint32_t found = 0;
    field f;
    while (next(&m, &f)) {
        if (f.number == 13 || (f.number == 14 && f.integer != 0)) {
            return "it keeps a tensor's data in another file";
        }
        is_int8 = f.number == 2 ? f.integer == INT8 : is_int8;
        one_by_one = one_by_one || f.number == 5;
        found = f.number == 9 ? qdr_largest_s8(f.bytes.bytes, f.bytes.size) : found;
    }
    /* A file of another maker may hold codes one by one: then the worst is taken. */
    found = one_by_one ? 128 : found;
    if (is_int8 && found > *largest) {
        *largest = found;
    }
    return m.why;
}

static const char *look_at_attribute(qdr_view bytes, uint32_t *largest) {
    message m = message_of(bytes);
    field f;
    while (next(&m, &f)) {
        if (f.number == 6 || f.number == 11 || f.number == 22 || f.number == 23) {
            return "it has a subgraph or sparse tensor in an attribute";
        }
        if (f.number == 5 || f.number == 10) {
            m.why = look_at_tensor(f.bytes, largest);
        }
    }
    return m.why;
}

static const char *look_at_node(qdr_view bytes, uint32_t *largest) {
    message m = message_of(bytes);
    field f;
    while (next(&m, &f)) {
        if (f.number == 5) {
            m.why = look_at_attribute(f.bytes, largest);
        }
    }
    return m.why;
}

static const char *look_at_graph(qdr_view bytes, uint32_t *largest) {
    message m = message_of(bytes);
    field f;
    while (next(&m, &f)) {
        if (f.number == 15) {
            return "it has a sparse initializer";
        }
        if (f.number == 1) {
            m.why = look_at_node(f.bytes, largest);
        } else if (f.number == 5) {
            m.why = look_at_tensor(f.bytes, largest);
        }
    }
    return m.why;
}

const char *qdr_onnx_look(qdr_view model, uint32_t *largest) {
    message m = message_of(model);
    field f;
    uint32_t graphs = 0;
    *largest = 0;
    while (next(&m, &f)) {
        if (f.number == 20 || f.number == 25) {
            return "it has training information or local functions";
        }
        if (f.number == 7) {
            graphs++;
            m.why = look_at_graph(f.bytes, largest);
        }
    }
    return m.why != NULL ? m.why : graphs == 1 ? NULL : DAMAGED;
}
