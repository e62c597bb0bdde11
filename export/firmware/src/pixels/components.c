/* The largest region of lit pixels. */
#include "pixels_internal.h"

/* Root of a pixel's region; shortens the way on the way. A root is its region's first pixel. */
static uint32_t root_of(uint16_t *parents, uint32_t pixel) {
    while (parents[pixel] != pixel) {
        parents[pixel] = parents[parents[pixel]];
        pixel = parents[pixel];
    }
    return pixel;
}

static void join(uint16_t *parents, uint32_t a, uint32_t b) {
    a = root_of(parents, a);
    b = root_of(parents, b);
    parents[qdr_max_u32(a, b)] = (uint16_t)qdr_min_u32(a, b);
}

uint32_t qdr_largest_region(const uint8_t *level, uint32_t rows, uint32_t columns,
                            uint32_t threshold, uint16_t *parents, uint16_t *areas,
                            uint16_t *root) {
    const uint32_t count = rows * columns;
    for (uint32_t i = 0; i < count; i++) {
        parents[i] = (uint16_t)i;
        areas[i] = 0;
        if (level[i] <= threshold) {
            continue;
        }
        /* columns > 0, or there is no i. NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
        if (i % columns && level[i - 1] > threshold) {
            parents[i] = parents[i - 1];
        }
        if (i >= columns && level[i - columns] > threshold) {
            join(parents, i, i - columns);
        }
    }
    /* Counted from 0, so that a region of all 65,536 pixels fits into 16 bits. */
    uint32_t largest = 0;
    bool found = false;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t of = root_of(parents, i);
        parents[i] = (uint16_t)of;
        areas[of] = (uint16_t)(areas[of] + (of != i));
    }
    for (uint32_t i = 0; i < count; i++) {
        if (parents[i] == i && level[i] > threshold && (!found || areas[i] > areas[largest])) {
            largest = i;
            found = true;
        }
    }
    *root = (uint16_t)largest;
    return found ? areas[largest] + 1u : 0;
}
