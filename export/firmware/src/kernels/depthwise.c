/* Depthwise convolution: every channel with weights of its own. */
#include "kernels/kernels.h"

void qdr_layer_depthwise(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *in = &layer->in, *out = &layer->out;
    uint32_t taps = o->kernel_height * o->kernel_width;
    uint32_t blocks = (out->channels + QDR_BLOCK - 1) / QDR_BLOCK;
    const uint8_t *windows[QDR_MAX_TAPS], *inputs[QDR_MAX_TAPS];
    uint8_t gathered[QDR_MAX_TAPS][QDR_BLOCK] = {{0}};
    int32_t sums[QDR_BLOCK];
    uint32_t begin = qdr_share(out->height, part, layer->parts);
    uint32_t end = qdr_share(out->height, part + 1, layer->parts);
    for (uint32_t position = begin * out->width; position < end * out->width; position++) {
        uint32_t y = position / out->width * o->stride_y, x = position % out->width * o->stride_x;
        for (uint32_t tap = 0; tap < taps; tap++) {
            uint32_t in_y = y + tap / o->kernel_width * o->dilation_y - o->pad_top;
            uint32_t in_x = x + tap % o->kernel_width * o->dilation_x - o->pad_left;
            windows[tap] = in_y < in->height && in_x < in->width
                               ? layer->arena + in->offset +
                                     ((size_t)in_y * in->width + in_x) * in->stride
                               : layer->padding;
        }
        for (uint32_t block = 0; block < blocks; block++) {
            uint32_t channel = block * QDR_BLOCK;
            uint32_t lanes = out->stride - channel < QDR_BLOCK ? out->stride - channel : QDR_BLOCK;
            qdr_finish how = {.low = o->low, .high = o->high, .zero = out->zero};
            memcpy(how.bias, layer->plan->content + o->biases + 4 * (size_t)channel,
                   sizeof how.bias);
            memcpy(how.shift, layer->plan->content + o->shifts + 4 * (size_t)channel,
                   sizeof how.shift);
            for (uint32_t tap = 0; tap < taps; tap++) {
                inputs[tap] = windows[tap] + channel;
                if (lanes < QDR_BLOCK) {
                    /* The loop reads whole blocks: the last one may end beyond the tensor. */
                    memcpy(gathered[tap], inputs[tap], lanes);
                    inputs[tap] = gathered[tap];
                }
            }
            layer->kernels->depthwise(
                inputs, taps, (const int8_t *)layer->plan->content + o->weights + channel,
                blocks * QDR_BLOCK, sums);
            uint8_t whole[QDR_BLOCK];
            qdr_finish_of(layer)(sums, &how, NULL, whole, QDR_BLOCK, 1);
            memcpy(layer->arena + out->offset + (size_t)position * out->stride + channel, whole,
                   lanes);
        }
    }
}
