/* Depthwise convolution: every channel with weights of its own. */
#include "kernels/kernels.h"

void qdr_layer_depthwise(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_tensor *out = &layer->out;
    uint32_t taps = o->kernel_height * o->kernel_width;
    uint32_t blocks = (out->channels + QDR_BLOCK - 1) / QDR_BLOCK;
    const uint8_t *windows[QDR_MAX_TAPS], *inputs[QDR_MAX_TAPS];
    uint8_t gathered[QDR_MAX_TAPS][QDR_BLOCK] = {{0}};
    int32_t sums[QDR_BLOCK];
    uint32_t begin = qdr_share(out->height, part, layer->parts);
    uint32_t end = qdr_share(out->height, part + 1, layer->parts);
    for (uint32_t position = begin * out->width; position < end * out->width; position++) {
        qdr_point(layer, position, false, windows, 1);
        for (uint32_t block = 0; block < blocks; block++) {
            uint32_t channel = block * QDR_BLOCK;
            uint32_t lanes = out->stride - channel < QDR_BLOCK ? out->stride - channel : QDR_BLOCK;
            qdr_finish how = qdr_finish_block(layer, block);
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
