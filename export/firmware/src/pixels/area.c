/* Weights of resizing by area, and a row's weighted sums.
 *
 * Floating point because the contract is: single-precision weights, sums in single precision in
 * the order of the pixels, exactly as the reference adds them.
 */
#include "pixels_internal.h"

/* Less of a source pixel than this does not count. */
#define SLIVER 1e-3

qdr_area_span qdr_area_span_of(uint32_t index, double scale, uint32_t source) {
    const double begin = index * scale;
    const double end = begin + scale;
    const double left = source - begin;
    const double cell = scale < left ? scale : left;
    uint32_t first = (uint32_t)begin;
    if ((double)first < begin) {
        first++;
    }
    const uint32_t last = qdr_min_u32((uint32_t)end, source - 1);
    first = qdr_min_u32(first, last);

    /* A part of the pixel before `first`, the whole ones, a part of `last`. */
    const bool has_head = first - begin > SLIVER;
    const bool has_tail = end - last > SLIVER;
    const float middle = (float)(1.0 / cell);
    double rest = end - last;
    rest = rest < 1.0 ? rest : 1.0;
    rest = rest < cell ? rest : cell;
    const float tail = has_tail ? (float)(rest / cell) : middle;
    qdr_area_span span = {first, last - first, middle, middle, tail};
    if (has_tail) {
        span.count++;
        span.head = span.count == 1 ? tail : middle;
    }
    if (has_head) {
        span.first--;
        span.count++;
        span.head = (float)((first - begin) / cell);
    }
    return span;
}

void qdr_area_products_of(double scale, qdr_area_products *products) {
    products->weight = (float)(1.0 / scale);
    for (uint32_t level = 0; level < 256; level++) {
        products->of[level] = (float)level * products->weight;
    }
}

/* The sum over one span of every `channels`-th byte. */
static float span_sum(const uint8_t *from, const qdr_area_span *span, uint32_t channels,
                      const qdr_area_products *products) {
    float sum = (float)from[0] * span->head;
    if (span->count == 1) {
        return sum;
    }
    const uint8_t *last = from + (size_t)(span->count - 1) * channels;
    from += channels;
    if (span->middle == products->weight) {
        for (; from < last; from += channels) {
            sum += products->of[*from];
        }
    } else {
        for (; from < last; from += channels) {
            const float product = (float)*from * span->middle;
            sum += product;
        }
    }
    const float product = (float)*last * span->tail;
    return sum + product;
}

/* The three sums of a span of RGB at once, so that none waits for its own last addition. */
static void rgb_sums(const uint8_t *from, const qdr_area_span *span,
                     const qdr_area_products *products, float *sums) {
    const float *of = products->of;
    const uint8_t *last = from + (size_t)(span->count - 1) * 3;
    float red = (float)from[0] * span->head;
    float green = (float)from[1] * span->head;
    float blue = (float)from[2] * span->head;
    for (from += 3; from < last; from += 3) {
        red += of[from[0]];
        green += of[from[1]];
        blue += of[from[2]];
    }
    const float red_tail = (float)last[0] * span->tail;
    const float green_tail = (float)last[1] * span->tail;
    const float blue_tail = (float)last[2] * span->tail;
    sums[0] = red + red_tail;
    sums[1] = green + green_tail;
    sums[2] = blue + blue_tail;
}

void qdr_area_line(const uint8_t *row, const qdr_area_span *spans, uint32_t width,
                   uint32_t channels, const qdr_area_products *products, float *line) {
    for (uint32_t x = 0; x < width; x++, line += channels) {
        const qdr_area_span *span = &spans[x];
        const uint8_t *from = row + (size_t)span->first * channels;
        if (channels == 3 && span->count > 1 && span->middle == products->weight) {
            rgb_sums(from, span, products, line);
            continue;
        }
        for (uint32_t channel = 0; channel < channels; channel++) {
            line[channel] = span_sum(from + channel, span, channels, products);
        }
    }
}
