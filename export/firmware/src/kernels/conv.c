/* Dense convolution: sums over pointers to the input's rows, so that no patch is ever copied. */
#include "kernels/kernels.h"

/* Output positions that are computed together, and where their windows read. */
typedef struct tile {
    uint32_t taps, quads;
} tile;

/* Whether the window of a position lies in the image, row by row in one piece. */
static bool is_inside(const qdr_layer *layer, uint32_t position) {
    const qdr_operation *o = &layer->operation;
    uint32_t y = position / layer->out.width * o->stride_y;
    uint32_t x = position % layer->out.width * o->stride_x;
    return o->dilation_x == 1 && y >= o->pad_top && x >= o->pad_left &&
           y - o->pad_top + (o->kernel_height - 1) * o->dilation_y < layer->in.height &&
           x - o->pad_left + o->kernel_width <= layer->in.width;
}

/* Pointers for `count` positions, of which those beyond the last repeat it unused. */
static tile point_tile(const qdr_layer *layer, uint32_t position, uint32_t count,
                       const uint8_t **inputs) {
    const qdr_operation *o = &layer->operation;
    uint32_t rows = layer->kernels->rows, quads = layer->in.stride / QDR_QUAD;
    bool whole_rows = true;
    for (uint32_t n = 0; n < count && whole_rows; n++) {
        whole_rows = is_inside(layer, position + n);
    }
    for (uint32_t n = 0; n < rows; n++) {
        qdr_point(layer, position + (n < count ? n : count - 1), whole_rows, inputs + n, rows);
    }
    return whole_rows ? (tile){o->kernel_height, o->kernel_width * quads}
                      : (tile){o->kernel_height * o->kernel_width, quads};
}

/* The analyzer cannot see that rows are some and the arena is there: qdr_plan_infer saw to it.
 * NOLINTBEGIN(clang-analyzer-core.*) */

/* One block of channels of up to `rows` positions. */
static void write(const qdr_layer *layer, const int32_t *sums, const qdr_finish *how,
                  uint32_t position, uint32_t count, uint32_t block) {
    uint32_t stride = layer->out.stride, first = block * QDR_BLOCK;
    uint32_t lanes = stride - first < QDR_BLOCK ? stride - first : QDR_BLOCK;
    uint8_t *out = layer->arena + layer->out.offset + (size_t)position * stride + first;
    const uint8_t *other =
        how->adds ? layer->arena + layer->other.offset + (size_t)position * stride + first : NULL;
    if (lanes == QDR_BLOCK) {
        qdr_finish_of(layer)(sums, how, other, out, stride, count);
        return;
    }
    for (uint32_t row = 0; row < count; row++, sums += QDR_BLOCK, out += stride) {
        uint8_t whole[QDR_BLOCK], operand[QDR_BLOCK] = {0};
        if (other != NULL) {
            memcpy(operand, other + (size_t)row * stride, lanes);
        }
        qdr_finish_of(layer)(sums, how, other == NULL ? NULL : operand, whole, QDR_BLOCK, 1);
        memcpy(out, whole, lanes);
    }
}

void qdr_layer_conv(const qdr_layer *layer, uint32_t part) {
    const qdr_operation *o = &layer->operation;
    const qdr_kernels *kernels = layer->kernels;
    const uint8_t *inputs[QDR_CHUNK * QDR_MAX_TAPS];
    int32_t sums[QDR_MAX_ROWS * QDR_BLOCK];
    tile tiles[QDR_CHUNK];
    uint32_t rows = kernels->rows, taps = o->kernel_height * o->kernel_width;
    uint32_t blocks = (layer->out.channels + QDR_BLOCK - 1) / QDR_BLOCK;
    uint32_t positions = layer->out.height * layer->out.width;
    size_t block_bytes = (size_t)taps * layer->in.stride * QDR_BLOCK;
    qdr_dense_loop dense =
        layer->plan->narrow && layer->in.zero == 0 ? kernels->dense_narrow : kernels->dense;
    const int8_t *weights = (const int8_t *)layer->plan->content + o->weights;
    /* Few positions, as in the last stage: the channels are divided among the threads instead. */
    bool by_block = positions < layer->parts * QDR_CHUNK && blocks >= layer->parts;
    uint32_t begin = by_block ? 0 : qdr_share(positions, part, layer->parts);
    uint32_t end = by_block ? positions : qdr_share(positions, part + 1, layer->parts);
    uint32_t first = by_block ? qdr_share(blocks, part, layer->parts) : 0;
    uint32_t last = by_block ? qdr_share(blocks, part + 1, layer->parts) : blocks;

    for (uint32_t at = begin; at < end; at += QDR_CHUNK) {
        uint32_t count = end - at < QDR_CHUNK ? end - at : QDR_CHUNK;
        for (uint32_t n = 0; n < count; n += rows) {
            tiles[n / rows] = point_tile(layer, at + n, count - n < rows ? count - n : rows,
                                         inputs + (size_t)n * taps);
        }
        for (uint32_t block = first; block < last; block++) {
            qdr_finish how = qdr_finish_block(layer, block);
            for (uint32_t n = 0; n < count; n += rows) {
                tile t = tiles[n / rows];
                dense(inputs + (size_t)n * taps, t.taps, t.quads, weights + block * block_bytes,
                      sums);
                write(layer, sums, &how, at + n, count - n < rows ? count - n : rows, block);
            }
        }
    }
}

/* NOLINTEND(clang-analyzer-core.*) */
