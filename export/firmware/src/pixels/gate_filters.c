/* Sums over boxes, and what is left of the lit region inside its rim. */
#include <string.h>

#include "gate_internal.h"

#define CORE_RADIUS 4u

/* Place -n is n, place count - 1 + n is count - 1 - n. */
static uint32_t mirrored(int32_t place, uint32_t count) {
    if (place < 0) {
        return (uint32_t)-place;
    }
    const uint32_t inside = (uint32_t)place;
    return inside < count ? inside : 2 * count - 2 - inside;
}

static void sum_along_row(const int32_t *from, uint32_t columns, uint32_t box, int32_t *to) {
    const int32_t radius = (int32_t)(box / 2);
    int32_t sum = 0;
    for (int32_t i = -radius; i <= radius; i++) {
        sum += from[mirrored(i, columns)];
    }
    for (uint32_t x = 0; x < columns; x++) {
        to[x] = sum;
        const int32_t place = (int32_t)x;
        sum += from[mirrored(place + radius + 1, columns)] -
               from[mirrored(place - radius, columns)];
    }
}

void qdr_gate_box_sum(const int32_t *from, uint32_t rows, uint32_t columns, uint32_t box_rows,
                      uint32_t box_columns, int32_t *spare, int32_t *to) {
    for (uint32_t y = 0; y < rows; y++) {
        sum_along_row(from + y * columns, columns, box_columns, spare + y * columns);
    }
    const int32_t radius = (int32_t)(box_rows / 2);
    memset(to, 0, columns * sizeof *to);
    for (int32_t i = -radius; i <= radius; i++) {
        const int32_t *row = spare + mirrored(i, rows) * columns;
        for (uint32_t x = 0; x < columns; x++) {
            to[x] += row[x];
        }
    }
    for (uint32_t y = 1; y < rows; y++) {
        const int32_t place = (int32_t)y;
        const int32_t *enters = spare + mirrored(place + radius, rows) * columns;
        const int32_t *leaves = spare + mirrored(place - radius - 1, rows) * columns;
        const int32_t *before = to + (y - 1) * columns;
        for (uint32_t x = 0; x < columns; x++) {
            to[y * columns + x] = before[x] + enters[x] - leaves[x];
        }
    }
}

uint32_t qdr_gate_find_core(const qdr_gate_picture *picture, uint8_t *core) {
    const uint32_t side = picture->side;
    /* Length of the lit stretch above and at a pixel, then of columns that reach 9. */
    uint32_t heights[QDR_GATE_SIDE] = {0};
    uint32_t count = 0;
    memset(core, 0, (size_t)side * side);
    for (uint32_t y = 0; y < side; y++) {
        uint32_t stretch = 0;
        for (uint32_t x = 0; x < side; x++) {
            heights[x] = qdr_gate_is_lit(picture, y * side + x) ? heights[x] + 1 : 0;
            stretch = heights[x] > 2 * CORE_RADIUS ? stretch + 1 : 0;
            if (stretch > 2 * CORE_RADIUS) {
                core[(y - CORE_RADIUS) * side + x - CORE_RADIUS] = 1;
                count++;
            }
        }
    }
    return count;
}
