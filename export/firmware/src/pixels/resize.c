/* Resizing a view row by row: by area, by whole blocks, bilinearly, or not at all. */
#include <string.h>

#include "pixels_internal.h"

#define NO_ROW UINT32_MAX

/* Whether the scale counts as a whole number; 0 if not. The test is the reference's: a ratio that
 * is whole but misses it by a rounding error goes the way of the fractions, with other bytes. */
static uint32_t whole_scale(double scale) {
    const uint32_t nearest = (uint32_t)(scale + 0.5);
    const double apart = scale > nearest ? scale - nearest : nearest - scale;
    return apart < 2.220446049250313e-16 ? nearest : 0;
}

static double scale_of(uint32_t target, uint32_t source) {
    const double ratio = (double)target / (double)source;
    return 1.0 / ratio;
}

static void choose_method(qdr_resize *resize, bool by_area) {
    const qdr_pixel_view *source = resize->source;
    const double column_scale = scale_of(resize->width, source->width);
    resize->row_scale = scale_of(resize->height, source->height);
    resize->block_width = whole_scale(column_scale);
    resize->block_height = whole_scale(resize->row_scale);
    if (resize->width == source->width && resize->height == source->height) {
        resize->method = QDR_RESIZE_COPY;
    } else if (!by_area) {
        resize->method = QDR_RESIZE_LINEAR;
    } else if (resize->block_width && resize->block_height) {
        resize->method = QDR_RESIZE_BLOCKS;
    } else {
        resize->method = QDR_RESIZE_AREA;
    }
}

void qdr_resize_restart(qdr_resize *resize) {
    resize->held[0] = resize->held[1] = NO_ROW;
}

void qdr_resize_open(qdr_resize *resize, qdr_arena *arena, const qdr_pixel_view *source,
                     uint32_t width, uint32_t height, bool by_area, bool to_gray) {
    memset(resize, 0, sizeof *resize);
    resize->source = source;
    resize->to_gray = to_gray && source->channels == 3;
    resize->channels = resize->to_gray ? 1 : source->channels;
    resize->width = width;
    resize->height = height;
    qdr_resize_restart(resize);
    const size_t samples = (size_t)width * resize->channels;
    const size_t stored = (size_t)source->width * source->channels;

    /* One layout for every method: which one it is depends on the picture, the size must not. */
    resize->gathered = qdr_arena_take(arena, stored, 1);
    resize->gray = qdr_arena_take(arena, resize->to_gray ? source->width : 0, 1);
    resize->spans = qdr_arena_take(arena, width, sizeof(qdr_area_span));
    resize->products = qdr_arena_take(arena, 1, sizeof(qdr_area_products));
    resize->line = qdr_arena_take(arena, samples, sizeof(float));
    resize->sum = qdr_arena_take(arena, samples, sizeof(float));
    resize->whole = qdr_arena_take(arena, samples, sizeof(uint32_t));
    resize->taps = qdr_arena_take(arena, width, sizeof(qdr_linear_tap));
    resize->lines[0] = qdr_arena_take(arena, samples, sizeof(uint16_t));
    resize->lines[1] = qdr_arena_take(arena, samples, sizeof(uint16_t));
    if (!arena->base) {
        return;
    }
    choose_method(resize, by_area);
    const double scale = scale_of(width, source->width);
    qdr_area_products_of(scale, resize->products);
    for (uint32_t x = 0; x < width; x++) {
        if (resize->method == QDR_RESIZE_AREA) {
            resize->spans[x] = qdr_area_span_of(x, scale, source->width);
        } else if (resize->method == QDR_RESIZE_LINEAR) {
            resize->taps[x] = qdr_linear_tap_of(x, width, source->width);
        }
    }
}

static const uint8_t *source_row(const qdr_resize *resize, uint32_t y) {
    const uint8_t *row = qdr_pixel_view_row(resize->source, y, resize->gathered);
    if (!resize->to_gray) {
        return row;
    }
    uint8_t *gray = resize->gray;
    const uint32_t width = resize->source->width;
    for (uint32_t x = 0; x < width; x++, row += 3) {
        gray[x] = qdr_gray(row);
    }
    return gray;
}

static void blocks_row(qdr_resize *resize, uint32_t y, uint8_t *out) {
    const uint32_t channels = resize->channels;
    const uint32_t samples = resize->width * channels;
    const uint32_t across = resize->block_width, down = resize->block_height;
    uint32_t *whole = resize->whole;
    memset(whole, 0, samples * sizeof *whole);
    for (uint32_t line = 0; line < down; line++) {
        const uint8_t *from = source_row(resize, y * down + line);
        for (uint32_t x = 0; x < samples; x += channels) {
            for (uint32_t i = 0; i < across; i++, from += channels) {
                for (uint32_t channel = 0; channel < channels; channel++) {
                    whole[x + channel] += from[channel];
                }
            }
        }
    }
    if (across == 2 && down == 2) {
        for (uint32_t x = 0; x < samples; x++) {
            out[x] = (uint8_t)((whole[x] + 2) >> 2);
        }
        return;
    }
    /* Single precision, because the contract rounds this product and not the quotient. */
    const float share = 1.0f / (float)(across * down);
    for (uint32_t x = 0; x < samples; x++) {
        out[x] = qdr_round_u8((float)whole[x] * share);
    }
}

static void area_row(qdr_resize *resize, uint32_t y, uint8_t *out) {
    const uint32_t samples = resize->width * resize->channels;
    const qdr_area_span rows = qdr_area_span_of(y, resize->row_scale, resize->source->height);
    float *line = resize->line, *sum = resize->sum;
    for (uint32_t i = 0; i < rows.count; i++) {
        /* The last source row of one row is often the first one of the next. */
        if (resize->held[0] != rows.first + i) {
            const uint8_t *from = source_row(resize, rows.first + i);
            qdr_area_line(from, resize->spans, resize->width, resize->channels,
                          resize->products, line);
            resize->held[0] = rows.first + i;
        }
        const float middle = i + 1 == rows.count ? rows.tail : rows.middle;
        const float weight = i == 0 ? rows.head : middle;
        if (i == 0) {
            for (uint32_t x = 0; x < samples; x++) {
                sum[x] = weight * line[x];
            }
        } else {
            for (uint32_t x = 0; x < samples; x++) {
                sum[x] += weight * line[x];
            }
        }
    }
    for (uint32_t x = 0; x < samples; x++) {
        out[x] = qdr_round_u8(sum[x]);
    }
}

/* The horizontal half of a bilinear row, in 256ths. */
static const uint16_t *linear_line(qdr_resize *resize, uint32_t y) {
    uint16_t *line = resize->lines[y & 1];
    if (resize->held[y & 1] == y) {
        return line;
    }
    resize->held[y & 1] = y;
    const uint32_t channels = resize->channels;
    const uint8_t *row = source_row(resize, y);
    for (uint32_t x = 0; x < resize->width; x++) {
        const qdr_linear_tap *tap = &resize->taps[x];
        for (uint32_t channel = 0; channel < channels; channel++) {
            const uint32_t a = row[(size_t)tap->first * channels + channel];
            const uint32_t b = row[(size_t)tap->second * channels + channel];
            const uint32_t mixed = a * (256 - tap->weight) + b * tap->weight;
            line[(size_t)x * channels + channel] = (uint16_t)mixed;
        }
    }
    return line;
}

static void linear_row(qdr_resize *resize, uint32_t y, uint8_t *out) {
    const uint32_t samples = resize->width * resize->channels;
    const qdr_linear_tap rows = qdr_linear_tap_of(y, resize->height, resize->source->height);
    const uint16_t *above = linear_line(resize, rows.first);
    const uint16_t *below = linear_line(resize, rows.second);
    for (uint32_t x = 0; x < samples; x++) {
        const uint32_t mixed = above[x] * (256 - rows.weight) + below[x] * rows.weight;
        out[x] = (uint8_t)((mixed + (1u << 15)) >> 16);
    }
}

void qdr_resize_row(qdr_resize *resize, uint32_t y, uint8_t *out) {
    switch (resize->method) {
    case QDR_RESIZE_COPY:
        memcpy(out, source_row(resize, y), (size_t)resize->width * resize->channels);
        return;
    case QDR_RESIZE_BLOCKS:
        blocks_row(resize, y, out);
        return;
    case QDR_RESIZE_AREA:
        area_row(resize, y, out);
        return;
    case QDR_RESIZE_LINEAR:
        linear_row(resize, y, out);
        return;
    }
}
