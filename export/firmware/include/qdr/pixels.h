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
 * stored either way round; 0 if the spec or a side is out of range. At most 512 KiB.
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

/* The gate: is this a picture of the right kind, and good enough to decide on?
 *
 * Fourteen features of the preprocessed image, each with an interval: qdr_edge/gate measures the
 * same numbers and gives the same verdict. It is no proof that what passes is a retina.
 */
#define QDR_GATE_VERSION 2u

typedef enum qdr_gate_feature {
    QDR_GATE_STRUCTURE,  /* mean contrast at 2..8 px */
    QDR_GATE_GRAIN,      /* contrast below 2 px over structure */
    QDR_GATE_REDNESS,    /* mean of (R - B) / (R + G + B) over lit pixels */
    QDR_GATE_WARMTH,     /* share of lit pixels with R >= G >= B */
    QDR_GATE_CORNERS,    /* share of the corners that is lit */
    QDR_GATE_FILL,       /* share of the inscribed disc that is lit */
    QDR_GATE_BANDS,      /* share of the gradient energy that is vertical */
    QDR_GATE_BACKDROP,   /* median level of the whole image, 0..255 */
    QDR_GATE_BRIGHTNESS, /* median level inside the lit region, 0..255 */
    QDR_GATE_CONTRAST,   /* standard deviation of the level inside the lit region */
    QDR_GATE_DETAIL,     /* mean contrast below 2 px */
    QDR_GATE_VISIBLE,    /* share of the lit region that shows detail */
    QDR_GATE_LAYERS,     /* level by which four of five columns rise above their ends */
    QDR_GATE_FLAT,       /* share of the lit pixels in stretches of one even tone */
    QDR_GATE_FEATURES
} qdr_gate_feature;

/* The closed interval of each feature that passes, in the order above; as in a bundle's manifest
 * under `decision.gates`. Infinite ends are allowed, NaN is not. */
typedef struct qdr_gate_limits {
    double low[QDR_GATE_FEATURES];
    double high[QDR_GATE_FEATURES];
} qdr_gate_limits;

typedef enum qdr_gate_outcome {
    QDR_GATE_ACCEPTED = 0,
    QDR_GATE_INVALID_INPUT = 1,
    QDR_GATE_UNGRADABLE = 2
} qdr_gate_outcome;

typedef struct qdr_gate_result {
    qdr_gate_outcome outcome;
    const char *reason;       /* one line in static memory; "" if accepted */
    qdr_gate_feature feature; /* the one that lies outside, unless accepted */
    double value, bound;      /* of that feature; 0 if accepted */
    /* How far inside its limits the worst feature of quality lies, in units of that feature, or
     * how far outside the worst feature of any sort; negative only if rejected. */
    double margin;
    double features[QDR_GATE_FEATURES];
} qdr_gate_result;

/* Name of a feature as in a manifest, in static memory; "" if out of range. */
const char *qdr_gate_feature_name(qdr_gate_feature feature);

/* The limits of networks that bring none of their own. */
qdr_status qdr_gate_default_limits(qdr_pixels_modality modality, qdr_gate_limits *limits);

/* The scratch memory that `qdr_gate_check` needs; 0 if size is not in 32..1024. At most 288 KiB. */
size_t qdr_gate_scratch_bytes(uint32_t size);

/* Whether an image may be decided on.
 *
 * pixels: uint8 [3, size, size] of qdr_pixels_prepare. result: always written whole. QDR_OK says
 * that the gate ran, not that the image passed; with any other status the outcome is
 * QDR_GATE_INVALID_INPUT.
 *
 * QDR_BAD_ARGUMENT: a null pointer, another modality, size not in 32..1024, an interval with no
 * value in it. QDR_NO_SPACE: scratch is too small. QDR_UNSUPPORTED: as qdr_pixels_prepare.
 */
qdr_status qdr_gate_check(qdr_pixels_modality modality, const qdr_gate_limits *limits,
                          const uint8_t *pixels, uint32_t size, void *scratch,
                          size_t scratch_bytes, qdr_gate_result *result);

#ifdef __cplusplus
}
#endif

#endif
