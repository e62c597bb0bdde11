/* Stretches of one even tone, which no camera takes; the image is read once, row by row. */
#include <string.h>

#include "gate_internal.h"

#define RADIUS 4u
#define EVEN 2u
#define NEVER UINT32_MAX

static void fill_gray(const uint8_t *pixels, uint32_t size, uint32_t y, uint8_t *gray) {
    const size_t plane = (size_t)size * size;
    const uint8_t *from = pixels + (size_t)y * size;
    for (uint32_t x = 0; x < size; x++) {
        const uint8_t pixel[3] = {from[x], from[x + plane], from[x + 2 * plane]};
        gray[x] = qdr_gray(pixel);
    }
}

/* Notes where row y bends: where it differs from the mean of its four neighbours. */
static void note_bends(const uint8_t *above, const uint8_t *here, const uint8_t *below,
                       uint32_t size, uint32_t y, uint32_t *last_bend) {
    for (uint32_t x = 0; x < size; x++) {
        const uint8_t left = here[x ? x - 1 : 1], right = here[x + 1 < size ? x + 1 : size - 2];
        const int32_t around = above[x] + below[x] + left + right;
        if (qdr_gate_distance(around, 4 * here[x]) > EVEN) {
            last_bend[x] = y;
        }
    }
}

/* Lit pixels of row y, and those of them around which nothing bends. */
static void count_row(const uint8_t *pixels, uint32_t size, uint32_t y, const uint32_t *last_bend,
                      uint32_t *lit, uint32_t *even) {
    const uint32_t first = y > RADIUS ? y - RADIUS : 0;
    const size_t plane = (size_t)size * size;
    const uint8_t *from = pixels + (size_t)y * size;
    uint32_t bent = 0; /* columns of the window that bend */
    for (uint32_t x = 0; x < size + RADIUS; x++) {
        bent += x < size && last_bend[x] != NEVER && last_bend[x] >= first;
        if (x < RADIUS) {
            continue;
        }
        const uint32_t centre = x - RADIUS;
        const uint8_t pixel[3] = {from[centre], from[centre + plane], from[centre + 2 * plane]};
        if (qdr_gray(pixel) > QDR_GATE_LIT) {
            ++*lit;
            *even += bent == 0;
        }
        if (centre >= RADIUS) {
            const uint32_t leaves = last_bend[centre - RADIUS];
            bent -= leaves != NEVER && leaves >= first;
        }
    }
}

double qdr_gate_flat(const qdr_gate_picture *picture, const uint8_t *pixels, uint32_t size) {
    uint32_t lit = 0, even = 0;
    uint32_t *last_bend = picture->last_bend;
    memset(last_bend, 0xff, size * sizeof *last_bend);
    fill_gray(pixels, size, 0, picture->gray[0]);
    fill_gray(pixels, size, 1, picture->gray[1]);
    for (uint32_t y = 0; y < size + RADIUS; y++) {
        if (y < size) {
            const uint8_t *here = picture->gray[y % 3];
            uint8_t *below = picture->gray[(y + 1) % 3];
            if (y && y + 1 < size) {
                fill_gray(pixels, size, y + 1, below);
            }
            /* Mirrored at the first and last row. */
            const uint8_t *above = y ? picture->gray[(y + 2) % 3] : below;
            note_bends(above, here, y + 1 < size ? below : above, size, y, last_bend);
        }
        if (y >= RADIUS) {
            count_row(pixels, size, y - RADIUS, last_bend, &lit, &even);
        }
    }
    return qdr_gate_share(even, lit);
}
