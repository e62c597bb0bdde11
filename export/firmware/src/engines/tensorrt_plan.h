/* What TensorRT's engine decides without TensorRT, as qdr_edge/runtime/tensorrt_build.py does. */
#ifndef QDR_ENGINES_TENSORRT_PLAN_H
#define QDR_ENGINES_TENSORRT_PLAN_H

#include "qdr/engine.h"

/* What every engine is built with, and in place of a model's hash for the timings of kernels. */
#define QDR_TRT_FLAGS "q/dq int8 fp16 no-tf32"
#define QDR_TRT_TIMING "timing cache"

/* The options that a bundle may set, NULL behind the last. */
extern const char *const QDR_TRT_OPTIONS[];

typedef struct qdr_trt_plan {
    uint64_t workspace_mib; /* scratch memory of one layer; 0: follows from what is free */
    uint64_t tactic_mib;    /* of all that is tried out */
    uint32_t optimization_level;
    bool cuda_graph; /* an inference is launched as one recorded graph */
    bool spin_wait;  /* and waited for awake */
} qdr_trt_plan;

/* Read a bundle's options; false, and why, if one has no meaning. */
bool qdr_trt_read_options(const qdr_engine_model *model, qdr_trt_plan *out,
                          char why[QDR_WHY_BYTES]);

/* Bound a build by the memory that is free; false, and why, if that is too little. */
bool qdr_trt_bound(qdr_trt_plan *plan, uint64_t free_bytes, char why[QDR_WHY_BYTES]);

/* Memory that the system can still give, of /proc/meminfo; 0 if it cannot be read. */
uint64_t qdr_trt_available_bytes(void);

/* The name of an engine in a cache; `what` is a model's SHA-256 in hex, or QDR_TRT_TIMING. False if
 * the parts are longer than any that exist. */
bool qdr_trt_key(const char *what, const char *device, const char *version,
                 char key[QDR_CACHE_KEY_BYTES]);

/* SHA-256 as hex. */
void qdr_trt_sha256(qdr_view bytes, char hex[QDR_CACHE_KEY_BYTES]);

#endif
