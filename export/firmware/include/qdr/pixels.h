/* From decoded pixels to a network's input: the preprocessing contract, version 1.
 *
 * Gives the same bytes as qdr_edge/preprocess.py. Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_PIXELS_H
#define QDR_PIXELS_H

#include <stddef.h>
#include <stdint.h>

#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QDR_PIXELS_VERSION 1u
#define QDR_PIXELS_MIN_SIDE 32u
#define QDR_PIXELS_MAX_SIDE 20000u
#define QDR_PIXELS_MAX_PIXELS (64u << 20)

typedef enum qdr_pixels_modality {
    QDR_PIXELS_FUNDUS = 1,
    QDR_PIXELS_OCT = 2
} qdr_pixels_modality;

/* The contract, as it stands in a bundle's manifest under `preprocess`. */
typedef struct qdr_pixels_spec {
    qdr_pixels_modality modality;
    uint32_t version;         /* QDR_PIXELS_VERSION */
    uint32_t size;            /* side of the input in pixels, 32..1024, a multiple of clahe_tiles */
    uint32_t window_low;      /* 16-bit gray value that becomes 0, below window_high */
    uint32_t window_high;     /* 16-bit gray value that becomes 255, at most 65535 */
    uint32_t clahe_clip_x100; /* fundus: clip limit of CLAHE in hundredths, 1..10000 */
    uint32_t clahe_tiles;     /* fundus: tiles of CLAHE a side, 1..32 */
    uint32_t median_kernel;   /* OCT: side of the median filter, 3 or 5 */
} qdr_pixels_spec;

/* Decoded pixels, 8 bits a channel, the first row on top.
 *
 * A JPEG may be handed over at the smallest DCT scale (1/1, 1/2, 1/4, 1/8) that leaves both sides
 * at least `decode_margin` x `size`; another scale gives another picture than Python's.
 */
typedef struct qdr_pixels_image {
    const uint8_t *data;
    uint32_t width;       /* pixels in a stored row, 32..20000 */
    uint32_t height;      /* stored rows, 32..20000; at most 64 Mi pixels in all */
    size_t stride;        /* bytes from one stored row to the next, at least width x channels */
    uint32_t channels;    /* 1 gray, 3 RGB interleaved */
    uint32_t orientation; /* of EXIF, 1..8; 1 as stored. Turned while it is read, not copied. */
} qdr_pixels_image;

/* Whether every number of the spec is in its range; QDR_UNSUPPORTED for another version. */
qdr_status qdr_pixels_check_spec(const qdr_pixels_spec *spec);

/* The scratch memory that `qdr_pixels_prepare` needs for images of these sides or smaller ones,
 * stored either way round; 0 if the spec or a side is out of range. At most 2 MiB.
 */
size_t qdr_pixels_scratch_bytes(const qdr_pixels_spec *spec, uint32_t width, uint32_t height);

/* Preprocess an image.
 *
 * scratch: at least qdr_pixels_scratch_bytes(spec, width, height) bytes, of any alignment.
 * out: uint8 [3, size, size], RGB, written whole; must overlap neither the image nor scratch.
 *
 * QDR_BAD_ARGUMENT: a null pointer, or a spec, stride, channel count or orientation out of range.
 * QDR_BAD_IMAGE: a side or the number of pixels is out of range.
 * QDR_NO_SPACE: scratch is too small.
 * QDR_UNSUPPORTED: another version of the contract, or a build whose floating point is not
 * IEEE 754 to the letter (see README of src/pixels: -ffast-math, contraction to fma).
 */
qdr_status qdr_pixels_prepare(const qdr_pixels_spec *spec, const qdr_pixels_image *image,
                              void *scratch, size_t scratch_bytes, uint8_t *out);

/* 16-bit gray values to 8 bits by the spec's window: window_low -> 0, window_high -> 255.
 *
 * count: number of values. out: uint8 [count]; may be the same memory as values.
 */
qdr_status qdr_pixels_window_u16(const qdr_pixels_spec *spec, const uint16_t *values, size_t count,
                                 uint8_t *out);

#ifdef __cplusplus
}
#endif

#endif
