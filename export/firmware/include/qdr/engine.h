/* Engines: other runtimes behind the calls of qdr/qdr.h.
 *
 * libqdr itself runs native targets and nothing else. An engine runs those of one other backend: it
 * is a library of its own, which loads the vendor's when a bundle is opened that needs it. Engines
 * allocate memory and start threads as the vendor's library does.
 *
 *   qdr_onnxruntime   libqdr_onnxruntime   CMake: QDR_ONNXRUNTIME
 *   qdr_openvino      libqdr_openvino      CMake: QDR_OPENVINO
 *   qdr_tensorrt      libqdr_tensorrt      CMake: QDR_TENSORRT
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_ENGINE_H
#define QDR_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "qdr/bundle.h"
#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Room for one line that says why, and for a version. */
#define QDR_WHY_BYTES 512u
#define QDR_VERSION_BYTES 64u
/* The most options that an engine lets a bundle set. */
#define QDR_MAX_OPTIONS 4u

/* An option that the bundle sets; `name` is the engine's own. */
typedef struct qdr_engine_option {
    const char *name;
    char value[64];
} qdr_engine_option;

/* A cache's key: the SHA-256 in hex of everything that its content depends on. */
#define QDR_CACHE_KEY_BYTES 65u

/* Where what took minutes to build is kept between starts. The storage is the application's, and so
 * is its trust: a built engine is executable code, and `load` must give only what `store` was given
 * on this very device, e.g. by an HMAC over key and content. */
typedef struct qdr_engine_cache {
    void *context;
    /* {NULL, 0} if there is none. The bytes stay until qdr_open_with returns. */
    qdr_view (*load)(void *context, const char key[QDR_CACHE_KEY_BYTES]);
    /* If it cannot be kept, the next start builds again. */
    void (*store)(void *context, const char key[QDR_CACHE_KEY_BYTES], qdr_view content);
} qdr_engine_cache;

/* What an engine opens: verified bytes, which stay until it is closed. */
typedef struct qdr_engine_model {
    qdr_view content;
    uint32_t size;    /* it takes uint8 [1, 3, size, size] */
    uint32_t classes; /* and gives float32 [1, classes] */
    uint32_t threads; /* of one inference, 1 or more */
    bool saturates;   /* this processor adds pairs of u8·s8 products in 16 bits: x86 without VNNI */
    uint32_t option_count;
    qdr_engine_option options[QDR_MAX_OPTIONS]; /* [option_count] */
    const qdr_engine_cache *cache;              /* NULL: there is none */
} qdr_engine_model;

/* One backend. Every call that fails writes one line to `why`. */
typedef struct qdr_engine {
    const char *backend;        /* as the manifest names it */
    const char *const *options; /* that a bundle may set, NULL behind the last */
    const char *library;        /* the vendor's; NULL: where the engine looks for it */

    /* The version of the vendor's library. QDR_ENGINE_FAILED: it cannot be loaded,
     * or finds no device that it runs on. */
    qdr_status (*version)(const char *library, char version[QDR_VERSION_BYTES],
                          char why[QDR_WHY_BYTES]);

    /* QDR_BAD_MODEL: the engine or its runtime refuses the bytes. QDR_ENGINE_FAILED: the rest. */
    qdr_status (*open)(const char *library, const qdr_engine_model *model, void **session,
                       char why[QDR_WHY_BYTES]);

    /* pixels: [3, size, size]. logits: [classes]. One call at a time for each session. */
    qdr_status (*infer)(void *session, const uint8_t *pixels, float *logits);

    void (*close)(void *session);

    const qdr_engine_cache *cache; /* of engines that build on the device; NULL: none */
} qdr_engine;

/* ONNX Runtime 1.21 or later. `library`: its file; NULL: that of the environment's
 * QDR_ONNXRUNTIME_LIBRARY, or libonnxruntime.so.1 where the system looks for libraries. */
qdr_engine qdr_onnxruntime(const char *library);

/* OpenVINO 2025 or later. `library`: its C library; NULL: that of the environment's
 * QDR_OPENVINO_LIBRARY, or libopenvino_c.so where the system looks for libraries. */
qdr_engine qdr_openvino(const char *library);

/* TensorRT of the major version, and CUDA of the one, that the engine was compiled for. `library`:
 * libnvinfer; NULL: that of the environment's QDR_TENSORRT_LIBRARY, or libnvinfer.so.MAJOR where the
 * system looks for libraries; its parser and CUDA's runtime by QDR_NVONNXPARSER_LIBRARY and
 * QDR_CUDART_LIBRARY likewise. `cache` stays as long as the engine; NULL: each opening builds, which
 * takes seconds to minutes. */
qdr_engine qdr_tensorrt(const char *library, const qdr_engine_cache *cache);

#ifdef __cplusplus
}
#endif

#endif
