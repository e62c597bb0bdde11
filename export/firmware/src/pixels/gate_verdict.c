/* The verdict on measured features, and the limits of networks that bring none. */
#include <math.h> /* INFINITY */
#include <string.h>

#include "gate_internal.h"

#define NONE INFINITY

#define FUNDUS 0
#define OCT 1

typedef struct rule {
    qdr_gate_feature feature;
    bool is_low;
    qdr_gate_outcome outcome;
    const char *reason[2]; /* fundus, OCT */
} rule;

#define BOTH(text) {text, text}
#define OF(text) {text "a fundus photograph", text "an OCT scan"}

/* In the order asked: an empty picture first, then noise; a picture too dark to judge its kind is
 * ungradable before its kind is asked. */
static const rule RULES[] = {
    {QDR_GATE_STRUCTURE, true, QDR_GATE_INVALID_INPUT, BOTH("an empty or even picture")},
    {QDR_GATE_GRAIN, false, QDR_GATE_INVALID_INPUT, BOTH("noise, text or line art")},
    {QDR_GATE_BRIGHTNESS, true, QDR_GATE_UNGRADABLE, BOTH("too dark")},
    {QDR_GATE_REDNESS, true, QDR_GATE_INVALID_INPUT, OF("too little red for ")},
    {QDR_GATE_REDNESS, false, QDR_GATE_INVALID_INPUT, OF("too coloured for ")},
    {QDR_GATE_WARMTH, true, QDR_GATE_INVALID_INPUT, OF("not the colours of ")},
    {QDR_GATE_BANDS, true, QDR_GATE_INVALID_INPUT, BOTH("no horizontal layers")},
    {QDR_GATE_BANDS, false, QDR_GATE_INVALID_INPUT, BOTH("horizontal layers")},
    {QDR_GATE_BACKDROP, false, QDR_GATE_INVALID_INPUT, BOTH("no dark background")},
    {QDR_GATE_CORNERS, false, QDR_GATE_INVALID_INPUT,
     BOTH("the corners are lit, no field of view")},
    {QDR_GATE_FILL, true, QDR_GATE_INVALID_INPUT, BOTH("hardly anything in the field of view")},
    {QDR_GATE_FILL, false, QDR_GATE_INVALID_INPUT, BOTH("lit all over")},
    {QDR_GATE_FLAT, false, QDR_GATE_INVALID_INPUT,
     BOTH("large parts are of one even tone: a drawing or a damaged file")},
    {QDR_GATE_STRUCTURE, false, QDR_GATE_INVALID_INPUT, OF("edges too strong for ")},
    {QDR_GATE_CONTRAST, false, QDR_GATE_INVALID_INPUT, OF("contrast too strong for ")},
    {QDR_GATE_BRIGHTNESS, false, QDR_GATE_UNGRADABLE, BOTH("too bright")},
    {QDR_GATE_CONTRAST, true, QDR_GATE_UNGRADABLE, BOTH("too little contrast")},
    {QDR_GATE_DETAIL, true, QDR_GATE_UNGRADABLE, BOTH("too blurred")},
    {QDR_GATE_GRAIN, true, QDR_GATE_UNGRADABLE, BOTH("too blurred")},
    {QDR_GATE_DETAIL, false, QDR_GATE_UNGRADABLE, BOTH("too noisy")},
    {QDR_GATE_VISIBLE, true, QDR_GATE_UNGRADABLE, BOTH("too little of the field shows detail")},
    {QDR_GATE_LAYERS, true, QDR_GATE_UNGRADABLE,
     BOTH("the layers are too weak, interrupted or cut off")},
};

/* Default ends of an interval, and the unit in which a margin to them counts. */
typedef struct span {
    const char *name;
    struct {
        double low, high, unit;
    } of[2]; /* fundus, OCT */
} span;

static const span SPANS[QDR_GATE_FEATURES] = {
    [QDR_GATE_STRUCTURE] = {"structure", {{0.5, NONE, 2.2}, {0.5, 40.0, 3.0}}},
    [QDR_GATE_GRAIN] = {"grain", {{0.22, 1.8, 0.3}, {0.25, 1.3, 0.1}}},
    [QDR_GATE_REDNESS] = {"redness", {{0.05, 0.70, 0.1}, {-0.02, 0.02, 0.01}}},
    [QDR_GATE_WARMTH] = {"warmth", {{0.45, 1.0, 0.1}, {-NONE, NONE, 1.0}}},
    [QDR_GATE_CORNERS] = {"corners", {{0.0, 0.70, 0.1}, {0.0, 0.85, 0.1}}},
    [QDR_GATE_FILL] = {"fill", {{0.60, 1.0, 0.1}, {0.05, 0.97, 0.15}}},
    [QDR_GATE_BANDS] = {"bands", {{0.02, 0.78, 0.06}, {0.66, 1.0, 0.05}}},
    [QDR_GATE_BACKDROP] = {"backdrop", {{0.0, 235.0, 26.0}, {0.0, 64.0, 10.0}}},
    [QDR_GATE_BRIGHTNESS] = {"brightness", {{36.0, 225.0, 26.0}, {36.0, 125.0, 12.0}}},
    [QDR_GATE_CONTRAST] = {"contrast", {{6.0, 75.0, 6.0}, {10.0, 90.0, 8.0}}},
    [QDR_GATE_DETAIL] = {"detail", {{1.1, 25.0, 1.8}, {3.0, 25.0, 2.3}}},
    [QDR_GATE_VISIBLE] = {"visible", {{0.25, 1.0, 0.15}, {-NONE, NONE, 1.0}}},
    [QDR_GATE_LAYERS] = {"layers", {{-NONE, NONE, 1.0}, {36.0, NONE, 25.0}}},
    [QDR_GATE_FLAT] = {"flat", {{0.0, 0.10, 0.05}, {0.0, 0.10, 0.05}}},
};

static bool is_modality(qdr_pixels_modality modality) {
    return modality == QDR_PIXELS_FUNDUS || modality == QDR_PIXELS_OCT;
}

const char *qdr_gate_feature_name(qdr_gate_feature feature) {
    return (unsigned)feature < QDR_GATE_FEATURES ? SPANS[feature].name : "";
}

qdr_status qdr_gate_default_limits(qdr_pixels_modality modality, qdr_gate_limits *limits) {
    if (!is_modality(modality) || !limits) {
        return QDR_BAD_ARGUMENT;
    }
    const unsigned kind = modality == QDR_PIXELS_FUNDUS ? FUNDUS : OCT;
    for (unsigned i = 0; i < QDR_GATE_FEATURES; i++) {
        limits->low[i] = SPANS[i].of[kind].low;
        limits->high[i] = SPANS[i].of[kind].high;
    }
    return QDR_OK;
}

static void judge(unsigned kind, const qdr_gate_limits *limits, qdr_gate_result *result) {
    for (size_t i = 0; i < sizeof RULES / sizeof RULES[0]; i++) {
        const rule *asked = &RULES[i];
        const double value = result->features[asked->feature];
        const double bound =
            asked->is_low ? limits->low[asked->feature] : limits->high[asked->feature];
        const double inside = asked->is_low ? value - bound : bound - value;
        if (inside < 0.0) {
            if (result->outcome == QDR_GATE_ACCEPTED) {
                result->outcome = asked->outcome;
                result->reason = asked->reason[kind];
                result->feature = asked->feature;
                result->value = value;
                result->bound = bound;
            }
        } else if (asked->outcome == QDR_GATE_INVALID_INPUT) {
            continue; /* more of the right kind is no better quality */
        }
        const double margin = inside / SPANS[asked->feature].of[kind].unit;
        result->margin = margin < result->margin ? margin : result->margin;
    }
}

static bool limits_are_good(const qdr_gate_limits *limits) {
    for (unsigned i = 0; i < QDR_GATE_FEATURES; i++) {
        /* Written so that NaN fails too. */
        if (!(limits->low[i] <= limits->high[i])) {
            return false;
        }
    }
    return true;
}

static qdr_pixel_view plane_of(const uint8_t *pixels, uint32_t size) {
    return (qdr_pixel_view){pixels, (ptrdiff_t)size, 1, size, size, 1};
}

size_t qdr_gate_scratch_bytes(uint32_t size) {
    if (size < 32 || size > QDR_PIXELS_MAX_SIZE) {
        return 0;
    }
    const qdr_pixel_view plane = plane_of(NULL, size);
    qdr_gate_picture picture;
    qdr_arena arena = {NULL, 0};
    qdr_gate_open(&picture, &arena, &plane);
    return arena.used + 7; /* the caller's block may start anywhere */
}

qdr_status qdr_gate_check(qdr_pixels_modality modality, const qdr_gate_limits *limits,
                          const uint8_t *pixels, uint32_t size, void *scratch,
                          size_t scratch_bytes, qdr_gate_result *result) {
    if (result) {
        /* A caller that overlooks the status must not find an image accepted. */
        memset(result, 0, sizeof *result);
        result->outcome = QDR_GATE_INVALID_INPUT;
        result->reason = "the gate did not run";
        result->margin = -INFINITY;
    }
    const size_t needed = qdr_gate_scratch_bytes(size);
    if (!is_modality(modality) || !limits || !pixels || !scratch || !result || !needed ||
        !limits_are_good(limits)) {
        return QDR_BAD_ARGUMENT;
    }
    if (scratch_bytes < needed) {
        return QDR_NO_SPACE;
    }
    if (!qdr_pixels_arithmetic_is_exact()) {
        return QDR_UNSUPPORTED;
    }
    uint8_t *base = scratch;
    base += (8 - (uintptr_t)base % 8) % 8;
    qdr_arena arena = {base, 0};
    const qdr_pixel_view plane = plane_of(pixels, size);
    qdr_gate_picture picture;
    qdr_gate_open(&picture, &arena, &plane);
    result->outcome = QDR_GATE_ACCEPTED;
    result->reason = "";
    result->margin = INFINITY;
    qdr_gate_measure(&picture, pixels, size, result->features);
    judge(modality == QDR_PIXELS_FUNDUS ? FUNDUS : OCT, limits, result);
    return QDR_OK;
}
