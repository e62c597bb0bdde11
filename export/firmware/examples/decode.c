#include "decode.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

/* Room for an image; a failure is the application's, not the image's. */
static qdr_status make_room(decoded *to, uint32_t width, uint32_t height, uint32_t channels,
                            qdr_pixels_image *image) {
    size_t bytes = (size_t)width * height * channels;
    if (width < QDR_PIXELS_MIN_SIDE || height < QDR_PIXELS_MIN_SIDE ||
        width > QDR_PIXELS_MAX_SIDE || height > QDR_PIXELS_MAX_SIDE ||
        (size_t)width * height > QDR_PIXELS_MAX_PIXELS) {
        return QDR_BAD_IMAGE;
    }
    if (bytes > to->size) {
        uint8_t *larger = realloc(to->data, bytes);
        if (larger == NULL) {
            return QDR_NO_SPACE;
        }
        to->data = larger;
        to->size = bytes;
    }
    *image = (qdr_pixels_image){to->data, width, height, (size_t)width * channels, channels, 1};
    return QDR_OK;
}

typedef struct jpeg_trouble {
    struct jpeg_error_mgr manager;
    jmp_buf out;
} jpeg_trouble;

static void leave(j_common_ptr info) { longjmp(((jpeg_trouble *)info->err)->out, 1); }

/* A warning means that the file is damaged: a retina with a gray half is no input. */
static void warn(j_common_ptr info, int level) {
    if (level < 0) {
        leave(info);
    }
}

static uint32_t big_or_little(const uint8_t *at, uint32_t bytes, bool little) {
    uint32_t value = 0;
    for (uint32_t k = 0; k < bytes; k++) {
        value = value << 8 | at[little ? bytes - 1 - k : k];
    }
    return value;
}

/* The orientation in an EXIF marker, 1 if it has none. */
static uint32_t orientation_of(const struct jpeg_decompress_struct *jpeg) {
    for (jpeg_saved_marker_ptr m = jpeg->marker_list; m != NULL; m = m->next) {
        if (m->marker != JPEG_APP0 + 1 || m->data_length < 14 || memcmp(m->data, "Exif\0", 6) != 0) {
            continue;
        }
        const uint8_t *tiff = m->data + 6;
        uint32_t size = m->data_length - 6;
        bool little = tiff[0] == 'I';
        uint32_t at = big_or_little(tiff + 4, 4, little);
        uint32_t count = at + 2 <= size && at >= 8 ? big_or_little(tiff + at, 2, little) : 0;
        for (uint32_t k = 0; k < count && at + 2 + 12 * (k + 1) <= size; k++) {
            const uint8_t *tag = tiff + at + 2 + 12 * k;
            if (big_or_little(tag, 2, little) == 0x0112) {
                uint32_t value = big_or_little(tag + 8, 2, little);
                return value >= 1 && value <= 8 ? value : 1;
            }
        }
    }
    return 1;
}

static qdr_status decode_jpeg(decoded *to, const qdr_device *device, qdr_view content,
                              qdr_pixels_image *image) {
    struct jpeg_decompress_struct jpeg;
    jpeg_trouble trouble;
    jpeg.err = jpeg_std_error(&trouble.manager);
    trouble.manager.error_exit = leave;
    trouble.manager.emit_message = warn;
    if (setjmp(trouble.out) != 0) {
        jpeg_destroy_decompress(&jpeg);
        return QDR_BAD_IMAGE;
    }
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, content.bytes, (unsigned long)content.size);
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&jpeg, TRUE);
    if (jpeg.num_components != 1 && jpeg.num_components != 3) {
        longjmp(trouble.out, 1);
    }
    uint32_t side = device->decode_margin * device->pixels.size;
    jpeg.scale_num = jpeg.scale_denom = 1;
    for (uint32_t scale = 8; scale > 1; scale /= 2) {
        if (jpeg.image_width / scale >= side && jpeg.image_height / scale >= side) {
            jpeg.scale_denom = scale;
            break;
        }
    }
    jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&jpeg);
    qdr_status status = make_room(to, jpeg.output_width, jpeg.output_height,
                                  (uint32_t)jpeg.output_components, image);
    while (status == QDR_OK && jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW row = to->data + jpeg.output_scanline * image->stride;
        jpeg_read_scanlines(&jpeg, &row, 1);
    }
    if (status == QDR_OK) {
        image->orientation = orientation_of(&jpeg);
        jpeg_finish_decompress(&jpeg);
    }
    jpeg_destroy_decompress(&jpeg);
    return status;
}

static qdr_status decode_png(decoded *to, qdr_view content, qdr_pixels_image *image) {
    png_image png = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&png, content.bytes, content.size)) {
        return QDR_BAD_IMAGE;
    }
    qdr_status status = QDR_BAD_IMAGE;
    if ((png.format & (PNG_FORMAT_FLAG_ALPHA | PNG_FORMAT_FLAG_LINEAR)) == 0) {
        uint32_t channels = png.format & PNG_FORMAT_FLAG_COLOR ? 3 : 1;
        png.format = channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
        status = make_room(to, png.width, png.height, channels, image);
        if (status == QDR_OK &&
            !png_image_finish_read(&png, NULL, to->data, (png_int_32)image->stride, NULL)) {
            status = QDR_BAD_IMAGE;
        }
    }
    png_image_free(&png);
    return status;
}

qdr_status decode_image(void *context, const qdr_device *device, qdr_view content,
                        qdr_pixels_image *image) {
    decoded *to = context;
    if (content.size >= 3 && memcmp(content.bytes, "\xff\xd8\xff", 3) == 0) {
        return decode_jpeg(to, device, content, image);
    }
    if (content.size >= 8 && memcmp(content.bytes, "\x89PNG\r\n\x1a\n", 8) == 0) {
        return decode_png(to, content, image);
    }
    return QDR_BAD_IMAGE;
}
