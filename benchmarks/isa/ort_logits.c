/* The logits that ONNX Runtime gives here, through its C interface and a library loaded at run
 * time, so that one program serves every processor that an emulator can be.
 *
 *   ort_logits LIBONNXRUNTIME MODEL PIXELS SIDE [KEY VALUE] > LOGITS     an option of the session
 */
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <string.h>

#include "files.h"

static const OrtApi *api;

static void must(OrtStatus *status, const char *what) {
    if (status != NULL) {
        stop(what, api->GetErrorMessage(status));
    }
}

int main(int count, char **arguments) {
    if (count != 5 && count != 7) {
        stop("ort_logits", "LIBONNXRUNTIME MODEL PIXELS SIDE [KEY VALUE]");
    }
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (library == NULL) {
        stop(arguments[1], dlerror());
    }
    const OrtApiBase *(*base)(void);
    *(void **)&base = dlsym(library, "OrtGetApiBase");
    api = base == NULL ? NULL : base()->GetApi(ORT_API_VERSION);
    if (api == NULL) {
        stop(arguments[1], "does not speak this interface's version");
    }
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator;
    must(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "isa", &env), "environment");
    must(api->CreateSessionOptions(&options), "options");
    must(api->SetIntraOpNumThreads(options, 1), "threads");
    if (count == 7) {
        must(api->AddSessionConfigEntry(options, arguments[5], arguments[6]), "option");
    }
    size_t bytes, pixel_bytes;
    void *model = whole_file(arguments[2], &bytes);
    unsigned char *pixels = whole_file(arguments[3], &pixel_bytes);
    must(api->CreateSessionFromArray(env, model, bytes, options, &session), "session");
    must(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "memory");
    must(api->GetAllocatorWithDefaultOptions(&allocator), "allocator");
    char *input, *output;
    must(api->SessionGetInputName(session, 0, allocator, &input), "input");
    must(api->SessionGetOutputName(session, 0, allocator, &output), "output");
    int64_t side = atoi(arguments[4]), shape[4] = {1, 3, side, side};
    size_t image = (size_t)(3 * side * side);
    for (size_t n = 0; n < pixel_bytes / image; n++) {
        OrtValue *in, *out = NULL;
        OrtTensorTypeAndShapeInfo *info;
        size_t classes;
        void *logits;
        must(api->CreateTensorWithDataAsOrtValue(memory, pixels + n * image, image, shape, 4,
                                                 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &in),
             "tensor");
        must(api->Run(session, NULL, (const char *const *)&input, (const OrtValue *const *)&in, 1,
                      (const char *const *)&output, 1, &out),
             "run");
        must(api->GetTensorTypeAndShape(out, &info), "shape");
        must(api->GetTensorShapeElementCount(info, &classes), "count");
        must(api->GetTensorMutableData(out, &logits), "logits");
        give(logits, classes);
    }
    fflush(stdout);
    /* Its threads and memory end with the process. */
    _Exit(0);
}
