/* The field of view of a fundus photograph: the bounding box of the lit disc. */
#include "pixels_internal.h"

#define SIDE QDR_PIXELS_DETECTION_SIDE

void qdr_detection_open(qdr_detection *found, qdr_arena *arena, const qdr_pixel_view *view,
                        uint32_t rows, uint32_t columns) {
    const size_t count = (size_t)rows * columns;
    found->rows = rows;
    found->columns = columns;
    qdr_resize_open(&found->resize, arena, view, columns, rows, true, false);
    found->row = qdr_arena_take(arena, (size_t)columns * 3, 1);
    found->level = qdr_arena_take(arena, count, 1);
    found->parents = qdr_arena_take(arena, count, sizeof(uint16_t));
    found->areas = qdr_arena_take(arena, count, sizeof(uint16_t));
}

static void find_levels(qdr_detection *found) {
    const uint32_t rows = found->rows, columns = found->columns;
    const uint32_t count = rows * columns;
    uint32_t border[256] = {0}, all[256] = {0};
    for (uint32_t i = 0; i < count; i++) {
        all[found->level[i]]++;
    }
    for (uint32_t x = 0; x < columns; x++) {
        border[found->level[x]]++;
        border[found->level[count - columns + x]]++;
    }
    for (uint32_t y = 0; y < rows; y++) {
        border[found->level[y * columns]]++;
        border[found->level[y * columns + columns - 1]]++;
    }
    /* The levels with this many others at or below them. */
    const uint32_t border_rank = 2 * (rows + columns) / 20, rank = count * 19 / 20;
    uint32_t below = 0;
    for (found->dark = 0; (below += border[found->dark]) <= border_rank;) {
        found->dark++;
    }
    below = 0;
    for (found->bright = 0; (below += all[found->bright]) <= rank;) {
        found->bright++;
    }
}

/* First and last of the lines that hold at least 1/16 of the longest one: a hair or a letter
 * that touches the disc does not stretch the box. */
static void find_ends(const uint32_t *lengths, uint32_t count, uint32_t *first, uint32_t *last) {
    uint32_t longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        longest = qdr_max_u32(longest, lengths[i]);
    }
    for (*first = 0; lengths[*first] * 16 < longest;) {
        ++*first;
    }
    for (*last = count - 1; lengths[*last] * 16 < longest;) {
        --*last;
    }
}

static void fill_level(qdr_detection *found, uint32_t channels, uint8_t *level) {
    for (uint32_t y = 0; y < found->rows; y++, level += found->columns) {
        if (channels == 1) {
            qdr_resize_row(&found->resize, y, level);
            continue;
        }
        qdr_resize_row(&found->resize, y, found->row);
        for (uint32_t x = 0; x < found->columns; x++) {
            /* The brightest channel: a retina is red before it is anything else. */
            const uint8_t *pixel = found->row + (size_t)x * 3;
            level[x] = qdr_max_u8(qdr_max_u8(pixel[0], pixel[1]), pixel[2]);
        }
    }
}

qdr_box qdr_field_of_view(const qdr_pixel_view *view, qdr_arena arena) {
    const uint32_t height = view->height, width = view->width;
    const qdr_box whole = {0, height, 0, width};
    const uint32_t longer = qdr_max_u32(height, width);
    uint32_t rows = height, columns = width;
    if (longer > SIDE) {
        rows = qdr_max_u32(1, height * SIDE / longer);
        columns = qdr_max_u32(1, width * SIDE / longer);
    }
    const uint32_t count = rows * columns;
    qdr_detection found;
    qdr_detection_open(&found, &arena, view, rows, columns);

    /* The unfiltered level is needed only until the areas are: it shares their bytes. */
    uint8_t *unfiltered = (uint8_t *)found.areas;
    fill_level(&found, view->channels, unfiltered);
    qdr_median_3(unfiltered, rows, columns, found.level);
    find_levels(&found);
    if (2 * found.dark > found.bright) {
        return whole;
    }
    const uint32_t threshold = found.dark + qdr_max_u32(6, (found.bright - found.dark) / 10);
    uint16_t root;
    const uint32_t area = qdr_largest_region(found.level, rows, columns, threshold, found.parents,
                                             found.areas, &root);
    if (area == 0 || area * 20 < count) {
        return whole;
    }
    /* A dark pixel is its own root, so what points to this one is of the region. */
    uint32_t across[SIDE] = {0}, down[SIDE] = {0};
    for (uint32_t y = 0; y < rows; y++) {
        for (uint32_t x = 0; x < columns; x++) {
            const uint32_t is_disc = found.parents[y * columns + x] == root;
            across[y] += is_disc;
            down[x] += is_disc;
        }
    }
    uint32_t top, bottom, left, right;
    find_ends(across, rows, &top, &bottom);
    find_ends(down, columns, &left, &right);
    /* Neither is 0: no side of an image is. NOLINTBEGIN(clang-analyzer-core.DivideZero) */
    return (qdr_box){top * height / rows, ((bottom + 1) * height + rows - 1) / rows,
                     left * width / columns, ((right + 1) * width + columns - 1) / columns};
    /* NOLINTEND(clang-analyzer-core.DivideZero) */
}
