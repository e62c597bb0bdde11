/* For jpeg_path.py: a JPEG to the network's input as examples/screen.c does it, without a bundle. */
#include "decode.h"

int jpeg_path(decoded *room, const qdr_pixels_spec *spec, uint32_t decode_margin,
              const uint8_t *content, size_t size, void *scratch, size_t scratch_bytes,
              uint8_t *pixels);

int jpeg_path(decoded *room, const qdr_pixels_spec *spec, uint32_t decode_margin,
              const uint8_t *content, size_t size, void *scratch, size_t scratch_bytes,
              uint8_t *pixels) {
    /* All that the decoder wants of a device. */
    static qdr_device device;
    qdr_pixels_image image;
    device.pixels = *spec;
    device.decode_margin = decode_margin;
    qdr_status status = decode_image(room, &device, (qdr_view){content, size}, &image);
    if (status == QDR_OK) {
        status = qdr_pixels_prepare(spec, &image, scratch, scratch_bytes, pixels);
    }
    return (int)status;
}
