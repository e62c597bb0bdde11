/* One image's way: preprocessing, gate, network, decision. */
#include <string.h>

#include "device/layout.h"

static const char UNREADABLE[] = "the image cannot be read";
static const char FAULTY[] = "the self-test has failed";
static const char NOT_FINITE[] = "the network's answer is not a number";

/* Where the arena's part for each step begins. */
static size_t rest_begin(const qdr_device *device) {
    return (qdr_input_bytes(device) + QDR_ARENA_ALIGNMENT - 1) / QDR_ARENA_ALIGNMENT *
           QDR_ARENA_ALIGNMENT;
}

size_t qdr_arena_bytes(const qdr_device *device, uint32_t width, uint32_t height,
                       uint32_t threads) {
    if (device == NULL || !device->is_open) {
        return 0;
    }
    bool native = device->session == NULL;
    size_t plan = native ? qdr_plan_arena_bytes(&device->plan, threads) : 0;
    size_t scratch = qdr_pixels_scratch_bytes(&device->pixels, width, height);
    size_t gate = qdr_gate_scratch_bytes(device->pixels.size);
    if ((native && plan == 0) || scratch == 0 || gate == 0) {
        return 0;
    }
    /* The three are never needed at the same time. */
    size_t largest = plan > scratch ? plan : scratch;
    largest = largest > gate ? largest : gate;
    return rest_begin(device) + largest;
}

/* The part of the arena behind the input, or nothing where it is too small. */
static bool rest_of(const qdr_device *device, void *arena, size_t arena_bytes, void **rest,
                    size_t *rest_bytes) {
    size_t begin = rest_begin(device);
    if (arena == NULL || (uintptr_t)arena % QDR_ARENA_ALIGNMENT != 0 || arena_bytes <= begin) {
        return false;
    }
    *rest = (uint8_t *)arena + begin;
    *rest_bytes = arena_bytes - begin;
    return true;
}

qdr_status qdr_preprocess(const qdr_device *device, const qdr_pixels_image *image, void *arena,
                          size_t arena_bytes, uint8_t *pixels, qdr_gate_result *gate) {
    void *rest;
    size_t rest_bytes;
    if (device == NULL || image == NULL || pixels == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    if (!device->is_open) {
        return QDR_CLOSED;
    }
    if (!rest_of(device, arena, arena_bytes, &rest, &rest_bytes)) {
        return QDR_NO_SPACE;
    }
    qdr_status status = qdr_pixels_prepare(&device->pixels, image, rest, rest_bytes, pixels);
    if (status == QDR_OK && gate != NULL) {
        status = qdr_gate_check(device->pixels.modality, &device->gates, pixels,
                                device->pixels.size, rest, rest_bytes, gate);
    }
    return status;
}

qdr_status qdr_infer(const qdr_device *device, const uint8_t *pixels, void *arena,
                     size_t arena_bytes, const qdr_run_options *options, float *logits) {
    void *rest;
    size_t rest_bytes;
    if (device == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    if (!device->is_open) {
        return QDR_CLOSED;
    }
    if (device->session != NULL) {
        return pixels == NULL || logits == NULL
                   ? QDR_BAD_ARGUMENT
                   : device->engine.infer(device->session, pixels, logits);
    }
    if (!rest_of(device, arena, arena_bytes, &rest, &rest_bytes)) {
        return QDR_NO_SPACE;
    }
    return qdr_plan_infer(&device->plan, pixels, rest, rest_bytes, options, logits);
}

static qdr_status answer(qdr_result *result, qdr_outcome outcome, const char *reason) {
    result->decision = (qdr_decision){.outcome = outcome};
    result->reason = reason;
    return QDR_OK;
}

qdr_status qdr_screen(const qdr_device *device, const qdr_pixels_image *image, void *arena,
                      size_t arena_bytes, const qdr_run_options *options, qdr_result *result) {
    if (device == NULL || result == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(result, 0, sizeof *result);
    answer(result, QDR_OUTCOME_FAULT, FAULTY);
    if (!device->is_open) {
        return QDR_CLOSED;
    }
    if (device->is_faulty) {
        return QDR_OK;
    }
    if (image == NULL) {
        return answer(result, QDR_OUTCOME_INVALID_INPUT, UNREADABLE);
    }
    uint8_t *pixels = arena;
    qdr_status status =
        qdr_preprocess(device, image, arena, arena_bytes, pixels, &result->gate);
    if (status == QDR_BAD_IMAGE) {
        return answer(result, QDR_OUTCOME_INVALID_INPUT, UNREADABLE);
    }
    if (status != QDR_OK) {
        return status;
    }
    if (result->gate.outcome != QDR_GATE_ACCEPTED) {
        return answer(result,
                      result->gate.outcome == QDR_GATE_UNGRADABLE ? QDR_OUTCOME_UNGRADABLE
                                                                  : QDR_OUTCOME_INVALID_INPUT,
                      result->gate.reason);
    }
    status = qdr_infer(device, pixels, arena, arena_bytes, options, result->logits);
    if (status != QDR_OK) {
        return status;
    }
    result->has_logits = true;
    status = qdr_decide(&device->rule, result->logits, device->rule.label_count,
                        &result->decision);
    result->reason = result->decision.outcome == QDR_OUTCOME_FAULT ? NOT_FINITE : "";
    return status;
}
