/* From a bundle's bytes to a device that can screen. */
#include <string.h>

#include "device/choose.h"
#include "device/machine.h"

/* The native network, which must take what preprocessing gives. */
static qdr_status open_plan(qdr_device *device, qdr_view plan) {
    const qdr_manifest *manifest = &device->bundle.manifest;
    qdr_status status = qdr_plan_open(&device->plan, plan.bytes, plan.size);
    if (status == QDR_OK && (device->plan.side != manifest->input_size ||
                             device->plan.classes != manifest->label_count)) {
        status = QDR_BAD_MODEL;
    }
    return status;
}

static qdr_status open_session(qdr_device *device, const qdr_choice *choice, qdr_view content,
                               qdr_selection *how) {
    qdr_engine_model model = {
        .content = content,
        .size = device->bundle.manifest.input_size,
        .classes = device->bundle.manifest.label_count,
        .threads = how->threads == 0 ? 1 : how->threads,
        .saturates = qdr_machine_saturates(),
        .cache = choice->engine->cache,
    };
    qdr_status status = qdr_read_options(choice, &model);
    if (status == QDR_OK) {
        status = choice->engine->open(choice->engine->library, &model, &device->session, how->why);
    }
    if (status == QDR_OK) {
        device->engine = *choice->engine;
    }
    return status;
}

static qdr_status open_network(qdr_device *device, qdr_selection *how) {
    qdr_choice choice;
    qdr_view content;
    qdr_status status = qdr_choose(&device->bundle.manifest, how, &choice);
    if (status == QDR_OK) {
        device->artefact = choice.artefact;
        status = qdr_bundle_entry(&device->bundle, choice.artefact->entry, &content);
    }
    if (status == QDR_OK) {
        status = choice.engine == NULL ? open_plan(device, content)
                                       : open_session(device, &choice, content, how);
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

qdr_status qdr_open_with(qdr_device *device, const uint8_t *content, size_t size,
                         const qdr_trust *trust, uint32_t minimum_security_version,
                         qdr_selection *how, qdr_bundle_error *where) {
    if (device == NULL || how == NULL || (how->engines == NULL && how->engine_count > 0)) {
        return QDR_BAD_ARGUMENT;
    }
    how->why[0] = '\0';
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
        status = open_network(device, how);
    }
    if (status != QDR_OK) {
        if (where != NULL && how->why[0] != '\0') {
            where->what = how->why;
        }
        memset(device, 0, sizeof *device);
        return status;
    }
    device->is_open = true;
    return QDR_OK;
}

qdr_status qdr_open(qdr_device *device, const uint8_t *content, size_t size,
                    const qdr_trust *trust, uint32_t minimum_security_version,
                    qdr_bundle_error *where) {
    qdr_selection native = {.target = NULL};
    qdr_status status =
        qdr_open_with(device, content, size, trust, minimum_security_version, &native, where);
    if (where != NULL && where->what == native.why) {
        where->what = "it has no native target that this library can run";
    }
    return status;
}

void qdr_close(qdr_device *device) {
    if (device != NULL) {
        if (device->session != NULL) {
            device->engine.close(device->session);
        }
        memset(device, 0, sizeof *device);
    }
}
