/* Pooling: the largest code of a window, and the rounded mean. */
#include "kernels/kernels.h"

typedef struct window {
    uint32_t top, bottom, left, right;
} window;

/* The part of a position's window that lies in the image. */
static window window_of(const qdr_layer *layer, uint32_t y, uint32_t x) {
    const qdr_operation *o = &layer->operation;
    int64_t top = (int64_t)y * o->stride_y - o->pad_top;
    int64_t left = (int64_t)x * o->stride_x - o->pad_left;
    int64_t bottom = top + o->kernel_height, right = left + o->kernel_width;
    return (window){(uint32_t)(top < 0 ? 0 : top),
                    (uint32_t)(bottom > layer->in.height ? layer->in.height : bottom),
                    (uint32_t)(left < 0 ? 0 : left),
                    (uint32_t)(right > layer->in.width ? layer->in.width : right)};
}

static const uint8_t *row_of(const qdr_layer *layer, uint32_t y, uint32_t x) {
    const qdr_tensor *in = &layer->in;
    return layer->arena + in->offset + ((size_t)y * in->width + x) * in->stride;
}

void qdr_layer_max_pool(const qdr_layer *layer, uint32_t part) {
    const qdr_tensor *out = &layer->out;
    uint32_t end = qdr_share(out->height, part + 1, layer->parts);
    for (uint32_t y = qdr_share(out->height, part, layer->parts); y < end; y++) {
        for (uint32_t x = 0; x < out->width; x++) {
            window w = window_of(layer, y, x);
            uint8_t *best =
                layer->arena + out->offset + ((size_t)y * out->width + x) * out->stride;
            memset(best, 0, out->stride); /* no byte is smaller */
            for (uint32_t in_y = w.top; in_y < w.bottom; in_y++) {
                for (uint32_t in_x = w.left; in_x < w.right; in_x++) {
                    layer->kernels->maximum(best, row_of(layer, in_y, in_x), out->stride);
                }
            }
        }
    }
}

/* numerator / divisor, rounded half to even. A divisor of 0 was refused by qdr_plan_open. */
static int64_t divide(int64_t numerator, int64_t divisor) {
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
    int64_t quotient = numerator / divisor, rest = numerator % divisor;
    if (rest < 0) {
        quotient--;
        rest += divisor;
    }
    return quotient + (2 * rest > divisor || (2 * rest == divisor && (quotient & 1)));
}

void qdr_layer_average_pool(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *in = &layer->in, *out = &layer->out;
    uint32_t end = qdr_share(out->height, part + 1, layer->parts);
    for (uint32_t y = qdr_share(out->height, part, layer->parts); y < end; y++) {
        for (uint32_t x = 0; x < out->width; x++) {
            window w = window_of(layer, y, x);
            uint32_t positions = (w.bottom - w.top) * (w.right - w.left);
            int64_t divisor = o->padded_counts ? o->divisor : positions;
            uint8_t *mean =
                layer->arena + out->offset + ((size_t)y * out->width + x) * out->stride;
            for (uint32_t first = 0; first < out->stride; first += QDR_QUAD) {
                int32_t sums[QDR_QUAD] = {0};
                for (uint32_t in_y = w.top; in_y < w.bottom; in_y++) {
                    const uint8_t *row = row_of(layer, in_y, w.left) + first;
                    for (uint32_t in_x = w.left; in_x < w.right; in_x++, row += in->stride) {
                        for (uint32_t lane = 0; lane < QDR_QUAD; lane++) {
                            sums[lane] += row[lane];
                        }
                    }
                }
                for (uint32_t lane = 0; lane < QDR_QUAD; lane++) {
                    int64_t sum = sums[lane] - (int64_t)positions * in->zero;
                    int64_t code = divide(sum * ((int64_t)1 << o->left_a),
                                          divisor * ((int64_t)1 << o->shift));
                    code = code < o->low ? o->low : code > o->high ? o->high : code;
                    mean[first + lane] = (uint8_t)(code + out->zero);
                }
            }
        }
    }
}
