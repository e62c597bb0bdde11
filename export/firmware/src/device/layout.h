/* How a device's arena is divided: the network's input at its beginning, then what a step needs. */
#ifndef QDR_DEVICE_LAYOUT_H
#define QDR_DEVICE_LAYOUT_H

#include "qdr/qdr.h"

/* Bytes of the network's input, uint8 [3, S, S]. */
static inline size_t qdr_input_bytes(const qdr_device *device) {
    return (size_t)3 * device->pixels.size * device->pixels.size;
}

#endif
