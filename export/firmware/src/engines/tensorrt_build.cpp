/* From checked ONNX bytes to an engine, as qdr_edge/runtime/tensorrt_build.py builds it.
 *
 * TensorRT 10 builds a weakly typed network with INT8 and FP16 allowed; TensorRT 11 knows strongly
 * typed networks only, and its bundles carry a graph that is typed. DLA is never asked for. */
#include <cstdio>

#include "tensorrt.hpp"

namespace qdr_trt {

namespace {

constexpr uint64_t MIB = 1 << 20;

/* TensorRT 10.12 marks these flags as deprecated, and has nothing else for weakly typed ones. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#if NV_TENSORRT_MAJOR < 11
constexpr nvinfer1::NetworkDefinitionCreationFlags NETWORK = 0;

void set_precision(nvinfer1::IBuilderConfig &config) {
    config.setFlag(nvinfer1::BuilderFlag::kINT8);
    config.setFlag(nvinfer1::BuilderFlag::kFP16);
}
#else
constexpr nvinfer1::NetworkDefinitionCreationFlags NETWORK =
    1u << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);

void set_precision(nvinfer1::IBuilderConfig &) {}
#endif

#pragma GCC diagnostic pop

void configure(nvinfer1::IBuilderConfig &config, const qdr_trt_plan &plan) {
    using nvinfer1::MemoryPoolType;
    config.setMemoryPoolLimit(MemoryPoolType::kWORKSPACE, plan.workspace_mib * MIB);
    config.setMemoryPoolLimit(MemoryPoolType::kTACTIC_DRAM, plan.tactic_mib * MIB);
    config.setBuilderOptimizationLevel(static_cast<int32_t>(plan.optimization_level));
    /* Another stream needs another workspace, and gains nothing in a network this small. */
    config.setMaxAuxStreams(0);
    config.setDefaultDeviceType(nvinfer1::DeviceType::kGPU);
    config.setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
    /* TF32 keeps 10 bits of mantissa: float layers would differ from the other backends'. */
    config.clearFlag(nvinfer1::BuilderFlag::kTF32);
    set_precision(config);
}

/* The parser's first error names the node; without one the log speaks. */
void explain_parser(const nvonnxparser::IParser &parser, char why[QDR_WHY_BYTES]) {
    const nvonnxparser::IParserError *error =
        parser.getNbErrors() > 0 ? parser.getError(0) : nullptr;
    if (error == nullptr) {
        Log::get().explain("read the graph", why);
        return;
    }
    std::snprintf(why, QDR_WHY_BYTES, "TensorRT cannot read the graph: %s %s: %s",
                  error->nodeOperator(), error->nodeName(), error->desc());
    for (char *at = why; *at != '\0'; at++) {
        *at = *at == '\n' || *at == '\r' ? ' ' : *at;
    }
}

/* The kept timings, or none yet; null where TensorRT gives no cache, which costs time only. */
std::unique_ptr<nvinfer1::ITimingCache> take_timings(nvinfer1::IBuilderConfig &config,
                                                     const qdr_engine_cache *cache,
                                                     const char *key) {
    qdr_view kept = {nullptr, 0};
    if (cache != nullptr) {
        kept = cache->load(cache->context, key);
    }
    for (int turn = kept.size > 0 ? 0 : 1; turn < 2; turn++) {
        std::unique_ptr<nvinfer1::ITimingCache> timings(
            turn == 0 ? config.createTimingCache(kept.bytes, kept.size)
                      : config.createTimingCache("", 0));
        if (timings != nullptr && config.setTimingCache(*timings, false)) {
            return timings;
        }
    }
    return nullptr;
}

void keep_timings(const nvinfer1::ITimingCache *timings, const qdr_engine_cache *cache,
                  const char *key) {
    if (timings == nullptr || cache == nullptr) {
        return;
    }
    const std::unique_ptr<nvinfer1::IHostMemory> memory(timings->serialize());
    if (memory != nullptr) {
        cache->store(cache->context, key,
                     {static_cast<const uint8_t *>(memory->data()), memory->size()});
    }
}

}  // namespace

std::unique_ptr<nvinfer1::IHostMemory> build(const Vendor &vendor, const qdr_engine_model &model,
                                             const qdr_trt_plan &plan, const char *timing_key,
                                             qdr_status *status, char why[QDR_WHY_BYTES]) {
    Log &log = Log::get();
    log.begin();
    *status = QDR_ENGINE_FAILED;
    const std::unique_ptr<nvinfer1::IBuilder> builder(
        static_cast<nvinfer1::IBuilder *>(vendor.create_builder(&log, NV_TENSORRT_VERSION)));
    if (builder == nullptr) {
        log.explain("start its builder", why);
        return nullptr;
    }
    const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(NETWORK));
    const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
    if (network == nullptr || config == nullptr) {
        log.explain("begin a network", why);
        return nullptr;
    }
    /* Kept until the engine is built: it owns the memory of the weights. */
    const std::unique_ptr<nvonnxparser::IParser> parser(static_cast<nvonnxparser::IParser *>(
        vendor.create_parser(network.get(), &log, NV_ONNX_PARSER_VERSION)));
    if (parser == nullptr) {
        log.explain("start its parser", why);
        return nullptr;
    }
    if (!parser->parse(model.content.bytes, model.content.size)) {
        explain_parser(*parser, why);
        *status = QDR_BAD_MODEL;
        return nullptr;
    }
    configure(*config, plan);
    const auto timings = take_timings(*config, model.cache, timing_key);
    log.begin(); /* timings that do not fit are no reason */
    std::unique_ptr<nvinfer1::IHostMemory> engine(
        builder->buildSerializedNetwork(*network, *config));
    if (engine == nullptr) {
        log.explain("build the engine", why);
        return nullptr;
    }
    keep_timings(timings.get(), model.cache, timing_key);
    *status = QDR_OK;
    return engine;
}

}  // namespace qdr_trt
