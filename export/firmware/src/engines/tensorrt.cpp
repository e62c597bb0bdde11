/* TensorRT through its C++ API, opened as qdr_edge/runtime/tensorrt.py opens it. */
#include "tensorrt.hpp"

#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

extern "C" {
#include "onnx.h"
}

namespace {

using nvinfer1::DataType;
using qdr_trt::Device;
using qdr_trt::Log;
using qdr_trt::Vendor;

/* A tensor's memory: page-locked here, from where the GPU copies without a detour, and there. */
struct Buffer {
    void *host = nullptr;
    void *device = nullptr;
    size_t bytes = 0;
};

/* An engine that is open. Whatever was made of it is freed, half opened too. */
struct Session {
    explicit Session(const Vendor &found) : vendor(found) {}
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    ~Session();

    qdr_status start(qdr_view bytes, const qdr_engine_model &model, const qdr_trt_plan &plan,
                     char why[QDR_WHY_BYTES]);
    bool infer(const uint8_t *image, float *answer);

    Vendor vendor;
    /* A context must go before its engine, an engine before its runtime. */
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    cudaStream_t stream = nullptr;
    cudaGraphExec_t graph = nullptr;
    Buffer pixels; /* uint8 or float32 [1, 3, S, S] */
    Buffer logits; /* float32 [1, K] */
    size_t values = 0;
    bool takes_float = false;

  private:
    bool check_interface(const qdr_engine_model &model, const char **input, const char **output);
    bool make(Buffer *buffer, const char *tensor, size_t bytes, char why[QDR_WHY_BYTES]);
    bool enqueue(char why[QDR_WHY_BYTES]);
    bool wait(char why[QDR_WHY_BYTES]);
    bool record(char why[QDR_WHY_BYTES]);
};

Session::~Session() {
    if (stream != nullptr) {
        (void)vendor.cudaStreamSynchronize(stream);
    }
    context.reset();
    engine.reset();
    runtime.reset();
    if (graph != nullptr) {
        (void)vendor.cudaGraphExecDestroy(graph);
    }
    for (const Buffer *buffer : {&pixels, &logits}) {
        (void)vendor.cudaFree(buffer->device);
        (void)vendor.cudaFreeHost(buffer->host);
    }
    if (stream != nullptr) {
        (void)vendor.cudaStreamDestroy(stream);
    }
}

bool is_shape(const nvinfer1::Dims &found, std::initializer_list<int64_t> expected) {
    if (found.nbDims != static_cast<int32_t>(expected.size())) {
        return false;
    }
    const auto *at = found.d;
    for (const int64_t length : expected) {
        if (static_cast<int64_t>(*at++) != length) {
            return false;
        }
    }
    return true;
}

/* One input, uint8 or float32 that takes the same 0..255, and one output of float32. */
bool Session::check_interface(const qdr_engine_model &model, const char **input,
                              const char **output) {
    const auto side = static_cast<int64_t>(model.size);
    if (engine->getNbIOTensors() != 2) {
        return false;
    }
    const bool first = engine->getTensorIOMode(engine->getIOTensorName(0)) ==
                       nvinfer1::TensorIOMode::kINPUT;
    *input = engine->getIOTensorName(first ? 0 : 1);
    *output = engine->getIOTensorName(first ? 1 : 0);
    const DataType type = engine->getTensorDataType(*input);
    takes_float = type == DataType::kFLOAT;
    return engine->getTensorIOMode(*input) == nvinfer1::TensorIOMode::kINPUT &&
           engine->getTensorIOMode(*output) == nvinfer1::TensorIOMode::kOUTPUT &&
           (takes_float || type == DataType::kUINT8) &&
           engine->getTensorDataType(*output) == DataType::kFLOAT &&
           is_shape(engine->getTensorShape(*input), {1, 3, side, side}) &&
           is_shape(engine->getTensorShape(*output), {1, static_cast<int64_t>(model.classes)});
}

bool Session::make(Buffer *buffer, const char *tensor, size_t bytes, char why[QDR_WHY_BYTES]) {
    buffer->bytes = bytes;
    if (!vendor.held(vendor.cudaHostAlloc(&buffer->host, bytes, cudaHostAllocDefault),
                     "cudaHostAlloc", why) ||
        !vendor.held(vendor.cudaMalloc(&buffer->device, bytes), "cudaMalloc", why)) {
        return false;
    }
    if (!context->setTensorAddress(tensor, buffer->device)) {
        Log::get().explain("take an address for a tensor", why);
        return false;
    }
    return true;
}

qdr_status Session::start(qdr_view bytes, const qdr_engine_model &model, const qdr_trt_plan &plan,
                          char why[QDR_WHY_BYTES]) {
    Log &log = Log::get();
    const char *input = nullptr, *output = nullptr;
    log.begin();
    runtime.reset(
        static_cast<nvinfer1::IRuntime *>(vendor.create_runtime(&log, NV_TENSORRT_VERSION)));
    if (runtime == nullptr) {
        log.explain("start its runtime", why);
        return QDR_ENGINE_FAILED;
    }
    engine.reset(runtime->deserializeCudaEngine(bytes.bytes, bytes.size));
    if (engine == nullptr) {
        log.explain("load the engine", why);
        return QDR_ENGINE_FAILED;
    }
    if (!check_interface(model, &input, &output)) {
        std::snprintf(why, QDR_WHY_BYTES,
                      "the model is not uint8 or float32 [1, 3, %u, %u] to float32 [1, %u], as the "
                      "manifest says",
                      model.size, model.size, model.classes);
        return QDR_BAD_MODEL;
    }
    context.reset(engine->createExecutionContext());
    if (context == nullptr) {
        log.explain("make room for an inference", why);
        return QDR_ENGINE_FAILED;
    }
    values = static_cast<size_t>(3) * model.size * model.size;
    const bool ready =
        vendor.held(vendor.cudaStreamCreate(&stream), "cudaStreamCreate", why) &&
        make(&pixels, input, values * (takes_float ? sizeof(float) : 1), why) &&
        make(&logits, output, model.classes * sizeof(float), why);
    return ready && (!plan.cuda_graph || record(why)) ? QDR_OK : QDR_ENGINE_FAILED;
}

bool Session::enqueue(char why[QDR_WHY_BYTES]) {
    if (!vendor.held(vendor.cudaMemcpyAsync(pixels.device, pixels.host, pixels.bytes,
                                            cudaMemcpyHostToDevice, stream),
                     "cudaMemcpyAsync", why)) {
        return false;
    }
    if (!context->enqueueV3(stream)) {
        Log::get().explain("run an inference", why);
        return false;
    }
    return vendor.held(vendor.cudaMemcpyAsync(logits.host, logits.device, logits.bytes,
                                              cudaMemcpyDeviceToHost, stream),
                       "cudaMemcpyAsync", why);
}

bool Session::wait(char why[QDR_WHY_BYTES]) {
    return vendor.held(vendor.cudaStreamSynchronize(stream), "cudaStreamSynchronize", why);
}

bool Session::record(char why[QDR_WHY_BYTES]) {
    cudaGraph_t recorded = nullptr;
    std::memset(pixels.host, 0, pixels.bytes);
    /* The first inference sets up what may not be recorded. What other threads do with the GPU is
     * not this graph's business. */
    if (!enqueue(why) || !wait(why) ||
        !vendor.held(vendor.cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                     "cudaStreamBeginCapture", why)) {
        return false;
    }
    const bool queued = enqueue(why);
    char unheard[QDR_WHY_BYTES];
    const bool good =
        vendor.held(vendor.cudaStreamEndCapture(stream, &recorded), "cudaStreamEndCapture",
                    queued ? why : unheard) &&
        queued &&
        vendor.held(vendor.cudaGraphInstantiateWithFlags(&graph, recorded, 0),
                    "cudaGraphInstantiateWithFlags", why);
    if (recorded != nullptr) {
        (void)vendor.cudaGraphDestroy(recorded);
    }
    return good;
}

bool Session::infer(const uint8_t *image, float *answer) {
    char unheard[QDR_WHY_BYTES];
    if (takes_float) {
        auto *to = static_cast<float *>(pixels.host);
        for (size_t k = 0; k < values; k++) {
            to[k] = static_cast<float>(image[k]);
        }
    } else {
        std::memcpy(pixels.host, image, pixels.bytes);
    }
    const bool queued = graph != nullptr ? vendor.cudaGraphLaunch(graph, stream) == cudaSuccess
                                         : enqueue(unheard);
    /* Waited for in any case: what was queued still uses the buffers. */
    if (!wait(unheard) || !queued) {
        return false;
    }
    std::memcpy(answer, logits.host, logits.bytes);
    return true;
}

/* Memory a build may count on: the GPU's own, or the system's where the two are one. */
bool free_memory(const Vendor &vendor, const Device &device, uint64_t *out,
                 char why[QDR_WHY_BYTES]) {
    size_t free = 0, total = 0;
    *out = device.integrated ? qdr_trt_available_bytes() : 0;
    if (*out == 0) {
        if (!vendor.held(vendor.cudaMemGetInfo(&free, &total), "cudaMemGetInfo", why)) {
            return false;
        }
        *out = free;
    }
    return true;
}

/* Start an engine's bytes; a session that cannot be started is gone. */
qdr_status start(const Vendor &vendor, qdr_view bytes, const qdr_engine_model &model,
                 const qdr_trt_plan &plan, void **session, char why[QDR_WHY_BYTES]) {
    auto made = std::make_unique<Session>(vendor);
    const qdr_status status = made->start(bytes, model, plan, why);
    if (status == QDR_OK) {
        *session = made.release();
    }
    return status;
}

qdr_status start_or_build(const Vendor &vendor, const Device &device,
                          const qdr_engine_model &model, qdr_trt_plan plan, void **session,
                          char why[QDR_WHY_BYTES]) {
    const qdr_engine_cache *cache = model.cache;
    char hash[QDR_CACHE_KEY_BYTES], key[QDR_CACHE_KEY_BYTES], timing[QDR_CACHE_KEY_BYTES];
    uint64_t free = 0;
    qdr_trt_sha256(model.content, hash);
    if (!qdr_trt_key(hash, device.text, vendor.version, key) ||
        !qdr_trt_key(QDR_TRT_TIMING, device.text, vendor.version, timing)) {
        std::snprintf(why, QDR_WHY_BYTES, "the GPU's name is too long");
        return QDR_ENGINE_FAILED;
    }
    if (cache != nullptr) {
        const qdr_view kept = cache->load(cache->context, key);
        /* Kept and yet refused: driver or libraries changed in a way that the key does not show. */
        if (kept.size > 0 && start(vendor, kept, model, plan, session, why) == QDR_OK) {
            return QDR_OK;
        }
        why[0] = '\0';
    }
    if (!free_memory(vendor, device, &free, why) || !qdr_trt_bound(&plan, free, why)) {
        return QDR_ENGINE_FAILED;
    }
    qdr_status status = QDR_ENGINE_FAILED;
    const auto engine = qdr_trt::build(vendor, model, plan, timing, &status, why);
    if (engine == nullptr) {
        return status;
    }
    const qdr_view bytes = {static_cast<const uint8_t *>(engine->data()), engine->size()};
    status = start(vendor, bytes, model, plan, session, why);
    if (status == QDR_OK && cache != nullptr) {
        cache->store(cache->context, key, bytes);
    }
    return status;
}

qdr_status open_checked(const char *library, const qdr_engine_model &model, void **session,
                        char why[QDR_WHY_BYTES]) {
    uint32_t largest = 0;
    Vendor vendor;
    Device device;
    qdr_trt_plan plan;
    const char *refused = qdr_onnx_look(model.content, &largest);
    if (refused != nullptr) {
        std::snprintf(why, QDR_WHY_BYTES, "the model is refused: %s", refused);
        return QDR_BAD_MODEL;
    }
    if (!qdr_trt_read_options(&model, &plan, why)) {
        return QDR_BAD_MODEL;
    }
    if (!vendor.load(library, why)) {
        return QDR_ENGINE_FAILED;
    }
    /* CUDA's own way of waiting depends on the machine; a spinning thread burns the core that
     * preprocessing needs. A process that has used the GPU may have chosen already. */
    const cudaError_t chosen = vendor.cudaSetDeviceFlags(
        plan.spin_wait ? cudaDeviceScheduleSpin : cudaDeviceScheduleBlockingSync);
    if (chosen != cudaErrorSetOnActiveProcess &&
        !vendor.held(chosen, "cudaSetDeviceFlags", why)) {
        return QDR_ENGINE_FAILED;
    }
    if (!vendor.find_device(&device, why)) {
        return QDR_ENGINE_FAILED;
    }
    return start_or_build(vendor, device, model, plan, session, why);
}

/* No exception may cross into C. */
template <typename Call>
qdr_status guarded(char why[QDR_WHY_BYTES], Call call) noexcept {
    try {
        return call();
    } catch (const std::exception &error) {
        std::snprintf(why, QDR_WHY_BYTES, "TensorRT's engine failed: %s", error.what());
    } catch (...) {
        std::snprintf(why, QDR_WHY_BYTES, "TensorRT's engine failed, and gives no reason");
    }
    return QDR_ENGINE_FAILED;
}

}  // namespace

extern "C" {

static qdr_status trt_version(const char *library, char text[QDR_VERSION_BYTES],
                              char why[QDR_WHY_BYTES]) {
    return guarded(why, [&] {
        Vendor vendor;
        Device device;
        if (!vendor.load(library, why) || !vendor.find_device(&device, why)) {
            return QDR_ENGINE_FAILED;
        }
        std::snprintf(text, QDR_VERSION_BYTES, "%s", vendor.version);
        return QDR_OK;
    });
}

static qdr_status trt_open(const char *library, const qdr_engine_model *model, void **session,
                           char why[QDR_WHY_BYTES]) {
    return guarded(why, [&] { return open_checked(library, *model, session, why); });
}

static qdr_status trt_infer(void *session, const uint8_t *pixels, float *logits) {
    char unheard[QDR_WHY_BYTES];
    return guarded(unheard, [&] {
        return static_cast<Session *>(session)->infer(pixels, logits) ? QDR_OK : QDR_ENGINE_FAILED;
    });
}

static void trt_close(void *session) {
    delete static_cast<Session *>(session);
}

qdr_engine qdr_tensorrt(const char *library, const qdr_engine_cache *cache) {
    return {"tensorrt", QDR_TRT_OPTIONS, library, trt_version, trt_open, trt_infer, trt_close,
            cache};
}

}  // extern "C"
