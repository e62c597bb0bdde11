/* The engines that this build of the examples is linked with. */
#ifndef QDR_EXAMPLES_ENGINES_H
#define QDR_EXAMPLES_ENGINES_H

#include "qdr/engine.h"

enum { MOST_ENGINES = 3 };

/* engines: [MOST_ENGINES]. Returns how many there are. */
static inline uint32_t linked_engines(qdr_engine *engines) {
    uint32_t count = 0;
#ifdef QDR_WITH_TENSORRT
    /* A product keeps what is built in a cache of its own: it takes minutes. */
    engines[count++] = qdr_tensorrt(NULL, NULL);
#endif
#ifdef QDR_WITH_ONNXRUNTIME
    engines[count++] = qdr_onnxruntime(NULL);
#endif
#ifdef QDR_WITH_OPENVINO
    engines[count++] = qdr_openvino(NULL);
#endif
    (void)engines;
    return count;
}

#endif
