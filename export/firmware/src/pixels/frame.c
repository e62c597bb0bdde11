/* The box inside a white frame, without a copy of the picture in gray. */
#include "pixels_internal.h"

#define WHITE 245
/* Columns counted in one pass over the rows: reading single columns would miss the cache. */
#define BLOCK 64u

static bool is_white(const uint8_t *pixel, uint32_t channels) {
    return (channels == 1 ? pixel[0] : qdr_gray(pixel)) >= WHITE;
}

/* A scale bar's end or JPEG ringing may interrupt a white line. */
static bool mostly(uint32_t white, uint32_t length) {
    return (uint64_t)white * 32 >= (uint64_t)length * 31;
}

static const uint8_t *pixel_at(const qdr_pixel_view *view, uint32_t x, uint32_t y) {
    return view->origin + (ptrdiff_t)y * view->row + (ptrdiff_t)x * view->step;
}

static bool row_is_white(const qdr_pixel_view *view, uint32_t y, uint32_t left, uint32_t right) {
    const uint8_t *pixel = pixel_at(view, left, y);
    uint32_t white = 0;
    for (uint32_t x = left; x < right; x++, pixel += view->step) {
        white += is_white(pixel, view->channels);
    }
    return mostly(white, right - left);
}

static void count_columns(const qdr_pixel_view *view, qdr_box box, uint32_t *white) {
    for (uint32_t x = box.left; x < box.right; x++) {
        white[x - box.left] = 0;
    }
    for (uint32_t y = box.top; y < box.bottom; y++) {
        const uint8_t *pixel = pixel_at(view, box.left, y);
        for (uint32_t x = box.left; x < box.right; x++, pixel += view->step) {
            white[x - box.left] += is_white(pixel, view->channels);
        }
    }
}

static bool column_is_white(const qdr_pixel_view *view, uint32_t x) {
    const qdr_box column = {0, view->height, x, x + 1};
    uint32_t white[1] = {0};
    count_columns(view, column, white);
    return mostly(white[0], view->height);
}

/* Moves top and bottom to the outermost rows that stay; false if none does. */
static bool cut_rows(const qdr_pixel_view *view, qdr_box *box) {
    while (box->top < box->bottom && row_is_white(view, box->top, box->left, box->right)) {
        box->top++;
    }
    if (box->top == box->bottom) {
        return false;
    }
    while (row_is_white(view, box->bottom - 1, box->left, box->right)) {
        box->bottom--;
    }
    return true;
}

static bool cut_columns(const qdr_pixel_view *view, qdr_box *box) {
    const uint32_t length = box->bottom - box->top;
    uint32_t white[BLOCK];
    /* The first lines of a pass are looked at alone: mostly nothing is cut, or little. */
    uint32_t step = 1, first = box->left;
    for (bool found = false; !found;) {
        if (first == box->right) {
            return false;
        }
        const uint32_t past = qdr_min_u32(first + step, box->right);
        count_columns(view, (qdr_box){box->top, box->bottom, first, past}, white);
        uint32_t i = 0;
        while (i < past - first && mostly(white[i], length)) {
            i++;
        }
        found = i < past - first;
        first += i;
        step = BLOCK;
    }
    step = 1;
    uint32_t last = box->right;
    for (bool found = false; !found;) {
        const uint32_t begin = last - first > step ? last - step : first;
        count_columns(view, (qdr_box){box->top, box->bottom, begin, last}, white);
        while (last > begin && mostly(white[last - 1 - begin], length)) {
            last--;
        }
        found = last > begin;
        step = BLOCK;
    }
    box->left = first;
    box->right = last;
    return true;
}

qdr_box qdr_white_frame(const qdr_pixel_view *view) {
    const qdr_box all = {0, view->height, 0, view->width};
    if (!row_is_white(view, 0, 0, view->width) &&
        !row_is_white(view, view->height - 1, 0, view->width) && !column_is_white(view, 0) &&
        !column_is_white(view, view->width - 1)) {
        return all;
    }
    /* Cutting rows can make columns white all along, and the reverse. */
    qdr_box box = all;
    for (;;) {
        const qdr_box before = box;
        if (!cut_rows(view, &box) || !cut_columns(view, &box)) {
            return all;
        }
        if (box.top == before.top && box.bottom == before.bottom && box.left == before.left &&
            box.right == before.right) {
            return box;
        }
    }
}
