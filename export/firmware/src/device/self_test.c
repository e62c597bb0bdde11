/* The bundle's own proof: golden images in, and what was recorded at export out. */
#include <string.h>

#include "device/layout.h"

/* Whether the network answered as it did where the bundle was made. */
static bool logits_hold(const qdr_device *device, const qdr_golden *golden,
                        const qdr_result *found) {
    double recorded[QDR_MAX_LABELS];
    uint32_t count = device->rule.label_count;
    if (!found->has_logits) {
        return true; /* it was rejected, which the outcome will be held against */
    }
    if (qdr_golden_logits(golden, device->artefact->target, recorded, count) != QDR_OK) {
        return false;
    }
    for (uint32_t k = 0; k < count; k++) {
        double difference = (double)found->logits[k] - recorded[k];
        /* Written so that a NaN does not hold. */
        if (!(difference <= device->artefact->logit_tolerance &&
              -difference <= device->artefact->logit_tolerance)) {
            return false;
        }
    }
    return true;
}

static bool decision_holds(const qdr_golden *golden, const qdr_decision *found) {
    uint64_t positives = 0;
    for (uint32_t k = 0; k < found->label_count; k++) {
        positives |= (uint64_t)found->labels[k].positive << k;
    }
    return found->outcome == golden->outcome && golden->in_order &&
           positives == golden->positives;
}

/* Whether the pixels that the arena still holds are those of the export. */
static bool pixels_hold(const qdr_device *device, const qdr_golden *golden, const void *arena) {
    uint8_t digest[QDR_SHA256_BYTES];
    qdr_sha256(arena, qdr_input_bytes(device), digest);
    return memcmp(digest, golden->preprocessed_sha256, sizeof digest) == 0;
}

static qdr_status fail(qdr_device *device) {
    device->is_faulty = true;
    return QDR_SELF_TEST_FAILED;
}

qdr_status qdr_self_test(qdr_device *device, const qdr_decoder *decoder, void *arena,
                         size_t arena_bytes, const qdr_run_options *options, uint32_t *tested) {
    if (device == NULL || decoder == NULL || decoder->decode == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    if (!device->is_open) {
        return QDR_CLOSED;
    }
    if (device->is_faulty) {
        return QDR_SELF_TEST_FAILED;
    }
    const qdr_manifest *manifest = &device->bundle.manifest;
    uint32_t inferences = 0, held = 0;
    for (uint32_t k = 0; k < manifest->golden_count; k++) {
        const qdr_golden *golden = &manifest->golden[k];
        qdr_view content;
        qdr_pixels_image image;
        qdr_result found;
        if (qdr_bundle_entry(&device->bundle, golden->image, &content) != QDR_OK) {
            return fail(device);
        }
        qdr_status decoded = decoder->decode(decoder->context, device, content, &image);
        if (decoded != QDR_OK && decoded != QDR_BAD_IMAGE) {
            return decoded; /* the decoder's own trouble says nothing about the bundle */
        }
        qdr_status status = qdr_screen(device, decoded == QDR_OK ? &image : NULL, arena,
                                       arena_bytes, options, &found);
        if (status != QDR_OK) {
            return status;
        }
        if ((decoded == QDR_OK) != golden->has_pixels ||
            (golden->has_pixels && !pixels_hold(device, golden, arena)) ||
            !logits_hold(device, golden, &found) ||
            !decision_holds(golden, &found.decision)) {
            return fail(device);
        }
        held++;
        inferences += found.has_logits;
        if (tested != NULL) {
            *tested = held;
        }
    }
    return inferences > 0 ? QDR_OK : fail(device);
}
