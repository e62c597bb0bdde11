/* libqdr: a signed bundle in, decisions about retinal images out.
 *
 * The whole path of a device in seven calls: open and verify a bundle, prove it by its own golden
 * images, screen. It gives the decisions that qdr-edge's Python gives, image by image. Memory is the
 * caller's throughout; nothing is allocated, nothing is kept beyond the handle, which must not move.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_QDR_H
#define QDR_QDR_H

#include "qdr/bundle.h"
#include "qdr/decision.h"
#include "qdr/pixels.h"
#include "qdr/plan.h"
#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An opened bundle, about 16 KB. Its fields are for reading only. */
typedef struct qdr_device {
    qdr_bundle bundle;
    const qdr_artefact *artefact; /* the one of backend "native" */
    qdr_plan plan;
    qdr_pixels_spec pixels;
    uint32_t decode_margin; /* see qdr_pixels_image */
    qdr_gate_limits gates;
    qdr_rule rule;
    bool is_open;
    bool is_faulty; /* a self-test failed: every answer is FAULT */
} qdr_device;

/* What became of an image. */
typedef struct qdr_result {
    qdr_decision decision;
    qdr_gate_result gate; /* features, and the reason of UNGRADABLE and INVALID_INPUT */
    const char *reason;   /* one line in static memory; "" where the network decided */
    bool has_logits;
    float logits[QDR_MAX_LABELS];
} qdr_result;

/* Turns the content of a golden image (PNG or JPEG) into pixels by the rules of the contract:
 * qdr_edge/decode.py lists them. The pixels must stay until the next call.
 *
 * Returns QDR_BAD_IMAGE for what is no image. */
typedef struct qdr_decoder {
    qdr_status (*decode)(void *context, const qdr_device *device, qdr_view content,
                         qdr_pixels_image *image);
    void *context;
} qdr_decoder;

/* Verify a bundle, and open its native artefact.
 *
 * content: uint8 [size], which must stay until qdr_close. trust: the keys that may have signed it.
 * where: NULL, or receives why it was refused.
 *
 * As qdr_bundle_open, and QDR_UNSUPPORTED: it has no native artefact, or a contract of another
 * version. QDR_BAD_MODEL: its plan is damaged. The device is closed unless QDR_OK. */
qdr_status qdr_open(qdr_device *device, const uint8_t *content, size_t size,
                    const qdr_trust *trust, uint32_t minimum_security_version,
                    qdr_bundle_error *where);

/* Bytes of arena that all calls need, for images of these sides or smaller and so many threads;
 * 0 for a side or number out of range, or a closed device. */
size_t qdr_arena_bytes(const qdr_device *device, uint32_t width, uint32_t height,
                       uint32_t threads);

/* Preprocess an image and look at its quality.
 *
 * pixels: uint8 [3, S, S], written. gate: NULL, or receives the verdict.
 *
 * QDR_BAD_IMAGE: its sides are out of range. QDR_NO_SPACE: the arena is too small. */
qdr_status qdr_preprocess(const qdr_device *device, const qdr_pixels_image *image, void *arena,
                          size_t arena_bytes, uint8_t *pixels, qdr_gate_result *gate);

/* Compute the logits, float32 [label_count], of preprocessed pixels. */
qdr_status qdr_infer(const qdr_device *device, const uint8_t *pixels, void *arena,
                     size_t arena_bytes, const qdr_run_options *options, float *logits);

/* The whole path for one image. A bad image is a result, INVALID_INPUT or UNGRADABLE with a reason,
 * and so is FAULT; an error is returned for a wrong call only.
 *
 * image: NULL for one that could not be decoded. */
qdr_status qdr_screen(const qdr_device *device, const qdr_pixels_image *image, void *arena,
                      size_t arena_bytes, const qdr_run_options *options, qdr_result *result);

/* Run every golden image of the bundle through the whole path and compare with what was recorded:
 * pixels by their hash, logits, outcome, positive labels.
 *
 * tested: NULL, or receives the number of golden images that came out as recorded.
 *
 * QDR_SELF_TEST_FAILED: one did not, or none tests the network; the device is faulty from then on.
 * QDR_NO_SPACE: the arena is too small for a golden image. */
qdr_status qdr_self_test(qdr_device *device, const qdr_decoder *decoder, void *arena,
                         size_t arena_bytes, const qdr_run_options *options, uint32_t *tested);

/* Forget the bundle. */
void qdr_close(qdr_device *device);

#ifdef __cplusplus
}
#endif

#endif
