/* How far the layers of an OCT scan rise above what lies over and under them. */
#include <string.h>

#include "gate_internal.h"

#define WHITE 240u
#define EDGE_ROWS 7u
#define BOX_ROWS 3u
#define BOX_COLUMNS 5u

typedef struct scan {
    uint32_t rows, columns;
    int32_t *level; /* [rows * columns] */
    uint8_t *wedge; /* [rows * columns] */
} scan;

/* Where anything is seen: the box, and whether enough rows and columns show something. */
static bool find_box(const qdr_gate_picture *picture, qdr_box *box) {
    const uint32_t side = picture->side;
    uint8_t in_row[QDR_GATE_SIDE] = {0}, in_column[QDR_GATE_SIDE] = {0};
    for (uint32_t i = 0; i < side * side; i++) {
        if (picture->level[i] > QDR_GATE_BLACK) {
            in_row[i / side] = in_column[i % side] = 1;
        }
    }
    uint32_t rows = 0, columns = 0;
    *box = (qdr_box){side, 0, side, 0};
    for (uint32_t i = 0; i < side; i++) {
        if (in_row[i]) {
            rows++;
            box->top = qdr_min_u32(box->top, i);
            box->bottom = i + 1;
        }
        if (in_column[i]) {
            columns++;
            box->left = qdr_min_u32(box->left, i);
            box->right = i + 1;
        }
    }
    return qdr_min_u32(rows, columns) >= 2 * EDGE_ROWS + 2;
}

static bool is_white_near(const scan *of, uint32_t y, uint32_t x) {
    const uint32_t last = qdr_min_u32(y + 2, of->rows - 1);
    for (uint32_t row = y > 2 ? y - 2 : 0; row <= last; row++) {
        if (of->level[row * of->columns + x] >= (int32_t)WHITE) {
            return true;
        }
    }
    return false;
}

/* White from an end on, in stretches that may be broken by up to 4 px, and 2 px (1 across) around
 * it: a turned scan leaves such wedges, mixed with black where the picture begins. */
static void mark_wedges(const scan *of) {
    memset(of->wedge, 0, (size_t)of->rows * of->columns);
    for (uint32_t x = 0; x < of->columns; x++) {
        uint32_t above = 0, below = of->rows;
        while (above < of->rows && is_white_near(of, above, x)) {
            above++;
        }
        while (below > above && is_white_near(of, below - 1, x)) {
            below--;
        }
        /* Of the lines around the ends, as many as there are. */
        const uint32_t top_end = above ? qdr_min_u32(above + 2, of->rows) : 0;
        const uint32_t bottom = below < of->rows ? (below > 2 ? below - 2 : 0) : of->rows;
        const uint32_t left = x ? x - 1 : 0, right = qdr_min_u32(x + 1, of->columns - 1);
        for (uint32_t y = 0; y < of->rows; y++) {
            if (y < top_end || y >= bottom) {
                memset(of->wedge + y * of->columns + left, 1, right - left + 1);
            }
        }
    }
}

/* Wedges get the level that a fifth of the tissue is darker than. */
static void fill_wedges(const scan *of) {
    uint32_t counts[256] = {0}, total = 0;
    const uint32_t size = of->rows * of->columns;
    for (uint32_t i = 0; i < size; i++) {
        if (!of->wedge[i]) {
            counts[of->level[i]]++;
            total++;
        }
    }
    int32_t level = 0;
    uint32_t below = counts[0];
    while (below < total / 5) {
        below += counts[++level];
    }
    for (uint32_t i = 0; i < size; i++) {
        if (of->wedge[i]) {
            of->level[i] = level;
        }
    }
}

static int32_t lowest(const int32_t *smooth, uint32_t columns, uint32_t first) {
    int32_t least = smooth[first * columns];
    for (uint32_t y = first + 1; y < first + EDGE_ROWS; y++) {
        least = smooth[y * columns] < least ? smooth[y * columns] : least;
    }
    return least;
}

double qdr_gate_layers(const qdr_gate_picture *picture) {
    qdr_box box;
    if (!find_box(picture, &box)) {
        return 0.0;
    }
    const uint32_t rows = box.bottom - box.top, columns = box.right - box.left;
    const scan of = {rows, columns, picture->fine, (uint8_t *)picture->coarse};
    for (uint32_t y = 0; y < rows; y++) {
        for (uint32_t x = 0; x < columns; x++) {
            const uint32_t at = (box.top + y) * picture->side + box.left + x;
            of.level[y * columns + x] = picture->level[at];
        }
    }
    mark_wedges(&of);
    fill_wedges(&of);
    qdr_gate_box_sum(of.level, rows, columns, BOX_ROWS, BOX_COLUMNS, picture->spare, of.level);
    int32_t rises[QDR_GATE_SIDE];
    for (uint32_t x = 0; x < columns; x++) {
        const int32_t *smooth = of.level + x;
        const int32_t over = lowest(smooth, columns, 0);
        const int32_t under = lowest(smooth, columns, rows - EDGE_ROWS);
        int32_t most = smooth[3 * columns];
        for (uint32_t y = 4; y < rows - 3; y++) {
            most = smooth[y * columns] > most ? smooth[y * columns] : most;
        }
        const int32_t rise = most - (over > under ? over : under);
        uint32_t place = x;
        for (; place && rises[place - 1] > rise; place--) {
            rises[place] = rises[place - 1];
        }
        rises[place] = rise;
    }
    /* The fifth-lowest of every five columns, and find_box saw to it that there are some. */
    /* NOLINTNEXTLINE(bugprone-integer-division, clang-analyzer-core.UndefinedBinaryOperatorResult) */
    return (double)rises[columns / 5] / (double)(BOX_ROWS * BOX_COLUMNS);
}
