/* What the gate measures. Sums are of whole numbers; each feature is one quotient of two of them
 * that a double holds exactly, so that every machine finds the same numbers. */
#include <math.h>
#include <string.h>

#include "gate_internal.h"

#define RIM 12u
#define FINE_ONE 625u      /* 5^4 */
#define COARSE_ONE 130321u /* 19^4 */
#define CELLS 8u
#define COLOUR_STEPS 4096
#define CORE_AT_LEAST 64u

void qdr_gate_open(qdr_gate_picture *picture, qdr_arena *arena, const qdr_pixel_view *plane) {
    const uint32_t size = plane->width;
    const uint32_t side = qdr_min_u32(QDR_GATE_SIDE, size);
    const size_t count = (size_t)side * side;
    picture->side = side;
    picture->red = qdr_arena_take(arena, count, 1);
    picture->green = qdr_arena_take(arena, count, 1);
    picture->blue = qdr_arena_take(arena, count, 1);
    picture->level = qdr_arena_take(arena, count, 1);
    picture->core = qdr_arena_take(arena, count, 1);
    picture->fine = qdr_arena_take(arena, count, sizeof(int32_t));
    picture->coarse = qdr_arena_take(arena, count, sizeof(int32_t));
    picture->spare = qdr_arena_take(arena, count, sizeof(int32_t));
    for (uint32_t i = 0; i < 3; i++) {
        picture->gray[i] = qdr_arena_take(arena, size, 1);
    }
    picture->last_bend = qdr_arena_take(arena, size, sizeof(uint32_t));
    qdr_resize_open(&picture->resize, arena, plane, side, side, true, false);
}

static void reduce(qdr_gate_picture *picture, const uint8_t *pixels, uint32_t size) {
    uint8_t *const planes[3] = {picture->red, picture->green, picture->blue};
    const uint32_t side = picture->side, count = side * side;
    qdr_pixel_view plane = *picture->resize.source;
    picture->resize.source = &plane;
    for (uint32_t channel = 0; channel < 3; channel++) {
        plane.origin = pixels + (size_t)channel * size * size;
        qdr_resize_restart(&picture->resize);
        for (uint32_t y = 0; y < side; y++) {
            qdr_resize_row(&picture->resize, y, planes[channel] + (size_t)y * side);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t pixel[3] = {planes[0][i], planes[1][i], planes[2][i]};
        picture->level[i] = qdr_gray(pixel);
    }
    picture->core_count = qdr_gate_find_core(picture, picture->core);
    if (picture->core_count < CORE_AT_LEAST) {
        memset(picture->core, 1, count);
        picture->core_count = count;
    }
}

/* Two boxes smooth like a Gaussian, in whole numbers. */
static void smooth(const qdr_gate_picture *picture, uint32_t box, int32_t *to) {
    const uint32_t side = picture->side;
    for (uint32_t i = 0; i < side * side; i++) {
        to[i] = picture->level[i];
    }
    qdr_gate_box_sum(to, side, side, box, box, picture->spare, to);
    qdr_gate_box_sum(to, side, side, box, box, picture->spare, to);
}

static uint32_t fine_contrast(const qdr_gate_picture *picture, uint32_t i) {
    return qdr_gate_distance(picture->level[i] * (int32_t)FINE_ONE, picture->fine[i]);
}

/* The mean of the two in the middle where there are two. */
static double median(const uint32_t *counts, uint32_t total) {
    uint32_t lower = 0, upper = 0;
    for (uint32_t below = counts[0]; below <= (total - 1) / 2;) {
        below += counts[++lower];
    }
    for (uint32_t below = counts[0]; below <= total / 2;) {
        below += counts[++upper];
    }
    return (double)(lower + upper) / 2.0;
}

static void measure_contrast(const qdr_gate_picture *picture, double *features) {
    const uint32_t count = picture->side * picture->side, inside = picture->core_count;
    uint32_t all[256] = {0}, core[256] = {0};
    uint64_t detail = 0, band = 0, total = 0, squares = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t level = picture->level[i];
        all[level]++;
        if (!picture->core[i]) {
            continue;
        }
        core[level]++;
        total += level;
        squares += (uint64_t)level * level;
        detail += fine_contrast(picture, i);
        const int64_t fine = (int64_t)picture->fine[i] * COARSE_ONE;
        const int64_t coarse = (int64_t)picture->coarse[i] * FINE_ONE;
        band += (uint64_t)(fine > coarse ? fine - coarse : coarse - fine);
    }
    const uint64_t variance = inside * squares - total * total; /* x inside^2 */
    const double structure = (double)band / (double)((uint64_t)FINE_ONE * COARSE_ONE * inside);
    features[QDR_GATE_STRUCTURE] = structure;
    features[QDR_GATE_DETAIL] = (double)detail / (double)((uint64_t)FINE_ONE * inside);
    features[QDR_GATE_GRAIN] = features[QDR_GATE_DETAIL] / (structure + 0.5);
    features[QDR_GATE_BACKDROP] = median(all, count);
    features[QDR_GATE_BRIGHTNESS] = median(core, inside);
    features[QDR_GATE_CONTRAST] = sqrt((double)variance) / (double)inside;
}

/* a / b towards minus infinity; b > 0. */
static int32_t floor_divided(int32_t a, int32_t b) {
    return a / b - (a % b < 0);
}

static void measure_light(const qdr_gate_picture *picture, double *features) {
    const uint32_t side = picture->side;
    uint32_t lit = 0, warm = 0, corners = 0, lit_corners = 0, disc = 0, lit_disc = 0;
    int64_t steps = 0;
    for (uint32_t y = 0; y < side; y++) {
        for (uint32_t x = 0; x < side; x++) {
            const uint32_t i = y * side + x;
            /* Twice the distance to the middle, in pixels: the radius times the side. */
            const uint32_t down = qdr_gate_distance((int32_t)(2 * y + 1), (int32_t)side);
            const uint32_t across = qdr_gate_distance((int32_t)(2 * x + 1), (int32_t)side);
            const uint32_t radius = (down * down + across * across) * 10000;
            const bool is_lit = qdr_gate_is_lit(picture, i);
            const bool is_corner = radius > 110 * 110 * side * side;
            const bool is_disc = radius <= 97 * 97 * side * side;
            corners += is_corner;
            disc += is_disc;
            if (!is_lit) {
                continue;
            }
            const int32_t r = picture->red[i], g = picture->green[i], b = picture->blue[i];
            lit++;
            lit_corners += is_corner;
            lit_disc += is_disc;
            warm += r >= g && g + 8 >= b;
            steps += floor_divided((r - b) * COLOUR_STEPS, r + g + b + 1);
        }
    }
    features[QDR_GATE_CORNERS] = qdr_gate_share(lit_corners, corners);
    features[QDR_GATE_FILL] = qdr_gate_share(lit_disc, disc);
    features[QDR_GATE_WARMTH] = qdr_gate_share(warm, lit);
    const double whole = (double)((int64_t)COLOUR_STEPS * qdr_max_u32(1, lit));
    features[QDR_GATE_REDNESS] = (double)steps / whole;
}

static double bands(const qdr_gate_picture *picture) {
    const uint32_t side = picture->side;
    uint32_t seen = 0, first = side, last = 0;
    for (uint32_t y = 0; y < side; y++) {
        uint8_t most = 0;
        for (uint32_t x = 0; x < side; x++) {
            most = qdr_max_u8(most, picture->level[y * side + x]);
        }
        if (most > QDR_GATE_BLACK) {
            seen++;
            first = qdr_min_u32(first, y);
            last = y;
        }
    }
    /* A disc cut off above and below has two strong edges, its own ends: stay inside. */
    qdr_box box = {0, side, 0, side};
    if (seen > 2 * RIM + 8) {
        box = (qdr_box){first + RIM, last - RIM, RIM, side - RIM};
    }
    const uint32_t rows = box.bottom - box.top, columns = box.right - box.left;
    uint64_t down = 0, across = 0;
    for (uint32_t y = box.top; y < box.bottom; y++) {
        const int32_t *row = picture->fine + y * side;
        for (uint32_t x = box.left; x < box.right; x++) {
            if (y + 1 < box.bottom) {
                const uint64_t step = qdr_gate_distance(row[x + side], row[x]);
                down += step * step;
            }
            if (x + 1 < box.right) {
                const uint64_t step = qdr_gate_distance(row[x + 1], row[x]);
                across += step * step;
            }
        }
    }
    const uint64_t one = (uint64_t)FINE_ONE * FINE_ONE;
    const double vertical = (double)down / (double)(one * (rows - 1) * columns);
    const double horizontal = (double)across / (double)(one * rows * (columns - 1));
    const double both = vertical + horizontal;
    return vertical / (both + 1e-3);
}

static double visible(const qdr_gate_picture *picture) {
    const uint32_t side = picture->side;
    uint32_t counted = 0, seen = 0;
    for (uint32_t cell = 0; cell < CELLS * CELLS; cell++) {
        const uint32_t row = cell / CELLS, column = cell % CELLS;
        uint64_t area = 0, detail = 0;
        for (uint32_t y = row * side / CELLS; y < (row + 1) * side / CELLS; y++) {
            for (uint32_t x = column * side / CELLS; x < (column + 1) * side / CELLS; x++) {
                if (picture->core[y * side + x]) {
                    area++;
                    detail += fine_contrast(picture, y * side + x);
                }
            }
        }
        /* Cells that lie half inside. */
        if (area * 2 * CELLS * CELLS >= (uint64_t)side * side) {
            counted++;
            seen += 2 * detail >= 3 * FINE_ONE * area; /* a mean contrast of 1.5 */
        }
    }
    return qdr_gate_share(seen, counted);
}

void qdr_gate_measure(qdr_gate_picture *picture, const uint8_t *pixels, uint32_t size,
                      double *features) {
    reduce(picture, pixels, size);
    smooth(picture, 5, picture->fine);
    smooth(picture, 19, picture->coarse);
    measure_contrast(picture, features);
    measure_light(picture, features);
    features[QDR_GATE_BANDS] = bands(picture);
    features[QDR_GATE_VISIBLE] = visible(picture);
    features[QDR_GATE_FLAT] = qdr_gate_flat(picture, pixels, size);
    /* Last: it writes over the smoothed levels. */
    features[QDR_GATE_LAYERS] = qdr_gate_layers(picture);
}
