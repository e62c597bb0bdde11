/* The bundle's container: a ZIP archive reduced to one valid form; see qdr_edge/container.py. */
#ifndef QDR_CONTAINER_H
#define QDR_CONTAINER_H

#include "qdr/bundle.h"

typedef struct qdr_container {
    const uint8_t *content;
    size_t size;
    size_t table;   /* where the entry table begins */
    uint32_t count; /* of entries */
} qdr_container;

typedef struct qdr_entry {
    qdr_text name;
    qdr_view content;
    uint32_t crc32;
} qdr_entry;

/* Check a container completely. QDR_BAD_BUNDLE: anything but the one valid form. */
qdr_status qdr_container_check(qdr_container *out, const uint8_t *content, size_t size,
                               qdr_bundle_error *where);

/* The entry whose row stands at `*row` of a container that was checked; `*row` moves behind it.
 * The first row stands at `table`.
 */
qdr_entry qdr_container_entry(const qdr_container *container, size_t *row);

/* The checksum of PKWARE's APPNOTE, 4.4.7. */
uint32_t qdr_crc32(const uint8_t *bytes, size_t size);

#endif
