/* Running a plan: one operation after another, each in as many parts as there are threads. */
#include "kernels/kernels.h"

static void (*const layers[QDR_KINDS])(const qdr_layer *layer, uint32_t part) = {
    [QDR_INPUT] = qdr_layer_input,
    [QDR_CONV] = qdr_layer_conv,
    [QDR_DEPTHWISE] = qdr_layer_depthwise,
    [QDR_MAX_POOL] = qdr_layer_max_pool,
    [QDR_AVERAGE_POOL] = qdr_layer_average_pool,
    [QDR_ADD] = qdr_layer_add,
    [QDR_MULTIPLY] = qdr_layer_multiply,
    [QDR_TABLE] = qdr_layer_table,
    [QDR_CONCAT] = qdr_layer_concat,
    [QDR_UPSAMPLE] = qdr_layer_upsample,
    [QDR_LOGITS] = qdr_layer_logits,
};

static void run_part(void *argument, uint32_t part) {
    const qdr_layer *layer = argument;
    layers[layer->operation.kind](layer, part);
}

size_t qdr_plan_arena_bytes(const qdr_plan *plan, uint32_t threads) {
    if (plan == NULL || plan->content == NULL || threads == 0 || threads > QDR_MAX_THREADS) {
        return 0;
    }
    return (size_t)plan->activation_bytes + plan->scratch_bytes;
}

static void observe(const qdr_observer *observer, const qdr_layer *layer) {
    const qdr_tensor *out = &layer->out;
    qdr_tensor_view view = {layer->arena + out->offset, layer->operation.output, out->height,
                            out->width, out->channels, out->stride, out->zero};
    observer->see(observer->context, &view);
}

qdr_status qdr_plan_infer(const qdr_plan *plan, const uint8_t *pixels, void *arena,
                          size_t arena_bytes, const qdr_run_options *options, float *logits) {
    static const qdr_run_options none = {0};
    const qdr_run_options *how = options == NULL ? &none : options;
    uint32_t threads = how->parallel == NULL ? 1 : how->parallel->threads;
    if (plan == NULL || plan->content == NULL || pixels == NULL || arena == NULL ||
        logits == NULL || threads == 0 || threads > QDR_MAX_THREADS) {
        return QDR_BAD_ARGUMENT;
    }
    if (arena_bytes < qdr_plan_arena_bytes(plan, threads) ||
        (uintptr_t)arena % QDR_ARENA_ALIGNMENT != 0) {
        return QDR_NO_SPACE;
    }
    const qdr_kernels *kernels =
        qdr_kernels_of(how->isa == QDR_ISA_BEST ? qdr_plan_best_isa(plan) : how->isa);
    if (kernels == NULL || (plan->narrow == 0 && kernels->isa == QDR_ISA_AVX2)) {
        return QDR_UNSUPPORTED;
    }
    uint8_t *padding = (uint8_t *)arena + plan->activation_bytes;
    for (uint32_t index = 0; index < plan->operations; index++) {
        qdr_layer layer = {.plan = plan,
                           .kernels = kernels,
                           .operation = qdr_plan_operation(plan, index),
                           .arena = arena,
                           .padding = padding,
                           .pixels = pixels,
                           .logits = logits,
                           .parts = threads};
        const qdr_operation *o = &layer.operation;
        if (o->input != QDR_NONE) {
            layer.in = qdr_plan_tensor(plan, o->input);
        }
        if (o->other != QDR_NONE) {
            layer.other = qdr_plan_tensor(plan, o->other);
        }
        if (o->output != QDR_NONE) {
            layer.out = qdr_plan_tensor(plan, o->output);
        }
        if (o->kind == QDR_CONV || o->kind == QDR_DEPTHWISE) {
            memset(padding, (int)layer.in.zero, plan->scratch_bytes);
        }
        if (threads == 1) {
            run_part(&layer, 0);
        } else {
            how->parallel->run(how->parallel->context, run_part, &layer, threads);
        }
        if (how->observer != NULL && o->output != QDR_NONE) {
            observe(how->observer, &layer);
        }
    }
    return QDR_OK;
}
