/* How a device's arena is divided: the network's input first, then whatever a step needs. */
#ifndef QDR_DEVICE_LAYOUT_H
#define QDR_DEVICE_LAYOUT_H

#include "qdr/qdr.h"

typedef struct qdr_arena {
    size_t pixels; /* uint8 [3, S, S] */
    size_t rest;
} qdr_arena;

qdr_arena qdr_arena_layout(const qdr_device *device);

#endif
