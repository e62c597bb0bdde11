/* OpenVINO through its C API, opened as qdr_edge/runtime/openvino.py opens it. */
#define _POSIX_C_SOURCE 200809L /* strcasecmp */
#include <openvino/c/openvino.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ir.h"
#include "onnx.h"
#include "vendor.h"

static const qdr_vendor VENDOR = {"OpenVINO", "QDR_OPENVINO_LIBRARY", "libopenvino_c.so"};

static const char *const OPTIONS[] = {"INFERENCE_PRECISION_HINT", "LP_TRANSFORMS_MODE",
                                      "PERFORMANCE_HINT", NULL};

/* The functions that are used, with the types that the header gives them. */
#define FUNCTIONS(X)                                                                              \
    X(ov_get_openvino_version)                                                                    \
    X(ov_version_free)                                                                            \
    X(ov_get_last_err_msg)                                                                        \
    X(ov_free)                                                                                    \
    X(ov_shape_create)                                                                            \
    X(ov_shape_free)                                                                              \
    X(ov_tensor_create)                                                                           \
    X(ov_tensor_data)                                                                             \
    X(ov_tensor_get_byte_size)                                                                    \
    X(ov_tensor_get_element_type)                                                                 \
    X(ov_tensor_free)                                                                             \
    X(ov_core_create)                                                                             \
    X(ov_core_read_model_from_memory_buffer)                                                      \
    X(ov_core_compile_model)                                                                      \
    X(ov_core_free)                                                                               \
    X(ov_model_free)                                                                              \
    X(ov_compiled_model_create_infer_request)                                                     \
    X(ov_compiled_model_free)                                                                     \
    X(ov_infer_request_get_input_tensor_by_index)                                                 \
    X(ov_infer_request_get_output_tensor_by_index)                                                \
    X(ov_infer_request_infer)                                                                     \
    X(ov_infer_request_free)

typedef struct calls {
#define POINTER(name) __typeof__(&name) name;
    FUNCTIONS(POINTER)
#undef POINTER
} calls;

/* A model that is open, and the request's own tensors. */
typedef struct ov_session {
    calls ov;
    ov_core_t *core;
    ov_compiled_model_t *compiled;
    ov_infer_request_t *request;
    ov_tensor_t *input;
    ov_tensor_t *output;
    void *pixels; /* uint8 [1, 3, S, S] */
    void *logits; /* float32 [1, K] */
    size_t pixel_bytes;
    size_t logit_bytes;
} ov_session;

static bool find_calls(const char *library, calls *out, char why[QDR_WHY_BYTES]) {
    void *loaded = qdr_vendor_load(&VENDOR, library, why);
#define FIND(name) &&qdr_vendor_find(loaded, #name, &out->name, why)
    return loaded != NULL FUNCTIONS(FIND);
#undef FIND
}

static qdr_status version(const char *library, char text[QDR_VERSION_BYTES],
                          char why[QDR_WHY_BYTES]) {
    calls ov;
    ov_version_t found = {NULL, NULL};
    if (!find_calls(library, &ov, why) || ov.ov_get_openvino_version(&found) != OK) {
        return QDR_ENGINE_FAILED;
    }
    /* 2026.4.1-22982-e213a147257-releases/2026/4: the first part is the release. */
    snprintf(text, QDR_VERSION_BYTES, "%.*s", (int)strcspn(found.buildNumber, "-"),
             found.buildNumber);
    ov.ov_version_free(&found);
    return QDR_OK;
}

/* Whether a call went well; if not, OpenVINO's own words. */
static bool held(const calls *ov, ov_status_e status, char why[QDR_WHY_BYTES]) {
    if (status == OK) {
        return true;
    }
    const char *words = ov->ov_get_last_err_msg();
    snprintf(why, QDR_WHY_BYTES, "OpenVINO refuses the model: %s", words == NULL ? "" : words);
    ov->ov_free(words);
    return false;
}

/* The weights of an IR as a tensor that OpenVINO owns. */
static bool make_weights(const calls *ov, qdr_view weights, ov_tensor_t **out,
                         char why[QDR_WHY_BYTES]) {
    const int64_t length[] = {(int64_t)weights.size};
    ov_shape_t shape = {0, NULL};
    void *data = NULL;
    bool good = held(ov, ov->ov_shape_create(1, length, &shape), why) &&
                held(ov, ov->ov_tensor_create(U8, shape, out), why) &&
                held(ov, ov->ov_tensor_data(*out, &data), why);
    if (good) {
        memcpy(data, weights.bytes, weights.size);
    }
    if (shape.dims != NULL) {
        ov->ov_shape_free(&shape);
    }
    return good;
}

/* oneDNN can be told to leave instructions of the processor unused. */
static bool is_held_back(void) {
    static const char *const LIMITS[] = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"};
    static const char *const WITHOUT_VNNI[] = {"SSE41", "AVX", "AVX2", "AVX512_CORE"};
    for (size_t k = 0; k < 2; k++) {
        const char *limit = getenv(LIMITS[k]);
        for (size_t n = 0; limit != NULL && n < 4; n++) {
            if (strcasecmp(limit, WITHOUT_VNNI[n]) == 0) {
                return true;
            }
        }
    }
    return false;
}

static bool compile(ov_session *s, const ov_model_t *network, const qdr_engine_model *model,
                    uint32_t largest, char why[QDR_WHY_BYTES]) {
    char threads[16];
    /* bf16, the default where the CPU has it, moves logits by up to 0.5. */
    const char *precision = "f32", *hint = "LATENCY", *transforms = NULL;
    if ((model->saturates || is_held_back()) && largest > QDR_SATURATION_FREE) {
        /* There are no exact int8 kernels for such a CPU: the graph is then computed as it is
         * written, in float with every rounding. Slower, and right. */
        transforms = "NO";
    }
    for (uint32_t k = 0; k < model->option_count; k++) {
        const char **setting = model->options[k].name == OPTIONS[0]   ? &precision
                               : model->options[k].name == OPTIONS[1] ? &transforms
                                                                      : &hint;
        *setting = model->options[k].value;
    }
    snprintf(threads, sizeof threads, "%u", model->threads);
    /* The last pair is read only where it is counted. */
    return held(&s->ov,
                s->ov.ov_core_compile_model(s->core, network, "CPU", transforms == NULL ? 6 : 8,
                                            &s->compiled, OPTIONS[0], precision, OPTIONS[2], hint,
                                            "INFERENCE_NUM_THREADS", threads, OPTIONS[1],
                                            transforms),
                why);
}

/* The tensor's memory, which must hold just so many bytes of one type. */
static bool is_tensor(const calls *ov, const ov_tensor_t *tensor, ov_element_type_e type,
                      size_t bytes, void **data) {
    ov_element_type_e found = DYNAMIC;
    size_t size = 0;
    return ov->ov_tensor_get_element_type(tensor, &found) == OK && found == type &&
           ov->ov_tensor_get_byte_size(tensor, &size) == OK && size == bytes &&
           ov->ov_tensor_data(tensor, data) == OK;
}

static bool make_request(ov_session *s, const qdr_engine_model *model, char why[QDR_WHY_BYTES]) {
    const calls *ov = &s->ov;
    s->pixel_bytes = (size_t)3 * model->size * model->size;
    s->logit_bytes = model->classes * sizeof(float);
    if (!held(ov, ov->ov_compiled_model_create_infer_request(s->compiled, &s->request), why) ||
        !held(ov, ov->ov_infer_request_get_input_tensor_by_index(s->request, 0, &s->input), why) ||
        !held(ov, ov->ov_infer_request_get_output_tensor_by_index(s->request, 0, &s->output),
              why)) {
        return false;
    }
    if (!is_tensor(ov, s->input, U8, s->pixel_bytes, &s->pixels) ||
        !is_tensor(ov, s->output, F32, s->logit_bytes, &s->logits)) {
        snprintf(why, QDR_WHY_BYTES,
                 "the model is not uint8 [1, 3, %u, %u] to float32 [1, %u], as the manifest says",
                 model->size, model->size, model->classes);
        return false;
    }
    return true;
}

/* Read what was looked at, and compile it. */
static bool start(ov_session *s, const qdr_engine_model *model, qdr_view text, qdr_view weights,
                  uint32_t largest, char why[QDR_WHY_BYTES]) {
    const calls *ov = &s->ov;
    ov_tensor_t *constants = NULL;
    ov_model_t *network = NULL;
    bool good = held(ov, ov->ov_core_create(&s->core), why) &&
                (weights.size == 0 || make_weights(ov, weights, &constants, why)) &&
                held(ov,
                     ov->ov_core_read_model_from_memory_buffer(s->core, (const char *)text.bytes,
                                                               text.size, constants, &network),
                     why) &&
                compile(s, network, model, largest, why) && make_request(s, model, why);
    ov->ov_model_free(network);
    ov->ov_tensor_free(constants);
    return good;
}

static void close_session(void *session) {
    ov_session *s = session;
    s->ov.ov_tensor_free(s->input);
    s->ov.ov_tensor_free(s->output);
    s->ov.ov_infer_request_free(s->request);
    s->ov.ov_compiled_model_free(s->compiled);
    s->ov.ov_core_free(s->core);
    free(s);
}

static qdr_status open_session(const char *library, const qdr_engine_model *model, void **session,
                               char why[QDR_WHY_BYTES]) {
    qdr_view text = model->content, weights = {NULL, 0};
    uint32_t largest;
    const char *refused = qdr_is_ir(text) ? qdr_ir_look(model->content, &text, &weights, &largest)
                                          : qdr_onnx_look(text, &largest);
    if (refused != NULL) {
        snprintf(why, QDR_WHY_BYTES, "the model is refused: %s", refused);
        return QDR_BAD_MODEL;
    }
    ov_session *s = calloc(1, sizeof *s);
    if (s == NULL || !find_calls(library, &s->ov, why)) {
        free(s);
        return QDR_ENGINE_FAILED;
    }
    if (!start(s, model, text, weights, largest, why)) {
        close_session(s);
        return QDR_BAD_MODEL;
    }
    *session = s;
    return QDR_OK;
}

static qdr_status infer(void *session, const uint8_t *pixels, float *logits) {
    ov_session *s = session;
    memcpy(s->pixels, pixels, s->pixel_bytes);
    if (s->ov.ov_infer_request_infer(s->request) != OK) {
        return QDR_ENGINE_FAILED;
    }
    memcpy(logits, s->logits, s->logit_bytes);
    return QDR_OK;
}

qdr_engine qdr_openvino(const char *library) {
    return (qdr_engine){"openvino",   OPTIONS, library,       version,
                        open_session, infer,   close_session, NULL};
}
