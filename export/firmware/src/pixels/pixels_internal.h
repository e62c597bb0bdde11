/* What the files of src/pixels share; nothing here is public. */
#ifndef QDR_PIXELS_INTERNAL_H
#define QDR_PIXELS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qdr/pixels.h"

/* The contract is defined by IEEE 754 single and double precision, each operation rounded by
 * itself. What the preprocessor can see of another arithmetic is refused here; fusing into fma is
 * seen at run time by `qdr_pixels_arithmetic_is_exact`.
 */
#if defined(__FAST_MATH__)
#error "libqdr needs IEEE 754 arithmetic: build without -ffast-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "libqdr needs float and double without excess precision: on 32-bit x86, -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define QDR_PIXELS_MAX_SIZE 1024u
#define QDR_PIXELS_DETECTION_SIDE 256u

bool qdr_pixels_arithmetic_is_exact(void);

/* Hands out parts of one block. With a null base it only counts, so that one function both sizes
 * and lays out the scratch memory. */
typedef struct qdr_arena {
    uint8_t *base;
    size_t used;
} qdr_arena;

void *qdr_arena_take(qdr_arena *arena, size_t count, size_t item_bytes);

/* Pixels that may be turned or cropped: pixel (x, y) starts at origin + y * row + x * step. */
typedef struct qdr_pixel_view {
    const uint8_t *origin;
    ptrdiff_t row;
    ptrdiff_t step;
    uint32_t width;
    uint32_t height;
    uint32_t channels; /* 1 or 3 */
} qdr_pixel_view;

/* Half open, as in preprocess.py. */
typedef struct qdr_box {
    uint32_t top, bottom, left, right;
} qdr_box;

qdr_pixel_view qdr_pixel_view_crop(const qdr_pixel_view *view, qdr_box box);

/* Row y: in place where the pixels stand side by side, else gathered into `gathered`, which holds
 * width * channels bytes. */
const uint8_t *qdr_pixel_view_row(const qdr_pixel_view *view, uint32_t y, uint8_t *gathered);

/* Gray of RGB as the contract has it; weights of 2^-15 that add up to 1. */
static inline uint8_t qdr_gray(const uint8_t *pixel) {
    const uint32_t sum = 9798u * pixel[0] + 19235u * pixel[1] + 3735u * pixel[2];
    return (uint8_t)((sum + (1u << 14)) >> 15);
}

static inline uint8_t qdr_max_u8(uint8_t a, uint8_t b) {
    return a > b ? a : b;
}

static inline uint8_t qdr_min_u8(uint8_t a, uint8_t b) {
    return a < b ? a : b;
}

static inline uint32_t qdr_min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static inline uint32_t qdr_max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

/* Half to even, saturated to 255. Adding 2^23 leaves no bit for a fraction. 0 <= value < 2^22. */
static inline uint8_t qdr_round_u8(float value) {
    const int32_t whole = (int32_t)((value + 8388608.0f) - 8388608.0f);
    return (uint8_t)(whole > 255 ? 255 : whole);
}

/* frame.c */
qdr_box qdr_white_frame(const qdr_pixel_view *view);

/* resize.c: one reader of rows, whatever the method. */
typedef struct qdr_area_span {
    uint32_t first; /* source pixel of the first weight */
    uint32_t count; /* at least 1 */
    float head, middle, tail;
} qdr_area_span;

/* Nearly all pixels have the same weight: their products are looked up. */
typedef struct qdr_area_products {
    float weight;
    float of[256]; /* level * weight */
} qdr_area_products;

typedef struct qdr_linear_tap {
    uint32_t first, second; /* source pixels */
    uint32_t weight;        /* of the second, in 256ths */
} qdr_linear_tap;

typedef enum qdr_resize_method {
    QDR_RESIZE_COPY,
    QDR_RESIZE_BLOCKS, /* by area, whole blocks of source pixels */
    QDR_RESIZE_AREA,
    QDR_RESIZE_LINEAR
} qdr_resize_method;

typedef struct qdr_resize {
    const qdr_pixel_view *source;
    qdr_resize_method method;
    bool to_gray;      /* RGB rows become gray before anything else */
    uint32_t channels; /* of what comes out */
    uint32_t width, height;
    uint32_t block_width, block_height;
    double row_scale;         /* source rows in a row that comes out */
    uint32_t held[2];         /* source rows that `lines` hold */
    uint8_t *gathered;        /* [source width * source channels] */
    uint8_t *gray;            /* [source width] */
    qdr_area_span *spans;     /* [width] */
    qdr_area_products *products;
    qdr_linear_tap *taps;     /* [width] */
    float *line, *sum;        /* [width * channels] */
    uint32_t *whole;          /* [width * channels] */
    uint16_t *lines[2];       /* [width * channels], in 256ths */
} qdr_resize;

/* Lays out the memory and, unless the arena only counts, the tables. `width` and `height` are at
 * least 1; by area no larger than the source. */
void qdr_resize_open(qdr_resize *resize, qdr_arena *arena, const qdr_pixel_view *source,
                     uint32_t width, uint32_t height, bool by_area, bool to_gray);

/* Another picture of the same shape follows: no row that is held belongs to it. */
void qdr_resize_restart(qdr_resize *resize);

/* Row y of the result, [width * channels]; rows are asked for in order, from 0. */
void qdr_resize_row(qdr_resize *resize, uint32_t y, uint8_t *out);

/* area.c and linear.c */
qdr_area_span qdr_area_span_of(uint32_t index, double scale, uint32_t source);
void qdr_area_products_of(double scale, qdr_area_products *products);
void qdr_area_line(const uint8_t *row, const qdr_area_span *spans, uint32_t width,
                   uint32_t channels, const qdr_area_products *products, float *line);
qdr_linear_tap qdr_linear_tap_of(uint32_t index, uint32_t target, uint32_t source);

/* view.c: works on the picture reduced to at most 256 x 256 pixels. */
typedef struct qdr_detection {
    uint32_t rows, columns;
    uint8_t *row;      /* [columns * 3] */
    uint8_t *level;    /* [rows * columns] */
    uint16_t *parents; /* [rows * columns] */
    uint16_t *areas;   /* [rows * columns]; before that, the unfiltered level */
    uint32_t dark, bright;
    qdr_resize resize;
} qdr_detection;

void qdr_detection_open(qdr_detection *found, qdr_arena *arena, const qdr_pixel_view *view,
                        uint32_t rows, uint32_t columns);
qdr_box qdr_field_of_view(const qdr_pixel_view *view, qdr_arena arena);

/* components.c: marks the largest 4-connected region of lit pixels (level > threshold); the first
 * in reading order among equal ones. parents and areas: [rows * columns]. Returns its area in
 * pixels, 0 if nothing is lit, and its root; parents[i] == root then holds for its pixels. */
uint32_t qdr_largest_region(const uint8_t *level, uint32_t rows, uint32_t columns,
                            uint32_t threshold, uint16_t *parents, uint16_t *areas,
                            uint16_t *root);

/* median.c: borders repeat the outermost pixels. from and to: [rows * columns], apart. */
void qdr_median_3(const uint8_t *from, uint32_t rows, uint32_t columns, uint8_t *to);
void qdr_median_5(const uint8_t *from, uint32_t rows, uint32_t columns, uint8_t *to);

/* lab.c */
void qdr_rgb_to_lab(uint8_t *first, uint8_t *second, uint8_t *third, size_t count);
void qdr_lab_to_rgb(uint8_t *first, uint8_t *second, uint8_t *third, size_t count);

/* clahe.c: CLAHE of one plane [size * size], in place. */
typedef struct qdr_clahe {
    uint8_t *curves;         /* [tiles * tiles * 256] */
    uint32_t *left, *right;  /* [size]: offset of a column's two tiles in a row of curves */
    float *near, *far;       /* [size]: weight of the left and of the right one */
} qdr_clahe;

void qdr_clahe_open(qdr_clahe *clahe, qdr_arena *arena, const qdr_pixels_spec *spec);
void qdr_clahe_apply(const qdr_clahe *clahe, const qdr_pixels_spec *spec, uint8_t *plane);

#endif
