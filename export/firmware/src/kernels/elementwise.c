/* Layers that treat every position on its own: input, sums, products, tables, joined and repeated
 * ones, logits. */
#include "kernels/kernels.h"

void qdr_layer_input(const qdr_layer *layer, uint32_t part) {
    const qdr_tensor *out = &layer->out;
    size_t plane = (size_t)out->height * out->width;
    size_t begin = qdr_share(out->height, part, layer->parts) * (size_t)out->width;
    size_t end = qdr_share(out->height, part + 1, layer->parts) * (size_t)out->width;
    uint8_t *to = layer->arena + out->offset + QDR_QUAD * begin;
    const uint8_t *planes[3] = {layer->pixels + begin, layer->pixels + plane + begin,
                                layer->pixels + 2 * plane + begin};
    if (layer->operation.constant_bytes == 0) {
        /* A pixel is its code plus 128 already. */
        layer->kernels->interleave(planes, end - begin, (uint8_t)out->zero, to);
        return;
    }
    const uint8_t *tables = layer->plan->content + layer->operation.weights;
    for (size_t at = 0; at < end - begin; at++, to += QDR_QUAD) {
        for (uint32_t channel = 0; channel < 3; channel++) {
            to[channel] = tables[256 * channel + planes[channel][at]];
        }
        to[3] = (uint8_t)out->zero;
    }
}

/* The bytes of a part: whole positions. */
static size_t first_byte(const qdr_layer *layer, uint32_t part) {
    const qdr_tensor *out = &layer->out;
    return qdr_share(out->height * out->width, part, layer->parts) * (size_t)out->stride;
}

void qdr_layer_add(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const uint8_t *a = layer->arena + layer->in.offset, *b = layer->arena + layer->other.offset;
    uint8_t *out = layer->arena + layer->out.offset;
    size_t end = first_byte(layer, part + 1);
    for (size_t at = first_byte(layer, part); at < end; at++) {
        out[at] = (uint8_t)(qdr_add_codes(a[at] - (int32_t)layer->in.zero,
                                          b[at] - (int32_t)layer->other.zero, o->left_a, o->left_b,
                                          o->shift, o->sum_low, o->sum_high) +
                            (int32_t)layer->out.zero);
    }
}

void qdr_layer_multiply(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    uint32_t stride = layer->out.stride;
    bool one = layer->other.height == 1 && layer->other.width == 1;
    size_t end = first_byte(layer, part + 1);
    for (size_t at = first_byte(layer, part); at < end; at += stride) {
        const uint8_t *a = layer->arena + layer->in.offset + at;
        const uint8_t *b = layer->arena + layer->other.offset + (one ? 0 : at);
        uint8_t *out = layer->arena + layer->out.offset + at;
        for (uint32_t channel = 0; channel < stride; channel++) {
            int32_t product =
                (a[channel] - (int32_t)layer->in.zero) * (b[channel] - (int32_t)layer->other.zero);
            int32_t code = qdr_round_shift(qdr_left(product, o->left_a), o->shift);
            out[channel] =
                (uint8_t)(qdr_clamp(code, o->low, o->high) + (int32_t)layer->out.zero);
        }
    }
}

void qdr_layer_table(const qdr_layer *layer, uint32_t part) {
    const uint8_t *table = layer->plan->content + layer->operation.weights;
    const uint8_t *in = layer->arena + layer->in.offset;
    uint8_t *out = layer->arena + layer->out.offset;
    size_t end = first_byte(layer, part + 1);
    for (size_t at = first_byte(layer, part); at < end; at++) {
        out[at] = table[in[at]];
    }
}

void qdr_layer_concat(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *in = &layer->in, *out = &layer->out;
    uint32_t positions = out->height * out->width;
    uint32_t end = qdr_share(positions, part + 1, layer->parts);
    for (uint32_t at = qdr_share(positions, part, layer->parts); at < end; at++) {
        const uint8_t *from = layer->arena + in->offset + (size_t)at * in->stride;
        uint8_t *to = layer->arena + out->offset + (size_t)at * out->stride + o->channel;
        for (uint32_t channel = 0; channel < in->channels; channel++) {
            int32_t code = from[channel] - (int32_t)in->zero;
            code = qdr_round_shift(qdr_left(code, o->left_a), o->shift);
            to[channel] = (uint8_t)(qdr_clamp(code, o->low, o->high) + (int32_t)out->zero);
        }
    }
}

void qdr_layer_upsample(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *in = &layer->in, *out = &layer->out;
    uint32_t end = qdr_share(out->height, part + 1, layer->parts);
    for (uint32_t y = qdr_share(out->height, part, layer->parts); y < end; y++) {
        for (uint32_t x = 0; x < out->width; x++) {
            const uint8_t *from =
                layer->arena + in->offset +
                ((size_t)(y / o->stride_y) * in->width + x / o->stride_x) * in->stride;
            memcpy(layer->arena + out->offset + ((size_t)y * out->width + x) * out->stride, from,
                   out->stride);
        }
    }
}

/* sum x 2^exponent; exact, since a sum below 2^24 and a power of two are floats. */
static float scaled(int32_t sum, int32_t exponent) {
    uint32_t bits = (uint32_t)(127 + exponent) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return (float)sum * power;
}

void qdr_layer_logits(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_kernels *kernels = layer->kernels;
    const uint8_t *inputs[QDR_MAX_ROWS];
    int32_t sums[QDR_MAX_ROWS * QDR_BLOCK], biases[QDR_BLOCK], exponents[QDR_BLOCK];
    uint32_t classes = layer->plan->classes, stride = layer->in.stride;
    if (part != 0) {
        return; /* too little to divide */
    }
    for (uint32_t row = 0; row < kernels->rows; row++) {
        inputs[row] = layer->arena + layer->in.offset;
    }
    for (uint32_t first = 0; first < classes; first += QDR_BLOCK) {
        const uint8_t *content = layer->plan->content;
        kernels->dense(inputs, 1, stride / QDR_QUAD,
                       (const int8_t *)content + o->weights + (size_t)first * stride, sums);
        memcpy(biases, content + o->biases + 4 * (size_t)first, sizeof biases);
        memcpy(exponents, content + o->shifts + 4 * (size_t)first, sizeof exponents);
        for (uint32_t lane = 0; lane < QDR_BLOCK && first + lane < classes; lane++) {
            int32_t sum = (int32_t)((uint32_t)sums[lane] + (uint32_t)biases[lane]);
            layer->logits[first + lane] = scaled(sum, exponents[lane]);
        }
    }
}
