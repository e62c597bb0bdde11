#include <string.h>

#include "container.h"
#include "manifest.h"
#include "signature.h"

#define SIGNATURE_ENTRY_BYTES (QDR_KEY_ID_BYTES + QDR_SIGNATURE_BYTES)

static qdr_status refused(qdr_bundle_error *where, qdr_status status, const char *what,
                          size_t offset) {
    where->what = what;
    where->offset = offset;
    return status;
}

static size_t place_of(const qdr_container *container, qdr_view view) {
    return (size_t)(view.bytes - container->content);
}

/* The manifest's bytes, whose signature by a trusted key was verified. `*row` moves behind both. */
static qdr_status verified_manifest(const qdr_container *container, const qdr_trust *trust,
                                    size_t *row, qdr_view *manifest,
                                    uint8_t key_id[QDR_KEY_ID_BYTES], qdr_bundle_error *where) {
    /* The order of entries was checked: these two can stand nowhere else. */
    qdr_entry first = qdr_container_entry(container, row);
    if (!qdr_text_equal(first.name, qdr_text_of("manifest.json"))) {
        return refused(where, QDR_BAD_BUNDLE, "no manifest.json", 0);
    }
    qdr_entry second = first;
    if (container->count > 1) {
        second = qdr_container_entry(container, row);
    }
    if (!qdr_text_equal(second.name, qdr_text_of("manifest.sig"))) {
        return refused(where, QDR_BAD_SIGNATURE, "the bundle is unsigned", 0);
    }
    size_t place = place_of(container, second.content);
    if (second.content.size != SIGNATURE_ENTRY_BYTES) {
        return refused(where, QDR_BAD_SIGNATURE, "a signature of another length", place);
    }
    const uint8_t *signature = second.content.bytes;
    if (!qdr_trust_vouches(trust, signature, signature + QDR_KEY_ID_BYTES, first.content)) {
        return refused(where, QDR_BAD_SIGNATURE, "no trusted key signed this manifest", place);
    }
    memcpy(key_id, signature, QDR_KEY_ID_BYTES);
    *manifest = first.content;
    return QDR_OK;
}

/* The listed and the present entries are the same and not none. Both are sorted by name. */
static qdr_status check_listed(const qdr_container *container, size_t row,
                               const qdr_manifest *manifest, qdr_bundle_error *where) {
    qdr_json json = qdr_json_over(manifest->entries);
    qdr_record record;
    qdr_json_enter(&json, '{');
    for (uint32_t k = 2; k < container->count; k++) {
        qdr_entry entry = qdr_container_entry(container, &row);
        if (!qdr_next_record(&json, &record) || !qdr_text_equal(record.name, entry.name)) {
            return refused(where, QDR_BAD_BUNDLE, "an entry is not listed, or a listed one missing",
                           place_of(container, entry.content));
        }
    }
    if (qdr_next_record(&json, &record)) {
        return refused(where, QDR_BAD_BUNDLE, "a listed entry is missing", 0);
    }
    if (container->count <= 2) {
        return refused(where, QDR_BAD_BUNDLE, "the bundle holds no model", 0);
    }
    return QDR_OK;
}

static qdr_status check_contents(const qdr_container *container, size_t row,
                                 const qdr_manifest *manifest, qdr_bundle_error *where) {
    qdr_json json = qdr_json_over(manifest->entries);
    qdr_record record;
    qdr_json_enter(&json, '{');
    for (uint32_t k = 2; k < container->count && qdr_next_record(&json, &record); k++) {
        qdr_view content = qdr_container_entry(container, &row).content;
        uint8_t digest[QDR_SHA256_BYTES];
        qdr_sha256(content.bytes, content.size, digest);
        if (content.size != record.size || memcmp(digest, record.sha256, sizeof digest) != 0) {
            return refused(where, QDR_BAD_SIGNATURE, "an entry is not what the manifest says",
                           place_of(container, content));
        }
    }
    row = container->table;
    for (uint32_t k = 0; k < container->count; k++) {
        qdr_entry entry = qdr_container_entry(container, &row);
        if (qdr_crc32(entry.content.bytes, entry.content.size) != entry.crc32) {
            return refused(where, QDR_BAD_BUNDLE, "an entry's checksum does not match its content",
                           place_of(container, entry.content));
        }
    }
    return QDR_OK;
}

/* The steps of docs/bundle-format.md, in its order. */
static qdr_status verify(qdr_bundle *out, const qdr_container *container, const qdr_trust *trust,
                         uint32_t minimum_security_version, qdr_bundle_error *where) {
    qdr_manifest *manifest = &out->manifest;
    size_t row = container->table;
    qdr_view raw = {NULL, 0};
    qdr_status status = verified_manifest(container, trust, &row, &raw, out->key_id, where);
    if (status != QDR_OK) {
        return status;
    }
    size_t place = place_of(container, raw);
    status = qdr_manifest_read(manifest, raw.bytes, raw.size, where);
    if (status != QDR_OK) {
        where->offset += place;
        return status;
    }
    if (!manifest->signed_by_key ||
        memcmp(manifest->key_id, out->key_id, QDR_KEY_ID_BYTES) != 0) {
        return refused(where, QDR_BAD_SIGNATURE, "manifest and signature name different keys",
                       place);
    }
    if (manifest->security_version < minimum_security_version) {
        return refused(where, QDR_ROLLBACK, "older than this device accepts", place);
    }
    status = check_listed(container, row, manifest, where);
    return status == QDR_OK ? check_contents(container, row, manifest, where) : status;
}

qdr_status qdr_bundle_open(qdr_bundle *out, const uint8_t *content, size_t size,
                           const qdr_trust *trust, uint32_t minimum_security_version,
                           qdr_bundle_error *where) {
    qdr_bundle_error unused;
    qdr_container container;
    if (out == NULL || content == NULL || trust == NULL ||
        (trust->keys == NULL && trust->count > 0)) {
        return QDR_BAD_ARGUMENT;
    }
    where = where == NULL ? &unused : where;
    where->what = "";
    where->offset = 0;
    memset(out, 0, sizeof *out);
    qdr_status status = qdr_container_check(&container, content, size, where);
    if (status == QDR_OK) {
        status = verify(out, &container, trust, minimum_security_version, where);
    }
    if (status != QDR_OK) {
        memset(out, 0, sizeof *out);
        return status;
    }
    out->content = content;
    out->size = size;
    out->table = container.table;
    out->count = container.count;
    return QDR_OK;
}

qdr_status qdr_bundle_entry(const qdr_bundle *bundle, qdr_text name, qdr_view *out) {
    if (bundle == NULL || out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    qdr_container container = {bundle->content, bundle->size, bundle->table, bundle->count};
    size_t row = container.table;
    for (uint32_t k = 0; k < container.count; k++) {
        qdr_entry entry = qdr_container_entry(&container, &row);
        if (qdr_text_equal(entry.name, name)) {
            *out = entry.content;
            return QDR_OK;
        }
    }
    out->bytes = NULL;
    out->size = 0;
    return QDR_BAD_BUNDLE;
}
