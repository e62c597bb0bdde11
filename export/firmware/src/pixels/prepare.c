/* The contract from end to end: orientation, white frame, field of view, resize, colour. */
#include <string.h>

#include "pixels_internal.h"

void *qdr_arena_take(qdr_arena *arena, size_t count, size_t item_bytes) {
    const size_t begin = (arena->used + 7) / 8 * 8;
    arena->used = begin + count * item_bytes;
    return arena->base ? arena->base + begin : NULL;
}

/* Volatile, so that the compiler computes as it would with pixels: fused, the small term of the
 * product survives the rounding that should have cut it off. */
bool qdr_pixels_arithmetic_is_exact(void) {
    volatile float single_factor = 1.0f + 0x1p-12f, single_term = -(1.0f + 0x1p-11f);
    volatile double factor = 1.0 + 0x1p-27, term = -(1.0 + 0x1p-26);
    const float a = single_factor, b = single_term;
    const double c = factor, d = term;
    return a * a + b == 0.0f && c * c + d == 0.0;
}

qdr_pixel_view qdr_pixel_view_crop(const qdr_pixel_view *view, qdr_box box) {
    qdr_pixel_view crop = *view;
    crop.origin += (ptrdiff_t)box.top * view->row + (ptrdiff_t)box.left * view->step;
    crop.height = box.bottom - box.top;
    crop.width = box.right - box.left;
    return crop;
}

const uint8_t *qdr_pixel_view_row(const qdr_pixel_view *view, uint32_t y, uint8_t *gathered) {
    const uint8_t *from = view->origin + (ptrdiff_t)y * view->row;
    if (view->step == (ptrdiff_t)view->channels) {
        return from;
    }
    uint8_t *to = gathered;
    for (uint32_t x = 0; x < view->width; x++, from += view->step) {
        for (uint32_t channel = 0; channel < view->channels; channel++) {
            *to++ = from[channel];
        }
    }
    return gathered;
}

/* The picture as EXIF wants it shown. */
static qdr_pixel_view view_of(const qdr_pixels_image *image) {
    const ptrdiff_t stride = (ptrdiff_t)image->stride, step = (ptrdiff_t)image->channels;
    const ptrdiff_t down = (ptrdiff_t)(image->height - 1) * stride;
    const ptrdiff_t across = (ptrdiff_t)(image->width - 1) * step;
    const uint32_t turn = image->orientation;
    const bool from_right = turn == 2 || turn == 3 || turn == 7 || turn == 8;
    const bool from_below = turn == 3 || turn == 4 || turn == 6 || turn == 7;
    const ptrdiff_t column = from_right ? -step : step;
    const ptrdiff_t row = from_below ? -stride : stride;
    qdr_pixel_view view = {image->data, row, column, image->width, image->height, image->channels};
    view.origin += (from_right ? across : 0) + (from_below ? down : 0);
    if (turn >= 5) {
        view.row = column;
        view.step = row;
        view.width = image->height;
        view.height = image->width;
    }
    return view;
}

qdr_status qdr_pixels_check_spec(const qdr_pixels_spec *spec) {
    if (!spec) {
        return QDR_BAD_ARGUMENT;
    }
    if (spec->version != QDR_PIXELS_VERSION) {
        return QDR_UNSUPPORTED;
    }
    const bool good =
        (spec->modality == QDR_PIXELS_FUNDUS || spec->modality == QDR_PIXELS_OCT) &&
        spec->size >= 32 && spec->size <= QDR_PIXELS_MAX_SIZE && spec->clahe_tiles >= 1 &&
        spec->clahe_tiles <= 32 && spec->size % spec->clahe_tiles == 0 &&
        spec->window_low < spec->window_high && spec->window_high <= 65535 &&
        spec->clahe_clip_x100 >= 1 && spec->clahe_clip_x100 <= 10000 &&
        (spec->median_kernel == 3 || spec->median_kernel == 5);
    return good ? QDR_OK : QDR_BAD_ARGUMENT;
}

static bool sides_fit(uint32_t width, uint32_t height) {
    return width >= QDR_PIXELS_MIN_SIDE && width <= QDR_PIXELS_MAX_SIDE &&
           height >= QDR_PIXELS_MIN_SIDE && height <= QDR_PIXELS_MAX_SIDE &&
           width * height <= QDR_PIXELS_MAX_PIXELS;
}

size_t qdr_pixels_scratch_bytes(const qdr_pixels_spec *spec, uint32_t width, uint32_t height) {
    if (qdr_pixels_check_spec(spec) != QDR_OK || !sides_fit(width, height)) {
        return 0;
    }
    /* The widest row that a crop of the picture, stored or turned, can have. */
    const uint32_t side = qdr_max_u32(width, height);
    const qdr_pixel_view view = {NULL, 0, 0, side, side, 3};
    qdr_resize resize;
    qdr_arena fit = {NULL, 0}, detect = {NULL, 0}, colour = {NULL, 0};
    qdr_arena_take(&fit, (size_t)spec->size * 3, 1);
    qdr_resize_open(&resize, &fit, &view, spec->size, spec->size, true, true);
    size_t most = fit.used;
    /* As colour or gray: the larger of the two. */
    fit.used = 0;
    qdr_arena_take(&fit, (size_t)spec->size * 3, 1);
    qdr_resize_open(&resize, &fit, &view, spec->size, spec->size, true, false);
    most = most > fit.used ? most : fit.used;
    if (spec->modality == QDR_PIXELS_FUNDUS) {
        const uint32_t limit = QDR_PIXELS_DETECTION_SIDE;
        const uint32_t rows = qdr_min_u32(side, limit);
        qdr_detection_open(&(qdr_detection){0}, &detect, &view, rows, rows);
        qdr_clahe_open(&(qdr_clahe){0}, &colour, spec);
        most = most > detect.used ? most : detect.used;
        most = most > colour.used ? most : colour.used;
    }
    return most + 7; /* the caller's block may start anywhere */
}

/* The picture on a black square, its longer side filling it; planes: uint8 [3, size, size], of
 * which a gray result fills the first. */
static void fit(const qdr_pixel_view *picture, const qdr_pixels_spec *spec, qdr_arena arena,
                uint8_t *planes) {
    const uint32_t size = spec->size;
    const uint32_t longer = qdr_max_u32(picture->height, picture->width);
    const uint32_t rows = qdr_max_u32(1, (2 * picture->height * size + longer) / (2 * longer));
    const uint32_t columns = qdr_max_u32(1, (2 * picture->width * size + longer) / (2 * longer));
    const bool to_gray = spec->modality == QDR_PIXELS_OCT;
    uint8_t *row = qdr_arena_take(&arena, (size_t)columns * 3, 1);
    qdr_resize resize;
    qdr_resize_open(&resize, &arena, picture, columns, rows, longer >= size, to_gray);
    const size_t plane_bytes = (size_t)size * size;
    const size_t corner = (size_t)((size - rows) / 2) * size + (size - columns) / 2;
    memset(planes, 0, plane_bytes * resize.channels);
    for (uint32_t y = 0; y < rows; y++) {
        qdr_resize_row(&resize, y, row);
        uint8_t *to = planes + corner + (size_t)y * size;
        for (uint32_t channel = 0; channel < resize.channels; channel++, to += plane_bytes) {
            for (uint32_t x = 0; x < columns; x++) {
                to[x] = row[(size_t)x * resize.channels + channel];
            }
        }
    }
}

static void prepare_fundus(const qdr_pixels_spec *spec, const qdr_pixel_view *picture,
                           qdr_arena arena, uint8_t *out) {
    const size_t plane = (size_t)spec->size * spec->size;
    const qdr_pixel_view disc = qdr_pixel_view_crop(picture, qdr_field_of_view(picture, arena));
    fit(&disc, spec, arena, out);
    if (picture->channels == 1) {
        memcpy(out + plane, out, plane);
        memcpy(out + 2 * plane, out, plane);
    }
    qdr_rgb_to_lab(out, out + plane, out + 2 * plane, plane);
    qdr_clahe clahe;
    qdr_clahe_open(&clahe, &arena, spec);
    qdr_clahe_apply(&clahe, spec, out);
    qdr_lab_to_rgb(out, out + plane, out + 2 * plane, plane);
}

static void prepare_oct(const qdr_pixels_spec *spec, const qdr_pixel_view *picture, qdr_arena arena,
                        uint8_t *out) {
    const size_t plane = (size_t)spec->size * spec->size;
    fit(picture, spec, arena, out);
    if (spec->median_kernel == 3) {
        qdr_median_3(out, spec->size, spec->size, out + plane);
    } else {
        qdr_median_5(out, spec->size, spec->size, out + plane);
    }
    memcpy(out, out + plane, plane);
    memcpy(out + 2 * plane, out + plane, plane);
}

qdr_status qdr_pixels_prepare(const qdr_pixels_spec *spec, const qdr_pixels_image *image,
                              void *scratch, size_t scratch_bytes, uint8_t *out) {
    const qdr_status checked = qdr_pixels_check_spec(spec);
    if (checked != QDR_OK) {
        return checked;
    }
    if (!image || !image->data || !scratch || !out) {
        return QDR_BAD_ARGUMENT;
    }
    if (!sides_fit(image->width, image->height)) {
        return QDR_BAD_IMAGE;
    }
    if ((image->channels != 1 && image->channels != 3) || image->orientation < 1 ||
        image->orientation > 8 || image->stride / image->channels < image->width ||
        image->stride > (size_t)PTRDIFF_MAX / image->height) {
        return QDR_BAD_ARGUMENT;
    }
    if (scratch_bytes < qdr_pixels_scratch_bytes(spec, image->width, image->height)) {
        return QDR_NO_SPACE;
    }
    if (!qdr_pixels_arithmetic_is_exact()) {
        return QDR_UNSUPPORTED;
    }
    uint8_t *base = scratch;
    base += (8 - (uintptr_t)base % 8) % 8;
    const qdr_arena arena = {base, 0};
    const qdr_pixel_view view = view_of(image);
    const qdr_pixel_view picture = qdr_pixel_view_crop(&view, qdr_white_frame(&view));
    if (spec->modality == QDR_PIXELS_FUNDUS) {
        prepare_fundus(spec, &picture, arena, out);
    } else {
        prepare_oct(spec, &picture, arena, out);
    }
    return QDR_OK;
}

qdr_status qdr_pixels_window_u16(const qdr_pixels_spec *spec, const uint16_t *values, size_t count,
                                 uint8_t *out) {
    const qdr_status checked = qdr_pixels_check_spec(spec);
    if (checked != QDR_OK) {
        return checked;
    }
    if (count && (!values || !out)) {
        return QDR_BAD_ARGUMENT;
    }
    const uint32_t span = spec->window_high - spec->window_low + 1;
    for (size_t i = 0; i < count; i++) {
        const uint32_t value = values[i];
        const uint32_t above = value > spec->window_low ? value - spec->window_low : 0;
        out[i] = (uint8_t)qdr_min_u32(255, above * 256 / span);
    }
    return QDR_OK;
}
