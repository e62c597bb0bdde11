/* JPEG and PNG to pixels by the rules of the preprocessing contract, with libjpeg and libpng.
 *
 * JPEG is decoded at the smallest DCT scale that leaves enough, as the contract says. Colour profiles
 * are not applied, and what the contract says of 16-bit, transparent and CMYK files is left out: such
 * a file is refused here, not decoded wrongly.
 */
#ifndef QDR_EXAMPLES_DECODE_H
#define QDR_EXAMPLES_DECODE_H

#include "qdr/qdr.h"

/* Pixels that belong to a decoder, until it decodes again. */
typedef struct decoded {
    uint8_t *data;
    size_t size;
} decoded;

/* As qdr_decoder's `decode`; `context` is a `decoded`, zero at first. */
qdr_status decode_image(void *context, const qdr_device *device, qdr_view content,
                        qdr_pixels_image *image);

#endif
