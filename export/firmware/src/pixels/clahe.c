/* Contrast-limited adaptive histogram equalization of one plane.
 *
 * Floating point because the contract is: the curves are a rounded single-precision product, and
 * four of them are mixed with single-precision weights, in a fixed order.
 */
#include <string.h>

#include "pixels_internal.h"

void qdr_clahe_open(qdr_clahe *clahe, qdr_arena *arena, const qdr_pixels_spec *spec) {
    const size_t tiles = (size_t)spec->clahe_tiles * spec->clahe_tiles;
    clahe->curves = qdr_arena_take(arena, tiles * 256, 1);
    clahe->left = qdr_arena_take(arena, spec->size, sizeof(uint32_t));
    clahe->right = qdr_arena_take(arena, spec->size, sizeof(uint32_t));
    clahe->near = qdr_arena_take(arena, spec->size, sizeof(float));
    clahe->far = qdr_arena_take(arena, spec->size, sizeof(float));
}

/* Where a pixel lies between two tiles' centres: the tile before it (clamped), the one after it
 * and how far it is from the first, 0..1. */
static float between(uint32_t place, float per_pixel, uint32_t tiles, uint32_t *before,
                     uint32_t *after) {
    const float scaled = (float)place * per_pixel;
    const float centre = scaled - 0.5f;
    if (centre < 0.0f) {
        *before = *after = 0;
        return centre + 1.0f;
    }
    *before = (uint32_t)centre;
    *after = qdr_min_u32(*before + 1, tiles - 1);
    return centre - (float)*before;
}

/* What is cut off the histogram is spread over all levels, the rest at even distances. */
static void clip(uint32_t *histogram, uint32_t limit) {
    uint32_t clipped = 0;
    for (uint32_t i = 0; i < 256; i++) {
        if (histogram[i] > limit) {
            clipped += histogram[i] - limit;
            histogram[i] = limit;
        }
    }
    for (uint32_t i = 0; i < 256; i++) {
        histogram[i] += clipped / 256;
    }
    uint32_t rest = clipped % 256;
    if (rest) {
        const uint32_t step = 256 / rest;
        for (uint32_t i = 0; i < 256 && rest; i += step, rest--) {
            histogram[i]++;
        }
    }
}

static void make_curve(const uint8_t *tile, uint32_t side, uint32_t stride, uint32_t limit,
                       uint8_t *curve) {
    uint32_t histogram[256] = {0};
    for (uint32_t y = 0; y < side; y++) {
        for (uint32_t x = 0; x < side; x++) {
            histogram[tile[(size_t)y * stride + x]]++;
        }
    }
    clip(histogram, limit);
    const float scale = 255.0f / (float)(side * side);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 256; i++) {
        sum += histogram[i];
        curve[i] = qdr_round_u8((float)sum * scale);
    }
}

static void equalize_row(const qdr_clahe *clahe, const uint8_t *above, const uint8_t *below,
                         float down, uint32_t size, uint8_t *row) {
    const float up = 1.0f - down;
    for (uint32_t x = 0; x < size; x++) {
        const uint32_t left = clahe->left[x] + row[x], right = clahe->right[x] + row[x];
        const float near = clahe->near[x], far = clahe->far[x];
        const float upper = (float)above[left] * near + (float)above[right] * far;
        const float lower = (float)below[left] * near + (float)below[right] * far;
        row[x] = qdr_round_u8(upper * up + lower * down);
    }
}

void qdr_clahe_apply(const qdr_clahe *clahe, const qdr_pixels_spec *spec, uint8_t *plane) {
    const uint32_t size = spec->size, tiles = spec->clahe_tiles;
    const uint32_t side = size / tiles;
    /* The contract's limit: hundredths to a double first, then cut off to a whole number. */
    const double clip_limit = (double)spec->clahe_clip_x100 / 100.0;
    const uint32_t limit = qdr_max_u32(1, (uint32_t)(clip_limit * (side * side) / 256.0));
    for (uint32_t row = 0; row < tiles; row++) {
        for (uint32_t column = 0; column < tiles; column++) {
            const uint8_t *tile = plane + (size_t)row * side * size + (size_t)column * side;
            make_curve(tile, side, size, limit, clahe->curves + (row * tiles + column) * 256);
        }
    }
    const float per_pixel = 1.0f / (float)side;
    for (uint32_t x = 0; x < size; x++) {
        clahe->far[x] = between(x, per_pixel, tiles, &clahe->left[x], &clahe->right[x]);
        clahe->near[x] = 1.0f - clahe->far[x];
        clahe->left[x] *= 256;
        clahe->right[x] *= 256;
    }
    for (uint32_t y = 0; y < size; y++) {
        uint32_t before, after;
        const float down = between(y, per_pixel, tiles, &before, &after);
        equalize_row(clahe, clahe->curves + (size_t)before * tiles * 256,
                     clahe->curves + (size_t)after * tiles * 256, down, size,
                     plane + (size_t)y * size);
    }
}
