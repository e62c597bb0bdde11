/* What layers with weights share: where a window reads, and how a block of sums ends. */
#include "kernels/kernels.h"

qdr_finish qdr_finish_block(const qdr_layer *layer, uint32_t block) {
    const qdr_operation *o = &layer->operation;
    qdr_finish how = {.low = o->low,
                      .high = o->high,
                      .zero = layer->out.zero,
                      .adds = o->other != QDR_NONE,
                      .other_zero = layer->other.zero,
                      .left_a = o->left_a,
                      .left_b = o->left_b,
                      .sum_shift = o->shift,
                      .sum_low = o->sum_low,
                      .sum_high = o->sum_high};
    size_t lanes = sizeof how.bias * (size_t)block;
    memcpy(how.bias, layer->plan->content + o->biases + lanes, sizeof how.bias);
    memcpy(how.shift, layer->plan->content + o->shifts + lanes, sizeof how.shift);
    return how;
}

void qdr_point(const qdr_layer *layer, uint32_t position, bool whole_rows, const uint8_t **inputs,
               uint32_t rows) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *in = &layer->in;
    const uint8_t *base = layer->arena + in->offset;
    uint32_t y = position / layer->out.width * o->stride_y;
    uint32_t x = position % layer->out.width * o->stride_x;
    for (uint32_t ky = 0; ky < o->kernel_height; ky++) {
        /* Above the image this wraps, and is then beyond its height too. */
        uint32_t in_y = y + ky * o->dilation_y - o->pad_top;
        for (uint32_t kx = 0; kx < (whole_rows ? 1 : o->kernel_width); kx++, inputs += rows) {
            uint32_t in_x = x + kx * o->dilation_x - o->pad_left;
            *inputs = in_y < in->height && in_x < in->width
                          ? base + ((size_t)in_y * in->width + in_x) * in->stride
                          : layer->padding;
        }
    }
}
