/* TensorRT and CUDA as they are found on the device, and what TensorRT says. */
#ifndef QDR_ENGINES_TENSORRT_HPP
#define QDR_ENGINES_TENSORRT_HPP

#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>

extern "C" {
#include "tensorrt_plan.h"
}

#if NV_TENSORRT_MAJOR < 10 || CUDART_VERSION < 12000
#error "libqdr's engine needs TensorRT 10.3 or later, and CUDA 12 or later"
#endif

namespace qdr_trt {

/* CUDA's functions that are used, with the types that the header gives them. */
#define QDR_CUDA_CALLS(X)                                                                         \
    X(cudaDriverGetVersion)                                                                       \
    X(cudaRuntimeGetVersion)                                                                      \
    X(cudaGetErrorString)                                                                         \
    X(cudaDeviceGetAttribute)                                                                     \
    X(cudaGetDeviceProperties)                                                                    \
    X(cudaSetDeviceFlags)                                                                         \
    X(cudaMemGetInfo)                                                                             \
    X(cudaMalloc)                                                                                 \
    X(cudaFree)                                                                                   \
    X(cudaHostAlloc)                                                                              \
    X(cudaFreeHost)                                                                               \
    X(cudaMemcpyAsync)                                                                            \
    X(cudaStreamCreate)                                                                           \
    X(cudaStreamDestroy)                                                                          \
    X(cudaStreamSynchronize)                                                                      \
    X(cudaStreamBeginCapture)                                                                     \
    X(cudaStreamEndCapture)                                                                       \
    X(cudaGraphInstantiateWithFlags)                                                              \
    X(cudaGraphDestroy)                                                                           \
    X(cudaGraphLaunch)                                                                            \
    X(cudaGraphExecDestroy)

/* What the process's one logger was told. TensorRT remembers the first logger it is given for as
 * long as the process lives: it is never freed. */
class Log final : public nvinfer1::ILogger {
  public:
    static Log &get();
    void log(Severity severity, const char *message) noexcept override;
    void begin() noexcept;
    /* Writes "TensorRT cannot ACTION: " and the errors since begin(), the first one first. */
    void explain(const char *action, char why[QDR_WHY_BYTES]) noexcept;

  private:
    std::mutex mutex_;
    char said_[QDR_WHY_BYTES] = ""; /* one line; what does not fit is left out */
};

/* The first GPU. `text` is all of it that an engine depends on. */
struct Device {
    char text[384];
    bool integrated; /* it shares the system's memory */
};

struct Vendor {
#define QDR_POINTER(name) decltype(&::name) name = nullptr;
    QDR_CUDA_CALLS(QDR_POINTER)
#undef QDR_POINTER
    decltype(&::getInferLibVersion) library_version = nullptr;
    decltype(&::createInferBuilder_INTERNAL) create_builder = nullptr;
    decltype(&::createInferRuntime_INTERNAL) create_runtime = nullptr;
    decltype(&::createNvOnnxParser_INTERNAL) create_parser = nullptr;
    char version[QDR_VERSION_BYTES] = "";

    /* Load the three libraries, which must be of the headers' major versions. */
    bool load(const char *library, char why[QDR_WHY_BYTES]);
    bool find_device(Device *out, char why[QDR_WHY_BYTES]) const;
    /* Whether a call went well; if not, CUDA's own words. */
    bool held(cudaError_t status, const char *what, char why[QDR_WHY_BYTES]) const;
};

/* Build a serialized engine for this GPU, which takes seconds to minutes. `timing_key` names the
 * kernels' timings in the cache. Null, and why; `status` says whose fault it is. */
std::unique_ptr<nvinfer1::IHostMemory> build(const Vendor &vendor, const qdr_engine_model &model,
                                             const qdr_trt_plan &plan, const char *timing_key,
                                             qdr_status *status, char why[QDR_WHY_BYTES]);

}  // namespace qdr_trt

#endif
