/* ONNX Runtime through its C API, opened as qdr_edge/runtime/onnxruntime.py opens it. */
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnx.h"
#include "vendor.h"

static const qdr_vendor VENDOR = {"ONNX Runtime", "QDR_ONNXRUNTIME_LIBRARY",
                                  "libonnxruntime.so.1"};

static const char *const OPTIONS[] = {"session.x64quantprecision",
                                      "session.intra_op.allow_spinning", NULL};

/* A model that is open: one input and one output tensor, over memory of its own. */
typedef struct ort_session {
    const OrtApi *api;
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator; /* ONNX Runtime's own, which is not freed */
    char *input_name;
    char *output_name;
    OrtValue *input;
    OrtValue *output;
    uint8_t *pixels; /* [1, 3, S, S] */
    float *logits;   /* [1, K] */
    size_t pixel_bytes;
    size_t logit_bytes;
} ort_session;

static const OrtApiBase *api_base(const char *library, char why[QDR_WHY_BYTES]) {
    const OrtApiBase *(ORT_API_CALL * get)(void) NO_EXCEPTION = NULL;
    void *loaded = qdr_vendor_load(&VENDOR, library, why);
    if (loaded == NULL || !qdr_vendor_find(loaded, "OrtGetApiBase", &get, why)) {
        return NULL;
    }
    return get();
}

static qdr_status version(const char *library, char text[QDR_VERSION_BYTES],
                          char why[QDR_WHY_BYTES]) {
    const OrtApiBase *base = api_base(library, why);
    if (base == NULL) {
        return QDR_ENGINE_FAILED;
    }
    snprintf(text, QDR_VERSION_BYTES, "%s", base->GetVersionString());
    if (base->GetApi(ORT_API_VERSION) == NULL) {
        snprintf(why, QDR_WHY_BYTES, "ONNX Runtime %s is too old: 1.%d or later is needed", text,
                 ORT_API_VERSION);
        return QDR_ENGINE_FAILED;
    }
    return QDR_OK;
}

/* Whether a call went well; if not, ONNX Runtime's own words. */
static bool held(const OrtApi *api, OrtStatus *status, char why[QDR_WHY_BYTES]) {
    if (status == NULL) {
        return true;
    }
    snprintf(why, QDR_WHY_BYTES, "ONNX Runtime refuses the model: %s",
             api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return false;
}

static bool set_options(ort_session *s, const qdr_engine_model *model, uint32_t largest,
                        char why[QDR_WHY_BYTES]) {
    const OrtApi *api = s->api;
    /* Spinning threads burn the core that preprocessing needs. */
    bool good = held(api, api->CreateSessionOptions(&s->options), why) &&
                held(api, api->SetIntraOpNumThreads(s->options, (int)model->threads), why) &&
                held(api, api->SetInterOpNumThreads(s->options, 1), why) &&
                held(api, api->AddSessionConfigEntry(s->options, OPTIONS[1], "0"), why);
    if (good && model->saturates && largest > QDR_SATURATION_FREE) {
        /* Exact kernels. Without need they would only cost: opening takes five times as long. */
        good = held(api, api->AddSessionConfigEntry(s->options, OPTIONS[0], "1"), why);
    }
    for (uint32_t k = 0; good && k < model->option_count; k++) {
        const qdr_engine_option *option = &model->options[k];
        good = held(api, api->AddSessionConfigEntry(s->options, option->name, option->value), why);
    }
    return good;
}

/* Whether an input or output is of this type, with this many dimensions and this one last. */
static bool is_tensor(const OrtApi *api, OrtTypeInfo *info, ONNXTensorElementDataType type,
                      size_t rank, uint32_t last) {
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType found = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    int64_t dimensions[4] = {0};
    size_t count = 0;
    char why[QDR_WHY_BYTES];
    bool good = held(api, api->CastTypeInfoToTensorInfo(info, &tensor), why) && tensor != NULL &&
                held(api, api->GetTensorElementType(tensor, &found), why) &&
                held(api, api->GetDimensionsCount(tensor, &count), why) && count == rank &&
                held(api, api->GetDimensions(tensor, dimensions, count), why);
    api->ReleaseTypeInfo(info);
    return good && found == type && dimensions[rank - 1] == (int64_t)last;
}

static bool check_interface(ort_session *s, const qdr_engine_model *model,
                            char why[QDR_WHY_BYTES]) {
    const OrtApi *api = s->api;
    OrtTypeInfo *input = NULL, *output = NULL;
    size_t inputs = 0, outputs = 0;
    if (!held(api, api->SessionGetInputCount(s->session, &inputs), why) ||
        !held(api, api->SessionGetOutputCount(s->session, &outputs), why)) {
        return false;
    }
    bool good = inputs == 1 && outputs >= 1 &&
                held(api, api->SessionGetInputTypeInfo(s->session, 0, &input), why) &&
                is_tensor(api, input, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 4, model->size) &&
                held(api, api->SessionGetOutputTypeInfo(s->session, 0, &output), why) &&
                is_tensor(api, output, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 2, model->classes);
    if (!good) {
        snprintf(why, QDR_WHY_BYTES,
                 "the model is not uint8 [1, 3, %u, %u] to float32 [1, %u], as the manifest says",
                 model->size, model->size, model->classes);
    }
    return good;
}

static bool make_tensors(ort_session *s, const qdr_engine_model *model, char why[QDR_WHY_BYTES]) {
    const OrtApi *api = s->api;
    const int64_t side = model->size;
    const int64_t image[] = {1, 3, side, side}, answer[] = {1, model->classes};
    s->pixel_bytes = (size_t)3 * model->size * model->size;
    s->logit_bytes = model->classes * sizeof(float);
    s->pixels = malloc(s->pixel_bytes);
    s->logits = malloc(s->logit_bytes);
    if (s->pixels == NULL || s->logits == NULL) {
        snprintf(why, QDR_WHY_BYTES, "no memory for an image");
        return false;
    }
    return held(api, api->GetAllocatorWithDefaultOptions(&s->allocator), why) &&
           held(api, api->SessionGetInputName(s->session, 0, s->allocator, &s->input_name), why) &&
           held(api, api->SessionGetOutputName(s->session, 0, s->allocator, &s->output_name),
                why) &&
           held(api, api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &s->memory),
                why) &&
           held(api,
                api->CreateTensorWithDataAsOrtValue(s->memory, s->pixels, s->pixel_bytes, image, 4,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &s->input),
                why) &&
           held(api,
                api->CreateTensorWithDataAsOrtValue(s->memory, s->logits, s->logit_bytes, answer, 2,
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                    &s->output),
                why);
}

static void close_session(void *session) {
    ort_session *s = session;
    const OrtApi *api = s->api;
    char unheard[QDR_WHY_BYTES];
    char *names[] = {s->input_name, s->output_name};
    api->ReleaseValue(s->input);
    api->ReleaseValue(s->output);
    for (size_t k = 0; k < 2; k++) {
        if (names[k] != NULL) {
            (void)held(api, api->AllocatorFree(s->allocator, names[k]), unheard);
        }
    }
    api->ReleaseMemoryInfo(s->memory);
    api->ReleaseSession(s->session);
    api->ReleaseSessionOptions(s->options);
    api->ReleaseEnv(s->environment);
    free(s->pixels);
    free(s->logits);
    free(s);
}

static qdr_status open_session(const char *library, const qdr_engine_model *model, void **session,
                       char why[QDR_WHY_BYTES]) {
    uint32_t largest;
    const char *refused = qdr_onnx_look(model->content, &largest);
    if (refused != NULL) {
        snprintf(why, QDR_WHY_BYTES, "the model is refused: %s", refused);
        return QDR_BAD_MODEL;
    }
    const OrtApiBase *base = api_base(library, why);
    const OrtApi *api = base == NULL ? NULL : base->GetApi(ORT_API_VERSION);
    ort_session *s = api == NULL ? NULL : calloc(1, sizeof *s);
    if (s == NULL) {
        return QDR_ENGINE_FAILED;
    }
    s->api = api;
    bool ready = held(api, api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "qdr", &s->environment), why) &&
                 set_options(s, model, largest, why);
    if (ready &&
        held(api,
             api->CreateSessionFromArray(s->environment, model->content.bytes, model->content.size,
                                         s->options, &s->session),
             why) &&
        check_interface(s, model, why) && make_tensors(s, model, why)) {
        *session = s;
        return QDR_OK;
    }
    close_session(s);
    return ready ? QDR_BAD_MODEL : QDR_ENGINE_FAILED;
}

static qdr_status infer(void *session, const uint8_t *pixels, float *logits) {
    ort_session *s = session;
    const char *const inputs[] = {s->input_name}, *const outputs[] = {s->output_name};
    const OrtValue *const images[] = {s->input};
    char unheard[QDR_WHY_BYTES];
    memcpy(s->pixels, pixels, s->pixel_bytes);
    if (!held(s->api,
              s->api->Run(s->session, NULL, inputs, images, 1, outputs, 1, &s->output),
              unheard)) {
        return QDR_ENGINE_FAILED;
    }
    memcpy(logits, s->logits, s->logit_bytes);
    return QDR_OK;
}

qdr_engine qdr_onnxruntime(const char *library) {
    return (qdr_engine){"onnxruntime", OPTIONS, library,       version,
                        open_session,  infer,   close_session, NULL};
}
