/* What the files of the gate share. */
#ifndef QDR_PIXELS_GATE_INTERNAL_H
#define QDR_PIXELS_GATE_INTERNAL_H

#include "pixels_internal.h"

#define QDR_GATE_SIDE 128u
#define QDR_GATE_LIT 24u
#define QDR_GATE_BLACK 12u

/* The image reduced to at most 128 x 128 px, and what several features need of it. */
typedef struct qdr_gate_picture {
    uint32_t side;
    uint8_t *red, *green, *blue; /* [side * side] */
    uint8_t *level;              /* [side * side] */
    uint8_t *core;               /* [side * side]: 1 where features of contrast are measured */
    uint32_t core_count;
    int32_t *fine;   /* [side * side]: level through two boxes of 5 px, x 5^4 */
    int32_t *coarse; /* [side * side]: level through two boxes of 19 px, x 19^4 */
    int32_t *spare;  /* [side * side] */
    uint8_t *gray[3];    /* [size]: rows of the image at full size */
    uint32_t *last_bend; /* [size] */
    qdr_resize resize;
} qdr_gate_picture;

static inline bool qdr_gate_is_lit(const qdr_gate_picture *picture, uint32_t i) {
    const uint8_t most = qdr_max_u8(picture->red[i], picture->green[i]);
    return qdr_max_u8(most, picture->blue[i]) > QDR_GATE_LIT;
}

static inline uint32_t qdr_gate_distance(int32_t a, int32_t b) {
    return a > b ? (uint32_t)(a - b) : (uint32_t)(b - a);
}

static inline double qdr_gate_share(uint32_t part, uint32_t whole) {
    return (double)part / (double)qdr_max_u32(1, whole);
}

/* gate_filters.c: the sum over a box of odd sides around each pixel, the picture mirrored at its
 * outermost pixels. `from` may be `to`; spare is as large. */
void qdr_gate_box_sum(const int32_t *from, uint32_t rows, uint32_t columns, uint32_t box_rows,
                      uint32_t box_columns, int32_t *spare, int32_t *to);
/* Marks pixels whose 9 x 9 neighbourhood is lit all over; returns how many. */
uint32_t qdr_gate_find_core(const qdr_gate_picture *picture, uint8_t *core);

/* gate_layers.c; uses fine as memory. */
double qdr_gate_layers(const qdr_gate_picture *picture);

/* gate_flat.c: of the image at full size. */
double qdr_gate_flat(const qdr_gate_picture *picture, const uint8_t *pixels, uint32_t size);

/* gate_features.c */
void qdr_gate_open(qdr_gate_picture *picture, qdr_arena *arena, const qdr_pixel_view *plane);
void qdr_gate_measure(qdr_gate_picture *picture, const uint8_t *pixels, uint32_t size,
                      double *features);

#endif
