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

static void line_of_gray(const uint8_t *row, const qdr_area_span *spans, uint32_t width,
                         float *line) {
    for (uint32_t x = 0; x < width; x++) {
        const qdr_area_span *span = &spans[x];
        const uint8_t *from = row + span->first;
        float sum = (float)from[0] * span->head;
        if (span->count > 1) {
            const uint32_t last = span->count - 1;
            for (uint32_t i = 1; i < last; i++) {
                sum += (float)from[i] * span->middle;
            }
            sum += (float)from[last] * span->tail;
        }
        line[x] = sum;
    }
}

void qdr_area_line(const uint8_t *row, const qdr_area_span *spans, uint32_t width,
                   uint32_t channels, float *line) {
    if (channels == 1) {
        line_of_gray(row, spans, width, line);
        return;
    }
    for (uint32_t x = 0; x < width; x++) {
        const qdr_area_span *span = &spans[x];
        const uint8_t *from = row + (size_t)span->first * 3;
        float red = (float)from[0] * span->head;
        float green = (float)from[1] * span->head;
        float blue = (float)from[2] * span->head;
        if (span->count > 1) {
            const uint8_t *last = from + (size_t)(span->count - 1) * 3;
            for (from += 3; from < last; from += 3) {
                red += (float)from[0] * span->middle;
                green += (float)from[1] * span->middle;
                blue += (float)from[2] * span->middle;
            }
            red += (float)last[0] * span->tail;
            green += (float)last[1] * span->tail;
            blue += (float)last[2] * span->tail;
        }
        line[3 * x] = red;
        line[3 * x + 1] = green;
        line[3 * x + 2] = blue;
    }
}
