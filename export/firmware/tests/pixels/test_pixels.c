/* Tests of qdr/pixels.h that need no Python: arguments, memory, turns, and golden hashes.
 *
 * The hashes are those of qdr_edge's outputs for the same drawn pictures; a test of the Python
 * suite computes them anew, so that this program alone proves a port to another machine.
 */
#include <stdio.h>
#include <string.h>

#include "qdr/pixels.h"

static unsigned failures;

#define CHECK(holds)                                                         \
    do {                                                                     \
        if (!(holds)) {                                                      \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #holds);               \
            failures++;                                                      \
        }                                                                    \
    } while (0)

#define MAX_SIDE 700
#define MAX_SIZE 256
#define CANARY 0xC3

static uint8_t picture[MAX_SIDE * MAX_SIDE * 3];
static uint8_t turned[MAX_SIDE * MAX_SIDE * 3];
static uint8_t scratch[1 << 19];
static uint8_t out[3 * MAX_SIZE * MAX_SIZE + 16];
static uint8_t other[3 * MAX_SIZE * MAX_SIZE];

static qdr_pixels_spec spec_of(qdr_pixels_modality modality, uint32_t size) {
    return (qdr_pixels_spec){modality, QDR_PIXELS_VERSION, size, 0, 65535, 200, 8, 3};
}

static qdr_pixels_image image_of(const uint8_t *data, uint32_t width, uint32_t height) {
    return (qdr_pixels_image){data, width, height, (size_t)width * 3, 3, 1};
}

/* A bright ellipse on black with noise in it, all in whole numbers. */
static void draw(uint32_t width, uint32_t height, uint32_t seed) {
    uint32_t state = seed;
    uint8_t *to = picture;
    for (uint32_t y = 0; y < height; y++) {
        for (uint32_t x = 0; x < width; x++) {
            const int64_t across = (int64_t)(2 * x + 1) - width;
            const int64_t down = (int64_t)(2 * y + 1) - height;
            const int64_t h2 = (int64_t)height * height, w2 = (int64_t)width * width;
            const int inside = 10 * (across * across * h2 + down * down * w2) < 9 * w2 * h2;
            for (uint32_t channel = 0; channel < 3; channel++) {
                state = state * 1664525u + 1013904223u;
                const uint32_t noise = state >> 27;
                const uint32_t ground = 160 - 50 * channel + 60 * x / width;
                *to++ = (uint8_t)(inside ? ground + noise : noise / 8);
            }
        }
    }
}

static uint32_t hash(const uint8_t *bytes, size_t count) {
    uint32_t state = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < count; i++) {
        state = (state ^ bytes[i]) * 16777619u;
    }
    return state;
}

static qdr_status prepare(const qdr_pixels_spec *spec, const qdr_pixels_image *image) {
    const size_t needed = qdr_pixels_scratch_bytes(spec, image->width, image->height);
    return qdr_pixels_prepare(spec, image, scratch, needed, out);
}

static void test_golden_hashes(void) {
    static const struct {
        uint32_t is_oct, size, width, height, hash;
    } golden[] = {
        /* golden hashes */
        {0, 224, 640, 480, 0x72fc4091u},
        {0, 96, 350, 350, 0xf5821ba4u},
        {0, 128, 512, 512, 0xcb7066ceu},
        {0, 256, 120, 97, 0x95673429u},
        {1, 224, 601, 333, 0xb1fcce77u},
        {1, 96, 192, 192, 0x79e6aa68u},
        {1, 256, 120, 97, 0x2f6304b0u},
        /* end */
    };
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        const qdr_pixels_modality modality = golden[i].is_oct ? QDR_PIXELS_OCT : QDR_PIXELS_FUNDUS;
        const qdr_pixels_spec spec = spec_of(modality, golden[i].size);
        draw(golden[i].width, golden[i].height, golden[i].size);
        const qdr_pixels_image image = image_of(picture, golden[i].width, golden[i].height);
        CHECK(prepare(&spec, &image) == QDR_OK);
        CHECK(hash(out, 3 * (size_t)spec.size * spec.size) == golden[i].hash);
    }
}

static void test_specs_out_of_range_are_refused(void) {
    qdr_pixels_spec spec = spec_of(QDR_PIXELS_FUNDUS, 224);
    CHECK(qdr_pixels_check_spec(&spec) == QDR_OK);
    CHECK(qdr_pixels_check_spec(NULL) == QDR_BAD_ARGUMENT);
    spec.size = 1024;
    spec.clahe_tiles = 32;
    CHECK(qdr_pixels_scratch_bytes(&spec, 20000, 3000) <= 512 << 10);
    spec.version = 2;
    CHECK(qdr_pixels_check_spec(&spec) == QDR_UNSUPPORTED);
#define REFUSES(field, value)                                                \
    do {                                                                     \
        spec = spec_of(QDR_PIXELS_FUNDUS, 224);                              \
        spec.field = (value);                                                \
        CHECK(qdr_pixels_check_spec(&spec) == QDR_BAD_ARGUMENT);             \
        CHECK(qdr_pixels_scratch_bytes(&spec, 640, 480) == 0);               \
    } while (0)
    REFUSES(modality, (qdr_pixels_modality)3);
    REFUSES(size, 24);
    REFUSES(size, 1032);
    REFUSES(size, 225);
    REFUSES(size, UINT32_MAX);
    REFUSES(clahe_tiles, 0);
    REFUSES(clahe_tiles, 33);
    REFUSES(clahe_clip_x100, 0);
    REFUSES(clahe_clip_x100, 10001);
    REFUSES(median_kernel, 4);
    REFUSES(window_high, 65536);
    REFUSES(window_low, 65535);
}

static void test_bad_images_are_refused(void) {
    const qdr_pixels_spec spec = spec_of(QDR_PIXELS_OCT, 96);
    const qdr_pixels_image good = image_of(picture, 64, 64);
    qdr_pixels_image image;
#define ANSWERS(field, value, status)                                        \
    do {                                                                     \
        image = good;                                                        \
        image.field = (value);                                               \
        CHECK(qdr_pixels_prepare(&spec, &image, scratch, sizeof scratch, out) == (status)); \
    } while (0)
    ANSWERS(data, NULL, QDR_BAD_ARGUMENT);
    ANSWERS(width, 31, QDR_BAD_IMAGE);
    ANSWERS(height, 31, QDR_BAD_IMAGE);
    ANSWERS(width, 20001, QDR_BAD_IMAGE);
    ANSWERS(height, UINT32_MAX, QDR_BAD_IMAGE);
    ANSWERS(channels, 0, QDR_BAD_ARGUMENT);
    ANSWERS(channels, 2, QDR_BAD_ARGUMENT);
    ANSWERS(channels, 4, QDR_BAD_ARGUMENT);
    ANSWERS(orientation, 0, QDR_BAD_ARGUMENT);
    ANSWERS(orientation, 9, QDR_BAD_ARGUMENT);
    ANSWERS(stride, 64 * 3 - 1, QDR_BAD_ARGUMENT);
    ANSWERS(stride, SIZE_MAX, QDR_BAD_ARGUMENT);
    image = good;
    image.width = image.height = 20000; /* 400 million pixels */
    CHECK(qdr_pixels_prepare(&spec, &image, scratch, sizeof scratch, out) == QDR_BAD_IMAGE);
    CHECK(qdr_pixels_scratch_bytes(&spec, 20000, 20000) == 0);
    CHECK(qdr_pixels_prepare(NULL, &good, scratch, sizeof scratch, out) == QDR_BAD_ARGUMENT);
    CHECK(qdr_pixels_prepare(&spec, NULL, scratch, sizeof scratch, out) == QDR_BAD_ARGUMENT);
    CHECK(qdr_pixels_prepare(&spec, &good, NULL, sizeof scratch, out) == QDR_BAD_ARGUMENT);
    CHECK(qdr_pixels_prepare(&spec, &good, scratch, sizeof scratch, NULL) == QDR_BAD_ARGUMENT);
    const size_t needed = qdr_pixels_scratch_bytes(&spec, 64, 64);
    CHECK(qdr_pixels_prepare(&spec, &good, scratch, needed - 1, out) == QDR_NO_SPACE);
}

static void test_nothing_beside_scratch_and_output_is_written(void) {
    for (uint32_t offset = 0; offset < 8; offset++) {
        const qdr_pixels_spec spec = spec_of(QDR_PIXELS_FUNDUS, 96);
        draw(201, 190, 7);
        const qdr_pixels_image image = image_of(picture, 201, 190);
        const size_t needed = qdr_pixels_scratch_bytes(&spec, 201, 190);
        const size_t written = 3 * 96 * 96;
        memset(scratch, CANARY, sizeof scratch);
        memset(out, CANARY, sizeof out);
        CHECK(needed + 16 < sizeof scratch);
        CHECK(qdr_pixels_prepare(&spec, &image, scratch + offset, needed, out) == QDR_OK);
        for (size_t i = 0; i < 8; i++) {
            CHECK(scratch[offset + needed + i] == CANARY);
            CHECK(out[written + i] == CANARY);
        }
        for (size_t i = 0; i < offset; i++) {
            CHECK(scratch[i] == CANARY);
        }
    }
}

/* Where EXIF says that pixel (x, y) of the upright picture is stored. */
static const uint8_t *stored(uint32_t turn, uint32_t width, uint32_t height, uint32_t x,
                             uint32_t y) {
    const uint32_t from_right = width - 1, from_below = height - 1;
    uint32_t column = x, row = y;
    switch (turn) {
    case 2: column = from_right - x; break;
    case 3: column = from_right - x; row = from_below - y; break;
    case 4: row = from_below - y; break;
    case 5: column = y; row = x; break;
    case 6: column = y; row = from_below - x; break;
    case 7: column = from_right - y; row = from_below - x; break;
    case 8: column = from_right - y; row = x; break;
    default: break;
    }
    return picture + ((size_t)row * width + column) * 3;
}

static void test_a_turned_picture_is_the_upright_one(void) {
    const uint32_t width = 180, height = 140;
    draw(width, height, 3);
    for (uint32_t turn = 1; turn <= 8; turn++) {
        const uint32_t upright_width = turn < 5 ? width : height;
        const uint32_t upright_height = turn < 5 ? height : width;
        for (uint32_t y = 0; y < upright_height; y++) {
            for (uint32_t x = 0; x < upright_width; x++) {
                memcpy(turned + ((size_t)y * upright_width + x) * 3,
                       stored(turn, width, height, x, y), 3);
            }
        }
        for (uint32_t modality = QDR_PIXELS_FUNDUS; modality <= QDR_PIXELS_OCT; modality++) {
            const qdr_pixels_spec spec = spec_of((qdr_pixels_modality)modality, 64);
            const size_t written = 3 * 64 * 64;
            const qdr_pixels_image upright = image_of(turned, upright_width, upright_height);
            CHECK(prepare(&spec, &upright) == QDR_OK);
            memcpy(other, out, written);
            qdr_pixels_image image = image_of(picture, width, height);
            image.orientation = turn;
            CHECK(prepare(&spec, &image) == QDR_OK);
            CHECK(memcmp(out, other, written) == 0);
        }
    }
}

static void test_rows_may_stand_apart_and_gray_is_gray_rgb(void) {
    const uint32_t width = 150, height = 110;
    const size_t stride = 3 * 150 + 13;
    for (uint32_t modality = QDR_PIXELS_FUNDUS; modality <= QDR_PIXELS_OCT; modality++) {
        const qdr_pixels_spec spec = spec_of((qdr_pixels_modality)modality, 64);
        const size_t written = 3 * 64 * 64;
        draw(width, height, 5);
        memset(turned, 0xEE, sizeof turned);
        for (uint32_t y = 0; y < height; y++) {
            memcpy(turned + y * stride, picture + (size_t)y * width * 3, (size_t)width * 3);
        }
        qdr_pixels_image image = image_of(picture, width, height);
        CHECK(prepare(&spec, &image) == QDR_OK);
        memcpy(other, out, written);
        image.data = turned;
        image.stride = stride;
        CHECK(prepare(&spec, &image) == QDR_OK);
        CHECK(memcmp(out, other, written) == 0);

        for (uint32_t i = 0; i < width * height; i++) {
            turned[i] = picture[3 * i];
            memset(picture + 3 * (size_t)i, turned[i], 3);
        }
        const qdr_pixels_image rgb = image_of(picture, width, height);
        CHECK(prepare(&spec, &rgb) == QDR_OK);
        memcpy(other, out, written);
        const qdr_pixels_image gray = {turned, width, height, width, 1, 1};
        CHECK(prepare(&spec, &gray) == QDR_OK);
        CHECK(memcmp(out, other, written) == 0);
    }
}

static void test_sixteen_bits_become_eight_by_the_window(void) {
    qdr_pixels_spec spec = spec_of(QDR_PIXELS_OCT, 64);
    const uint16_t values[6] = {0, 255, 256, 1000, 2000, 65535};
    uint8_t levels[6];
    CHECK(qdr_pixels_window_u16(&spec, values, 6, levels) == QDR_OK);
    CHECK(memcmp(levels, (const uint8_t[]){0, 0, 1, 3, 7, 255}, 6) == 0);
    spec.window_low = 1000;
    spec.window_high = 1999;
    CHECK(qdr_pixels_window_u16(&spec, values, 6, levels) == QDR_OK);
    CHECK(memcmp(levels, (const uint8_t[]){0, 0, 0, 0, 255, 255}, 6) == 0);
    CHECK(qdr_pixels_window_u16(&spec, NULL, 0, NULL) == QDR_OK);
    CHECK(qdr_pixels_window_u16(&spec, NULL, 1, levels) == QDR_BAD_ARGUMENT);
    CHECK(qdr_pixels_window_u16(NULL, values, 1, levels) == QDR_BAD_ARGUMENT);
}

static void test_the_gate(void) {
    const qdr_pixels_modality fundus = QDR_PIXELS_FUNDUS;
    const size_t needed = qdr_gate_scratch_bytes(96);
    qdr_gate_limits limits;
    qdr_gate_result result;
    CHECK(qdr_gate_scratch_bytes(31) == 0 && qdr_gate_scratch_bytes(1025) == 0);
    CHECK(qdr_gate_scratch_bytes(1024) <= 288 << 10);
    CHECK(qdr_gate_default_limits((qdr_pixels_modality)0, &limits) == QDR_BAD_ARGUMENT);
    CHECK(qdr_gate_default_limits(fundus, NULL) == QDR_BAD_ARGUMENT);
    CHECK(qdr_gate_default_limits(fundus, &limits) == QDR_OK);
    CHECK(strcmp(qdr_gate_feature_name(QDR_GATE_FLAT), "flat") == 0);
    CHECK(strcmp(qdr_gate_feature_name(QDR_GATE_FEATURES), "") == 0);

    memset(other, 90, sizeof other);
    CHECK(qdr_gate_check(fundus, &limits, other, 96, scratch, needed, &result) == QDR_OK);
    CHECK(result.outcome == QDR_GATE_INVALID_INPUT && result.margin < 0);
    CHECK(strcmp(result.reason, "an empty or even picture") == 0);
    result.outcome = QDR_GATE_ACCEPTED;
    CHECK(qdr_gate_check(fundus, &limits, other, 96, scratch, needed - 1, &result) ==
          QDR_NO_SPACE);
    CHECK(result.outcome == QDR_GATE_INVALID_INPUT && result.margin < 0);
    CHECK(strcmp(result.reason, "the gate did not run") == 0);
    CHECK(qdr_gate_check(fundus, &limits, other, 96, scratch, needed, NULL) == QDR_BAD_ARGUMENT);
    CHECK(qdr_gate_check(fundus, &limits, NULL, 96, scratch, needed, &result) == QDR_BAD_ARGUMENT);
    CHECK(qdr_gate_check(fundus, &limits, other, 16, scratch, needed, &result) ==
          QDR_BAD_ARGUMENT);
    CHECK(qdr_gate_check(fundus, NULL, other, 96, scratch, needed, &result) == QDR_BAD_ARGUMENT);
    limits.low[QDR_GATE_BANDS] = limits.high[QDR_GATE_BANDS] + 1;
    CHECK(qdr_gate_check(fundus, &limits, other, 96, scratch, needed, &result) ==
          QDR_BAD_ARGUMENT);
}

int main(void) {
    test_golden_hashes();
    test_specs_out_of_range_are_refused();
    test_bad_images_are_refused();
    test_nothing_beside_scratch_and_output_is_written();
    test_a_turned_picture_is_the_upright_one();
    test_rows_may_stand_apart_and_gray_is_gray_rgb();
    test_sixteen_bits_become_eight_by_the_window();
    test_the_gate();
    printf("%u checks failed\n", failures);
    return failures != 0;
}
