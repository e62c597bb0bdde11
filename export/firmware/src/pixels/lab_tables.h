/* Tables of lab.c, about 10 KiB. */
#ifndef QDR_PIXELS_LAB_TABLES_H
#define QDR_PIXELS_LAB_TABLES_H

#include <stdint.h>

extern const uint16_t qdr_lab_linear[256];         /* sRGB level -> linear light, 0..2040 */
extern const uint16_t qdr_lab_root[2041];          /* light -> f(t) of LAB, in 2^-15 */
extern const uint16_t qdr_lab_luminance[256];      /* L -> Y, in 2^-14 */
extern const uint16_t qdr_lab_lightness_root[256]; /* L -> f(Y), in 2^-14 */
extern const uint8_t qdr_lab_encoded[4096];        /* linear light in 2^-12 -> sRGB level */

#endif
