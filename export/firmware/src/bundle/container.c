#include "container.h"

#include <string.h>

/* PKWARE APPNOTE 4.3.7, 4.3.12 and 4.3.16. */
#define LOCAL_BYTES 30u
#define CENTRAL_BYTES 46u
#define END_BYTES 22u
#define VERSION 20u
#define DATE 0x21u /* 1980-01-01, the earliest date the format can say */

static const char MANIFEST_NAME[] = "manifest.json";
static const char SIGNATURE_NAME[] = "manifest.sig";

static qdr_status malformed(qdr_bundle_error *where, const char *what, size_t offset) {
    where->what = what;
    where->offset = offset;
    return QDR_BAD_BUNDLE;
}

static uint32_t load_le16(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t load_le32(const uint8_t *bytes) {
    return load_le16(bytes) | load_le16(bytes + 2) << 16;
}

static uint8_t *store_le(uint8_t *out, uint32_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        *out++ = (uint8_t)(value >> (8 * i) & 0xff);
    }
    return out;
}

/* The 26 bytes that both headers of an entry share, from "version needed" on. */
static uint8_t *store_shared(uint8_t *out, uint32_t crc, uint32_t size, uint32_t name_size) {
    out = store_le(out, VERSION, 2);
    out = store_le(out, 0, 2); /* flags */
    out = store_le(out, 0, 2); /* stored */
    out = store_le(out, 0, 2); /* time */
    out = store_le(out, DATE, 2);
    out = store_le(out, crc, 4);
    out = store_le(out, size, 4);
    out = store_le(out, size, 4);
    out = store_le(out, name_size, 2);
    return store_le(out, 0, 2); /* extra field */
}

static bool local_header_is(const uint8_t *header, uint32_t crc, uint32_t size,
                            uint32_t name_size) {
    uint8_t expected[LOCAL_BYTES];
    (void)store_shared(store_le(expected, 0x04034b50u, 4), crc, size, name_size);
    return memcmp(header, expected, sizeof expected) == 0;
}

static bool central_header_is(const uint8_t *header, uint32_t crc, uint32_t size,
                              uint32_t name_size, uint32_t offset) {
    /* Every field with only one allowed value is checked at once by writing the header again.
     * The attributes stay 0: no permissions and no links can be expressed. */
    uint8_t expected[CENTRAL_BYTES] = {0};
    uint8_t *out = store_le(expected, 0x02014b50u, 4);
    out = store_le(out, VERSION, 2);
    (void)store_shared(out, crc, size, name_size);
    (void)store_le(expected + CENTRAL_BYTES - 4, offset, 4);
    return memcmp(header, expected, sizeof expected) == 0;
}

static bool is_letter_or_digit(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* A short relative path over a fixed alphabet, no part empty or starting with "." or "-". */
static bool name_is_allowed(qdr_text name) {
    bool first = true;
    if (name.size > QDR_MAX_NAME_BYTES) {
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        uint8_t c = name.bytes[i];
        if (c == '/' && !first) {
            first = true;
        } else if (is_letter_or_digit(c) || c == '_' || (!first && (c == '.' || c == '-'))) {
            first = false;
        } else {
            return false;
        }
    }
    return !first;
}

static unsigned rank(qdr_text name) {
    if (qdr_text_equal(name, qdr_text_of(MANIFEST_NAME))) {
        return 0;
    }
    return qdr_text_equal(name, qdr_text_of(SIGNATURE_NAME)) ? 1 : 2;
}

/* The only order of entries: manifest, signature, all others by name; so no name occurs twice. */
static bool stands_before(qdr_text a, qdr_text b) {
    unsigned first = rank(a);
    unsigned second = rank(b);
    if (first != second) {
        return first < second;
    }
    int order = memcmp(a.bytes, b.bytes, a.size < b.size ? a.size : b.size);
    return order != 0 ? order < 0 : a.size < b.size;
}

static qdr_status check_end(qdr_container *out, qdr_bundle_error *where) {
    if (out->size > QDR_MAX_BUNDLE_BYTES) {
        return malformed(where, "larger than a bundle may be", 0);
    }
    if (out->size < 4 || load_le32(out->content) != 0x04034b50u) {
        return malformed(where, "not a bundle: wrong first bytes", 0);
    }
    if (out->size < END_BYTES) {
        return malformed(where, "truncated: no end record", out->size);
    }
    size_t place = out->size - END_BYTES;
    const uint8_t *end = out->content + place;
    uint32_t count = load_le16(end + 10);
    uint32_t table_size = load_le32(end + 12);
    uint32_t table = load_le32(end + 16);
    if (load_le32(end) != 0x06054b50u) {
        return malformed(where, "truncated: no end record", place);
    }
    if (load_le32(end + 4) != 0 || load_le16(end + 8) != count || load_le16(end + 20) != 0) {
        return malformed(where, "end record with a comment, several disks or two counts", place);
    }
    if (count < 1 || count > QDR_MAX_ENTRIES) {
        return malformed(where, "too many entries or none", place);
    }
    if ((uint64_t)table + table_size != place) {
        return malformed(where, "the entry table does not end where the end record begins", place);
    }
    out->table = table;
    out->count = count;
    return QDR_OK;
}

/* Check the row at `*row` and the local header it names, which must stand at `*next`. */
static qdr_status check_row(const qdr_container *container, size_t *row, size_t *next,
                            qdr_text *name, qdr_bundle_error *where) {
    size_t limit = container->size - END_BYTES;
    size_t place = *row;
    if (limit - place < CENTRAL_BYTES) {
        return malformed(where, "the entry table is cut short", place);
    }
    const uint8_t *header = container->content + place;
    uint32_t crc = load_le32(header + 16);
    uint32_t size = load_le32(header + 20);
    uint32_t name_size = load_le16(header + 28);
    uint32_t offset = load_le32(header + 42);
    if (name_size > QDR_MAX_NAME_BYTES || limit - place - CENTRAL_BYTES < name_size) {
        return malformed(where, "an entry name that is too long", place);
    }
    name->bytes = header + CENTRAL_BYTES;
    name->size = name_size;
    if (!name_is_allowed(*name)) {
        return malformed(where, "an entry name that is not allowed", place);
    }
    if (size > (rank(*name) == 0 ? QDR_MAX_MANIFEST_BYTES : QDR_MAX_ENTRY_BYTES)) {
        return malformed(where, "an entry that is too large", place);
    }
    if (!central_header_is(header, crc, size, name_size, offset)) {
        return malformed(where, "a header of the table has a field that must be zero", place);
    }
    if (offset != *next) {
        return malformed(where, "a gap or overlap before an entry", place);
    }
    uint64_t stop = (uint64_t)offset + LOCAL_BYTES + name_size + size;
    if (stop > container->table) {
        return malformed(where, "an entry runs into the entry table", place);
    }
    const uint8_t *local = container->content + offset;
    if (!local_header_is(local, crc, size, name_size) ||
        memcmp(local + LOCAL_BYTES, name->bytes, name_size) != 0) {
        return malformed(where, "the two headers of an entry disagree", place);
    }
    *row = place + CENTRAL_BYTES + name_size;
    *next = (size_t)stop;
    return QDR_OK;
}

qdr_status qdr_container_check(qdr_container *out, const uint8_t *content, size_t size,
                               qdr_bundle_error *where) {
    out->content = content;
    out->size = size;
    qdr_status status = check_end(out, where);
    if (status != QDR_OK) {
        return status;
    }
    size_t row = out->table;
    size_t next = 0;
    qdr_text before = {NULL, 0};
    for (uint32_t k = 0; k < out->count; k++) {
        qdr_text name;
        size_t place = row;
        status = check_row(out, &row, &next, &name, where);
        if (status != QDR_OK) {
            return status;
        }
        if (k > 0 && !stands_before(before, name)) {
            return malformed(where, "entries are not in order, or a name occurs twice", place);
        }
        before = name;
    }
    if (row != size - END_BYTES) {
        return malformed(where, "bytes left over in the entry table", row);
    }
    return next == out->table ? QDR_OK : malformed(where, "a gap before the entry table", next);
}

qdr_entry qdr_container_entry(const qdr_container *container, size_t *row) {
    const uint8_t *header = container->content + *row;
    uint32_t name_size = load_le16(header + 28);
    qdr_entry entry;
    entry.name.bytes = header + CENTRAL_BYTES;
    entry.name.size = name_size;
    entry.content.bytes = container->content + load_le32(header + 42) + LOCAL_BYTES + name_size;
    entry.content.size = load_le32(header + 20);
    entry.crc32 = load_le32(header + 16);
    *row += CENTRAL_BYTES + name_size;
    return entry;
}

uint32_t qdr_crc32(const uint8_t *bytes, size_t size) {
    /* The reversed polynomial 0xedb88320, four bits at a time: 64 bytes of table are enough. */
    uint32_t table[16];
    for (uint32_t n = 0; n < 16; n++) {
        uint32_t value = n;
        for (unsigned bit = 0; bit < 4; bit++) {
            value = value >> 1 ^ (0xedb88320u & (0u - (value & 1u)));
        }
        table[n] = value;
    }
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15u];
        crc = crc >> 4 ^ table[crc & 15u];
    }
    return ~crc;
}
