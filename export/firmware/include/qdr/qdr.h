/* libqdr: a signed bundle in, decisions about retinal images out.
 *
 * The whole path of a device in eight calls: open and verify a bundle, prove it by its own golden
 * images, screen. It gives the decisions that qdr-edge's Python gives, image by image. Memory is the
 * caller's throughout; nothing is allocated, nothing is kept beyond the handle, which must not move.
 * Only an engine (qdr/engine.h), where one is handed over and chosen, allocates for itself.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_QDR_H
#define QDR_QDR_H

#include "qdr/bundle.h"
#include "qdr/decision.h"
#include "qdr/engine.h"
#include "qdr/pixels.h"
#include "qdr/plan.h"
#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An opened bundle, about 16 KB. Its fields are for reading only. */
typedef struct qdr_device {
    qdr_bundle bundle;
    const qdr_artefact *artefact; /* the one that runs */
    qdr_engine engine;            /* what runs it; all zero for the native one */
    void *session;                /* the engine's */
    qdr_plan plan;                /* all zero behind an engine */
    qdr_pixels_spec pixels;
    uint32_t decode_margin; /* see qdr_pixels_image */
    qdr_gate_limits gates;
    qdr_rule rule;
    bool is_open;
    bool is_faulty; /* a self-test failed: every answer is FAULT */
} qdr_device;

/* Which target to open, and what there is to run it with. */
typedef struct qdr_selection {
    const char *target; /* NULL: the first that this machine can run, in Python's order */
    const qdr_engine *engines; /* [engine_count]; they are copied */
    uint32_t engine_count;
    uint32_t threads;        /* of one inference behind an engine; 0 is 1 */
    char why[QDR_WHY_BYTES]; /* written: why no target was opened */
} qdr_selection;

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
 * As qdr_bundle_open, and QDR_UNSUPPORTED: it has no native artefact that this library can run, or a
 * contract of another version. QDR_BAD_MODEL: its plan is damaged. The device is closed unless QDR_OK. */
qdr_status qdr_open(qdr_device *device, const uint8_t *content, size_t size,
                    const qdr_trust *trust, uint32_t minimum_security_version,
                    qdr_bundle_error *where);

/* The same for other targets too: the one that `how` names, or the first that can run here.
 *
 * A target runs here if the bundle's options for it are ones that a bundle may set, the processor has
 * what it requires, and the version of what runs it is one that it was proven for. Once chosen it is
 * opened or the call fails: there is no silent second choice.
 *
 * As qdr_open. QDR_UNSUPPORTED: no such target, or it does not run here. QDR_ENGINE_FAILED: its
 * runtime cannot be loaded. QDR_BAD_MODEL: its engine refuses it. For these `where` points into
 * `how->why`, which says it in one line. */
qdr_status qdr_open_with(qdr_device *device, const uint8_t *content, size_t size,
                         const qdr_trust *trust, uint32_t minimum_security_version,
                         qdr_selection *how, qdr_bundle_error *where);

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

/* Compute the logits, float32 [label_count], of preprocessed pixels. Behind an engine arena and
 * options are not used, and one thread at a time may use the device.
 *
 * QDR_ENGINE_FAILED: the engine's runtime gave none. */
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

/* Forget the bundle, and end its engine's session. */
void qdr_close(qdr_device *device);

#ifdef __cplusplus
}
#endif

#endif
