/* tests/data/tiny.qdr (make_data.py): whose signature it bears, and how its golden images are read. */
#ifndef QDR_TESTS_TINY_H
#define QDR_TESTS_TINY_H

#include "qdr/qdr.h"

/* The public half of the key whose seed is 32 bytes that count up: it signs samples alone. */
static const uint8_t TINY_KEY[1][QDR_KEY_BYTES] = {{
    0x03, 0xa1, 0x07, 0xbf, 0xf3, 0xce, 0x10, 0xbe, 0x1d, 0x70, 0xdd, 0x18, 0xe7, 0x4b, 0xc0, 0x99,
    0x67, 0xe4, 0xd6, 0x30, 0x9b, 0xa5, 0x0d, 0x5f, 0x1d, 0xdc, 0x86, 0x64, 0x12, 0x55, 0x31, 0xb8,
}};

/* Width and height in 16 bits, then RGB. */
static inline qdr_status decode_raw(void *context, const qdr_device *device, qdr_view content,
                                    qdr_pixels_image *image) {
    (void)context;
    (void)device;
    if (content.size < 4) {
        return QDR_BAD_IMAGE;
    }
    uint32_t width = content.bytes[0] | (uint32_t)content.bytes[1] << 8;
    uint32_t height = content.bytes[2] | (uint32_t)content.bytes[3] << 8;
    if (content.size - 4 != (size_t)3 * width * height) {
        return QDR_BAD_IMAGE;
    }
    *image = (qdr_pixels_image){content.bytes + 4, width, height, (size_t)3 * width, 3, 1};
    return QDR_OK;
}

#endif
