/* Fuzzing preprocessing and the gate: any spec, any image, memory of exactly the stated size.
 *
 * With libFuzzer: tests/fuzz builds it. Without it, with -DQDR_FUZZ_MAIN and any compiler:
 * fuzz_pixels RUNS SEED.
 *
 * Images are small, so that a run is cheap; sides, strides and channels that no memory could hold
 * must be refused before a pixel is read.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "qdr/pixels.h"

enum { HEAD = 32, MOST_BYTES = 1 << 19, LARGEST_OUT = 3 * 1024 * 1024 };

#define HOLDS(condition)                                           \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                               \
        }                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

unsigned long fuzz_prepared;

/* A block of exactly so many bytes, so that a sanitizer sees the first one beyond it. */
static void *block(size_t size) {
    void *memory = malloc(size == 0 ? 1 : size);
    HOLDS(memory != NULL);
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

/* Any interval of any bits, NaN and the infinities among them. */
static void any_limits(const uint8_t *data, size_t size, qdr_gate_limits *limits) {
    uint8_t *bytes = (uint8_t *)limits;
    for (size_t at = 0; at < sizeof *limits; at++) {
        bytes[at] = size == 0 ? 0 : data[at * 7 % size];
    }
}

static void check_gate(qdr_pixels_modality modality, uint32_t side, const uint8_t *out,
                       const uint8_t *data, size_t size, uint8_t odd) {
    qdr_gate_limits limits;
    qdr_gate_result result;
    size_t bytes = qdr_gate_scratch_bytes(side);
    if (qdr_gate_default_limits(modality, &limits) != QDR_OK || bytes == 0) {
        return;
    }
    void *scratch = block(bytes);
    if (odd & 1) {
        HOLDS(qdr_gate_check(modality, &limits, out, side, scratch, bytes / 2, &result) ==
              QDR_NO_SPACE);
    }
    if (odd & 2) {
        any_limits(data, size, &limits);
        (void)qdr_gate_check(modality, &limits, out, side, scratch, bytes, &result);
    } else {
        HOLDS(qdr_gate_check(modality, &limits, out, side, scratch, bytes, &result) == QDR_OK);
    }
    HOLDS((result.outcome == QDR_GATE_ACCEPTED) == (result.reason[0] == '\0'));
    free(scratch);
}

/* A number from the whole range of its field, or just beyond an edge of it. */
static uint32_t hostile_number(const uint8_t *at) {
    static const uint32_t EDGES[] = {0, 31, 32, 19999, 20000, 20001, 65536, 0x7fffffff,
                                     0x80000000u, 0xfffffffeu, 0xffffffffu};
    uint32_t any = number(at) | number(at + 2) << 16;
    return at[4] & 1 ? EDGES[any % (sizeof EDGES / sizeof *EDGES)] : any >> at[4] % 32;
}

static void make_hostile(const uint8_t *data, qdr_pixels_image *image) {
    uint32_t any = hostile_number(data + 20);
    switch (data[19] % 6) {
    case 0:
        image->width = any;
        break;
    case 1:
        image->height = any;
        break;
    case 2:
        image->width = image->height = any;
        image->stride = (size_t)any * image->channels;
        break;
    case 3:
        image->stride = any;
        break;
    case 4:
        image->stride = SIZE_MAX - any;
        break;
    default:
        image->channels = any;
    }
}

/* The bytes from an image's first to its last, or MOST_BYTES + 1 where it would be more. */
static size_t image_bytes(const qdr_pixels_image *image) {
    const size_t beyond = (size_t)MOST_BYTES + 1;
    size_t row = (size_t)image->width * image->channels;
    size_t rows = image->height == 0 ? 0 : image->height - 1u;
    if (image->stride > MOST_BYTES || rows > MOST_BYTES || row > MOST_BYTES ||
        rows * image->stride + row > MOST_BYTES) {
        return beyond;
    }
    return rows * image->stride + row;
}

static void prepare(const qdr_pixels_spec *spec, qdr_pixels_image *image, const uint8_t *data,
                    size_t size) {
    size_t needed = image_bytes(image);
    size_t bytes = qdr_pixels_scratch_bytes(spec, image->width, image->height);
    bool is_small = data[17] == 0 || needed > MOST_BYTES;
    size_t given = is_small && bytes > 0 ? bytes - 1 : bytes;
    size_t out_bytes = (size_t)3 * spec->size * spec->size;
    /* A spec that is out of range is refused whatever there is. */
    uint8_t *out = block(out_bytes > LARGEST_OUT ? 1 : out_bytes);
    void *scratch = block(given);
    uint8_t *pixels = picture(data + HEAD, size - HEAD, needed > MOST_BYTES ? 1 : needed);
    image->data = pixels;
    qdr_status status = qdr_pixels_prepare(spec, image, scratch, given, out);
    HOLDS(status != QDR_OK || (!is_small && bytes > 0));
    if (status == QDR_OK) {
        fuzz_prepared++;
        check_gate(spec->modality, spec->size, out, data + HEAD, size - HEAD, data[18]);
    }
    free(pixels);
    free(scratch);
    free(out);
}

/* A side that may be out of range, but is never dear. */
static uint32_t odd_side(const uint8_t *at) {
    uint32_t side = number(at) % 1100;
    return side > 96 && side <= 1024 ? 32 + side % 64 : side;
}

/* The gate by itself, on pixels that preprocessing would never give. */
static void gate_alone(const uint8_t *data, size_t size) {
    uint32_t side = data[1] & 0x80 ? odd_side(data + 2) : 32u + data[2] % 16u;
    qdr_pixels_modality modality = data[0] & 1 ? QDR_PIXELS_FUNDUS : QDR_PIXELS_OCT;
    uint8_t *pixels = picture(data + HEAD, size - HEAD, (size_t)3 * side * side);
    check_gate(modality, side, pixels, data + HEAD, size - HEAD, data[18]);
    free(pixels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < HEAD) {
        return 0;
    }
    if (data[18] & 0x40) {
        gate_alone(data, size);
        return 0;
    }
    qdr_pixels_spec spec = {
        .modality = data[0] & 1 ? QDR_PIXELS_FUNDUS : QDR_PIXELS_OCT,
        .version = data[0] & 0x80 ? data[1] : QDR_PIXELS_VERSION,
        .size = data[2] & 0x80 ? odd_side(data + 2) : data[2] % 8 ? 32 : 64,
        .window_low = number(data + 4) / 2,
        .window_high = number(data + 6) / (data[6] & 7 ? 1 : 4) / 2 + 32767,
        .clahe_clip_x100 = 1 + number(data + 8) % 10001,
        .clahe_tiles = data[10] & 0x80 ? data[10] % 34u : 1u << data[10] % 4,
        .median_kernel = data[11] & 0x80 ? data[11] % 7u : 3u + 2u * (data[11] & 1u),
    };
    uint32_t most = data[16] & 0x40 ? 100 : 36;
    qdr_pixels_image image = {
        .width = 28 + data[12] % most,
        .height = 28 + data[13] % most,
        .channels = data[14] & 1 ? 3 : 1,
        .orientation = data[16] & 0x80 ? data[16] % 10u : 1u + data[16] % 8u,
    };
    image.stride = (size_t)image.width * image.channels + data[15] % 5;
    if (data[19] & 0x80) {
        make_hostile(data, &image);
    }
    prepare(&spec, &image, data, size);
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
        data[18] &= next_random(&state) % 8 ? 0xbf : 0xff;
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%lu runs, %lu of them prepared\n", runs, fuzz_prepared);
    return 0;
}
#endif
