/* Fuzzing preprocessing and the gate: any spec, any image, memory of exactly the stated size.
 *
 * With libFuzzer:
 *
 *     clang -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -ffp-contract=off -I include -I src \
 *         src/pixels/x.c ... tests/pixels/fuzz_pixels.c
 *
 * Without it, with -DQDR_FUZZ_MAIN and any compiler: fuzz_pixels RUNS SEED.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "qdr/pixels.h"

enum { HEAD = 24, MOST_SIDE = 160 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

unsigned long fuzz_prepared;

/* A block of exactly so many bytes, so that a sanitizer sees the first one beyond it. */
static void *block(size_t size) {
    void *memory = malloc(size == 0 ? 1 : size);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

static uint32_t number(const uint8_t *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }

/* The picture: what the input still holds, over and over. */
static uint8_t *picture(const uint8_t *data, size_t size, size_t bytes) {
    uint8_t *pixels = block(bytes);
    for (size_t at = 0; at < bytes; at++) {
        pixels[at] = (uint8_t)(size == 0 ? 0u : data[at % size] + at / size);
    }
    return pixels;
}

static void check_gate(const qdr_pixels_spec *spec, const uint8_t *out, uint8_t odd) {
    qdr_gate_limits limits;
    qdr_gate_result result;
    if (qdr_gate_default_limits(spec->modality, &limits) != QDR_OK) {
        return;
    }
    size_t bytes = qdr_gate_scratch_bytes(spec->size);
    void *scratch = block(bytes);
    if (odd & 1) {
        (void)qdr_gate_check(spec->modality, &limits, out, spec->size, scratch, bytes / 2, &result);
    }
    if (qdr_gate_check(spec->modality, &limits, out, spec->size, scratch, bytes, &result) !=
        QDR_OK) {
        abort();
    }
    free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < HEAD) {
        return 0;
    }
    qdr_pixels_spec spec = {
        .modality = data[0] & 1 ? QDR_PIXELS_FUNDUS : QDR_PIXELS_OCT,
        .version = data[0] & 0x80 ? data[1] : QDR_PIXELS_VERSION,
        .size = data[2] & 0x80 ? number(data + 2) : 32u * (1u + data[2] % 3),
        .window_low = number(data + 4) / 2,
        .window_high = number(data + 6) / (data[6] & 7 ? 1 : 4) / 2 + 32767,
        .clahe_clip_x100 = 1 + number(data + 8) % 10001,
        .clahe_tiles = data[10] & 0x80 ? data[10] % 34u : 1u << data[10] % 4,
        .median_kernel = data[11] & 0x80 ? data[11] % 7u : 3u + 2u * (data[11] & 1u),
    };
    uint32_t width = 20 + data[12] % MOST_SIDE, height = 20 + data[13] % MOST_SIDE;
    uint32_t channels = data[14] & 1 ? 3 : 1;
    size_t stride = (size_t)width * channels + data[15] % 5;
    uint8_t *pixels = picture(data + HEAD, size - HEAD, stride * height);
    qdr_pixels_image image = {pixels, width, height, stride, channels, data[16] & 0x80 ? data[16] % 10u : 1u + data[16] % 8u};
    size_t bytes = qdr_pixels_scratch_bytes(&spec, width, height);
    if (bytes != 0) {
        uint8_t *out = block((size_t)3 * spec.size * spec.size);
        void *scratch = block(bytes);
        if (qdr_pixels_prepare(&spec, &image, scratch, bytes - (data[17] == 0), out) == QDR_OK) {
            fuzz_prepared++;
            check_gate(&spec, out, data[18]);
        }
        free(scratch);
        free(out);
    }
    free(pixels);
    return 0;
}

#ifdef QDR_FUZZ_MAIN
int main(int count, char **arguments) {
    if (count != 3) {
        fputs("usage: fuzz_pixels RUNS SEED\n", stderr);
        return 2;
    }
    unsigned long runs = strtoul(arguments[1], NULL, 10);
    uint64_t state = strtoull(arguments[2], NULL, 10) * 2 + 1;
    for (unsigned long run = 0; run < runs; run++) {
        uint8_t data[HEAD + 200];
        size_t size = HEAD + next_random(&state) % (sizeof data - HEAD);
        for (size_t at = 0; at < size; at++) {
            data[at] = (uint8_t)(next_random(&state) >> 32);
        }
        data[0] &= next_random(&state) % 16 ? 0x7f : 0xff; /* mostly the version there is */
        data[2] &= next_random(&state) % 16 ? 0x7f : 0xff;
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%lu runs, %lu of them prepared\n", runs, fuzz_prepared);
    return 0;
}
#endif
