/* Median filters of 3 x 3 and 5 x 5 pixels. */
#include <string.h>

#include "pixels_internal.h"

#define BLOCK 128u

static uint8_t median_of_3(uint8_t a, uint8_t b, uint8_t c) {
    return qdr_max_u8(qdr_min_u8(a, b), qdr_min_u8(qdr_max_u8(a, b), c));
}

/* Row y and column x, the outermost ones repeated; y and x may lie up to 2 outside. */
static uint32_t inside(int32_t place, uint32_t count) {
    if (place < 0) {
        return 0;
    }
    return qdr_min_u32((uint32_t)place, count - 1);
}

void qdr_median_3(const uint8_t *from, uint32_t rows, uint32_t columns, uint8_t *to) {
    /* Each column of three sorted once, for a block and a column more on both sides. */
    uint8_t low[BLOCK + 2], middle[BLOCK + 2], high[BLOCK + 2];
    for (uint32_t y = 0; y < rows; y++) {
        const uint8_t *above = from + (size_t)inside((int32_t)y - 1, rows) * columns;
        const uint8_t *here = from + (size_t)y * columns;
        const uint8_t *below = from + (size_t)inside((int32_t)y + 1, rows) * columns;
        for (uint32_t start = 0; start < columns; start += BLOCK) {
            const uint32_t count = qdr_min_u32(BLOCK, columns - start);
            for (uint32_t i = 0; i < count + 2; i++) {
                const uint32_t x = inside((int32_t)(start + i) - 1, columns);
                const uint8_t a = above[x], b = here[x], c = below[x];
                low[i] = qdr_min_u8(qdr_min_u8(a, b), c);
                high[i] = qdr_max_u8(qdr_max_u8(a, b), c);
                middle[i] = median_of_3(a, b, c);
            }
            uint8_t *out = to + (size_t)y * columns + start;
            for (uint32_t i = 0; i < count; i++) {
                out[i] = median_of_3(
                    qdr_max_u8(qdr_max_u8(low[i], low[i + 1]), low[i + 2]),
                    median_of_3(middle[i], middle[i + 1], middle[i + 2]),
                    qdr_min_u8(qdr_min_u8(high[i], high[i + 1]), high[i + 2]));
            }
        }
    }
}

void qdr_median_5(const uint8_t *from, uint32_t rows, uint32_t columns, uint8_t *to) {
    uint8_t taps[5][BLOCK + 4], found[BLOCK], reached[BLOCK];
    for (uint32_t y = 0; y < rows; y++) {
        for (uint32_t start = 0; start < columns; start += BLOCK) {
            const uint32_t count = qdr_min_u32(BLOCK, columns - start);
            for (uint32_t line = 0; line < 5; line++) {
                const uint32_t row = inside((int32_t)(y + line) - 2, rows);
                for (uint32_t i = 0; i < count + 4; i++) {
                    const uint32_t x = inside((int32_t)(start + i) - 2, columns);
                    taps[line][i] = from[(size_t)row * columns + x];
                }
            }
            /* Bit by bit: the median is the largest value that 13 of the 25 reach. */
            memset(found, 0, count);
            for (uint32_t bit = 128; bit; bit >>= 1) {
                memset(reached, 0, count);
                for (uint32_t line = 0; line < 5; line++) {
                    for (uint32_t shift = 0; shift < 5; shift++) {
                        const uint8_t *tap = taps[line] + shift;
                        for (uint32_t i = 0; i < count; i++) {
                            reached[i] = (uint8_t)(reached[i] + (tap[i] >= (found[i] | bit)));
                        }
                    }
                }
                for (uint32_t i = 0; i < count; i++) {
                    found[i] = (uint8_t)(reached[i] >= 13 ? found[i] | bit : found[i]);
                }
            }
            memcpy(to + (size_t)y * columns + start, found, count);
        }
    }
}
