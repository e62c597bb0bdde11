/* sRGB to CIE LAB (D65) and back, 8 bits a channel, in whole numbers.
 *
 * Weights, tables and roundings are the contract's: together they define the bytes. Both ways
 * agree with the reference for all 2^24 colours.
 */
#include "pixels_internal.h"

#include "lab_tables.h"

#define BASE (1 << 14)

/* value / 2^bits, half upwards; -2^30 <= value. What a shift to the right makes of a negative
 * number is left to the compiler, so it is made positive first. */
static int32_t descale(int32_t value, int32_t bits) {
    const uint32_t offset = 1u << 30;
    const uint32_t shifted = ((uint32_t)value + (1u << (bits - 1)) + offset) >> bits;
    return (int32_t)shifted - (int32_t)(offset >> bits);
}

static uint8_t saturated(int32_t value) {
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Weights in 2^-12 of linear R, G and B in X / Xn, Y and Z / Zn. */
static uint32_t light(uint32_t r, uint32_t g, uint32_t b, const uint16_t *weights) {
    return (weights[0] * r + weights[1] * g + weights[2] * b + (1u << 11)) >> 12;
}

void qdr_rgb_to_lab(uint8_t *first, uint8_t *second, uint8_t *third, size_t count) {
    static const uint16_t to_x[3] = {1777, 1541, 778};
    static const uint16_t to_y[3] = {871, 2929, 296};
    static const uint16_t to_z[3] = {73, 448, 3575};
    for (size_t i = 0; i < count; i++) {
        const uint32_t r = qdr_lab_linear[first[i]];
        const uint32_t g = qdr_lab_linear[second[i]];
        const uint32_t b = qdr_lab_linear[third[i]];
        const int32_t x = qdr_lab_root[light(r, g, b, to_x)];
        const int32_t y = qdr_lab_root[light(r, g, b, to_y)];
        const int32_t z = qdr_lab_root[light(r, g, b, to_z)];
        first[i] = saturated(descale(296 * y - 1336934, 15));
        second[i] = saturated(descale(500 * (x - y) + (128 << 15), 15));
        third[i] = saturated(descale(200 * (y - z) + (128 << 15), 15));
    }
}

/* The inverse of f(t) of LAB, both in 2^-14; divisions cut off towards 0. */
static int32_t cubed(int32_t root) {
    if (root <= 3390) {
        return root * 108 / 841 - BASE * 16 / 116 * 108 / 841;
    }
    const uint32_t side = (uint32_t)root;
    return (int32_t)(side * side / BASE * side / BASE);
}

static uint8_t encoded(int32_t x, int32_t y, int32_t z, const int32_t *weights) {
    const int32_t value = descale(weights[0] * x + weights[1] * y + weights[2] * z, 14);
    return qdr_lab_encoded[value < 0 ? 0 : value > 4095 ? 4095 : value];
}

void qdr_lab_to_rgb(uint8_t *first, uint8_t *second, uint8_t *third, size_t count) {
    static const int32_t to_r[3] = {12615, -6296, -2223};
    static const int32_t to_g[3] = {-3773, 7684, 185};
    static const int32_t to_b[3] = {217, -836, 4715};
    for (size_t i = 0; i < count; i++) {
        const int32_t y = qdr_lab_luminance[first[i]];
        const int32_t root = qdr_lab_lightness_root[first[i]];
        /* a / 500 and b / 200 around 128, as products the contract fixes. */
        const int32_t a = ((5 * second[i] * 53687 + (1 << 7)) >> 13) - 128 * BASE / 500;
        const int32_t b = ((third[i] * 41943 + (1 << 4)) >> 9) - 128 * BASE / 200 + 1;
        const int32_t x = cubed(root + a);
        const int32_t z = cubed(root - b);
        first[i] = encoded(x, y, z, to_r);
        second[i] = encoded(x, y, z, to_g);
        third[i] = encoded(x, y, z, to_b);
    }
}
