/* From a bundle's bytes to a device that can screen. */
#include <string.h>

#include "qdr/qdr.h"

static const qdr_artefact *native_artefact(const qdr_manifest *manifest) {
    for (uint32_t k = 0; k < manifest->artefact_count; k++) {
        if (qdr_text_equal(manifest->artefacts[k].backend, qdr_text_of("native"))) {
            return &manifest->artefacts[k];
        }
    }
    return NULL;
}

/* The network: the first native artefact, which must take what preprocessing gives. */
static qdr_status open_plan(qdr_device *device) {
    const qdr_manifest *manifest = &device->bundle.manifest;
    qdr_view plan;
    device->artefact = native_artefact(manifest);
    if (device->artefact == NULL) {
        return QDR_UNSUPPORTED;
    }
    qdr_status status = qdr_bundle_entry(&device->bundle, device->artefact->entry, &plan);
    if (status == QDR_OK) {
        status = qdr_plan_open(&device->plan, plan.bytes, plan.size);
    }
    if (status == QDR_OK && (device->plan.side != manifest->input_size ||
                             device->plan.classes != manifest->label_count)) {
        status = QDR_BAD_MODEL;
    }
    return status;
}

static qdr_status open_contract(qdr_device *device) {
    qdr_contract contract;
    qdr_status status = qdr_manifest_preprocess(&device->bundle.manifest, &contract);
    if (status != QDR_OK) {
        return status;
    }
    device->decode_margin = contract.decode_margin;
    device->pixels = (qdr_pixels_spec){
        .modality =
            contract.modality == QDR_MODALITY_FUNDUS ? QDR_PIXELS_FUNDUS : QDR_PIXELS_OCT,
        .version = contract.version,
        .size = contract.size,
        .window_low = contract.window_low,
        .window_high = contract.window_high,
        .clahe_clip_x100 = contract.clahe_clip_x100,
        .clahe_tiles = contract.clahe_tiles,
        .median_kernel = contract.median_kernel,
    };
    return qdr_pixels_check_spec(&device->pixels);
}

qdr_status qdr_open(qdr_device *device, const uint8_t *content, size_t size,
                    const qdr_trust *trust, uint32_t minimum_security_version,
                    qdr_bundle_error *where) {
    if (device == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    memset(device, 0, sizeof *device);
    qdr_status status =
        qdr_bundle_open(&device->bundle, content, size, trust, minimum_security_version, where);
    if (status == QDR_OK) {
        status = open_contract(device);
    }
    if (status == QDR_OK) {
        status = qdr_manifest_gates(&device->bundle.manifest, &device->gates);
    }
    if (status == QDR_OK) {
        status = qdr_manifest_rule(&device->bundle.manifest, &device->rule);
    }
    if (status == QDR_OK) {
        status = open_plan(device);
    }
    if (status != QDR_OK) {
        memset(device, 0, sizeof *device);
        return status;
    }
    device->is_open = true;
    return QDR_OK;
}

void qdr_close(qdr_device *device) {
    if (device != NULL) {
        memset(device, 0, sizeof *device);
    }
}
