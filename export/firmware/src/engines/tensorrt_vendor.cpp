/* Finding TensorRT, CUDA and the GPU, as qdr_edge/runtime/cuda.py and tensorrt.py do. */
#include <cstdio>
#include <cstring>

#include "tensorrt.hpp"

extern "C" {
#include "vendor.h"
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name) /* the number of a macro, and the name behind one */

namespace qdr_trt {

namespace {

/* Turing, the first with int8 tensor cores, and the oldest that TensorRT 11 knows. */
constexpr int MINIMUM_CAPABILITY = 75;

constexpr qdr_vendor TENSORRT = {"TensorRT", "QDR_TENSORRT_LIBRARY",
                                 "libnvinfer.so." TEXT(NV_TENSORRT_MAJOR)};
constexpr qdr_vendor PARSER = {"TensorRT's ONNX parser", "QDR_NVONNXPARSER_LIBRARY",
                               "libnvonnxparser.so." TEXT(NV_TENSORRT_MAJOR)};
#if CUDART_VERSION < 13000
constexpr qdr_vendor CUDART = {"CUDA's runtime", "QDR_CUDART_LIBRARY", "libcudart.so.12"};
#else
constexpr qdr_vendor CUDART = {"CUDA's runtime", "QDR_CUDART_LIBRARY", "libcudart.so.13"};
#endif

}  // namespace

Log &Log::get() {
    static Log *log = new Log;
    return *log;
}

void Log::log(Severity severity, const char *message) noexcept {
    if (severity != Severity::kINTERNAL_ERROR && severity != Severity::kERROR) {
        return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t used = std::strlen(said_);
    std::snprintf(said_ + used, sizeof said_ - used, "%s%s", used > 0 ? " | " : "", message);
    for (char *at = said_ + used; *at != '\0'; at++) {
        *at = *at == '\n' || *at == '\r' ? ' ' : *at;
    }
}

void Log::begin() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    said_[0] = '\0';
}

void Log::explain(const char *action, char why[QDR_WHY_BYTES]) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int head = std::snprintf(why, QDR_WHY_BYTES, "TensorRT cannot %s: ", action);
    const auto used = static_cast<size_t>(head);
    std::snprintf(why + used, QDR_WHY_BYTES - used, "%.*s",
                  static_cast<int>(QDR_WHY_BYTES - used - 1),
                  said_[0] != '\0' ? said_ : "it gives no reason");
}

bool Vendor::load(const char *library, char why[QDR_WHY_BYTES]) {
    void *cuda = qdr_vendor_load(&CUDART, nullptr, why);
    void *infer = cuda == nullptr ? nullptr : qdr_vendor_load(&TENSORRT, library, why);
    void *parser = infer == nullptr ? nullptr : qdr_vendor_load(&PARSER, nullptr, why);
    if (parser == nullptr) {
        return false;
    }
#define QDR_FIND(name) &&qdr_vendor_find(cuda, TEXT(name), &name, why)
    if (!(true QDR_CUDA_CALLS(QDR_FIND)) ||
        !qdr_vendor_find(infer, "getInferLibVersion", &library_version, why) ||
        !qdr_vendor_find(infer, "createInferBuilder_INTERNAL", &create_builder, why) ||
        !qdr_vendor_find(infer, "createInferRuntime_INTERNAL", &create_runtime, why) ||
        !qdr_vendor_find(parser, "createNvOnnxParser_INTERNAL", &create_parser, why)) {
        return false;
    }
#undef QDR_FIND
    const int number = library_version(); /* 101401 is 10.14.1 */
    std::snprintf(version, sizeof version, "%d.%d.%d", number / 10000, number / 100 % 100,
                  number % 100);
    int runtime = 0;
    if (!held(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion", why)) {
        return false;
    }
    /* Another major version has other classes and structures behind the same names. */
    if (number / 10000 != NV_TENSORRT_MAJOR || runtime / 1000 != CUDART_VERSION / 1000) {
        std::snprintf(why, QDR_WHY_BYTES,
                      "TensorRT %s with CUDA %d is here, and this engine was compiled for TensorRT "
                      "%d with CUDA %d: compile it with the headers of this device",
                      version, runtime / 1000, NV_TENSORRT_MAJOR, CUDART_VERSION / 1000);
        return false;
    }
    return true;
}

bool Vendor::held(cudaError_t status, const char *what, char why[QDR_WHY_BYTES]) const {
    if (status != cudaSuccess) {
        std::snprintf(why, QDR_WHY_BYTES, "%s failed: %s (%d); is there an NVIDIA GPU and driver?",
                      what, cudaGetErrorString(status), static_cast<int>(status));
    }
    return status == cudaSuccess;
}

bool Vendor::find_device(Device *out, char why[QDR_WHY_BYTES]) const {
    constexpr cudaDeviceAttr ATTRIBUTES[] = {
        cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor,
        cudaDevAttrMultiProcessorCount, cudaDevAttrIntegrated};
    int found[4] = {0, 0, 0, 0}, driver = 0, runtime = 0;
    cudaDeviceProp properties = {};
    for (size_t k = 0; k < 4; k++) {
        if (!held(cudaDeviceGetAttribute(&found[k], ATTRIBUTES[k], 0), "cudaDeviceGetAttribute",
                  why)) {
            return false;
        }
    }
    if (!held(cudaDriverGetVersion(&driver), "cudaDriverGetVersion", why) ||
        !held(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion", why) ||
        !held(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties", why)) {
        return false;
    }
    if (10 * found[0] + found[1] < MINIMUM_CAPABILITY) {
        std::snprintf(why, QDR_WHY_BYTES,
                      "%s has compute capability %d.%d; int8 needs 7.5 or newer", properties.name,
                      found[0], found[1]);
        return false;
    }
    std::snprintf(out->text, sizeof out->text, "%s sm_%d%d x%d driver %d runtime %d",
                  properties.name, found[0], found[1], found[2], driver, runtime);
    out->integrated = found[3] != 0;
    return true;
}

}  // namespace qdr_trt
