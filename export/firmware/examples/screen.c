/* Screen image files with a bundle, as firmware would.
 *
 *   screen [--target NAME] BUNDLE.qdr PUBLIC_KEY.pem IMAGE...
 *
 * Opens and verifies the bundle, runs its golden images, and prints one line an image. Without a
 * target it takes the first that can run here. Exit code 0, 1 for a device that must not screen, 2
 * for a wrong call.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "engines.h"
#include "keys.h"

/* Photographs of up to 24 megapixels. */
enum { WIDTH = 6000, HEIGHT = 4000 };

static const char *const OUTCOMES[] = {"?",          "POSITIVE",      "NEGATIVE",
                                       "UNGRADABLE", "INVALID_INPUT", "FAULT"};

static void print(const qdr_device *device, const char *path, const qdr_result *result) {
    printf("%s: %s", path, OUTCOMES[result->decision.outcome]);
    for (uint32_t k = 0; k < result->decision.label_count; k++) {
        const qdr_label_result *label = &result->decision.labels[k];
        if (label->positive) {
            qdr_text code = device->bundle.manifest.labels[k].code;
            printf(" %.*s %.3f", (int)code.size, (const char *)code.bytes, label->probability);
        }
    }
    printf("%s%s\n", result->reason[0] ? ": " : "", result->reason);
}

int main(int count, char **arguments) {
    static qdr_device device;
    uint8_t key[1][QDR_KEY_BYTES];
    qdr_trust trust = {(const uint8_t(*)[QDR_KEY_BYTES])key, 1};
    qdr_bundle_error why;
    qdr_engine engines[MOST_ENGINES];
    qdr_selection how = {.engines = engines, .threads = 1};
    how.engine_count = linked_engines(engines);
    size_t size = 0;
    if (count > 2 && strcmp(arguments[1], "--target") == 0) {
        how.target = arguments[2];
        arguments += 2;
        count -= 2;
    }
    if (count < 3) {
        fprintf(stderr, "usage: screen [--target NAME] BUNDLE.qdr PUBLIC_KEY.pem IMAGE...\n");
        return 2;
    }
    uint8_t *bundle = load_file(arguments[1], &size);
    if (bundle == NULL || load_public_key(arguments[2], key[0]) != 0) {
        fprintf(stderr, "%s: cannot be read, or is no %s\n", arguments[bundle == NULL ? 1 : 2],
                bundle == NULL ? "file" : "Ed25519 public key in PEM");
        return 2;
    }
    qdr_status status = qdr_open_with(&device, bundle, size, &trust, 0, &how, &why);
    if (status != QDR_OK) {
        fprintf(stderr, "%s: %s: %s\n", arguments[1], qdr_status_text(status), why.what);
        return 1;
    }
    size_t arena_bytes = qdr_arena_bytes(&device, WIDTH, HEIGHT, 1);
    void *arena = aligned_alloc(QDR_ARENA_ALIGNMENT, (arena_bytes + QDR_ARENA_ALIGNMENT - 1) /
                                                         QDR_ARENA_ALIGNMENT * QDR_ARENA_ALIGNMENT);
    decoded pixels = {0};
    qdr_decoder decoder = {decode_image, &pixels};
    uint32_t tested = 0;
    status = qdr_self_test(&device, &decoder, arena, arena_bytes, NULL, &tested);
    fprintf(stderr, "%s: self-test: %s; %u golden images held; %s; arena %zu bytes\n", arguments[1],
            qdr_status_text(status), tested,
            device.session == NULL ? qdr_isa_name(qdr_plan_best_isa(&device.plan))
                                   : device.engine.backend,
            arena_bytes);
    for (int n = 3; n < count && status == QDR_OK; n++) {
        size_t bytes = 0;
        uint8_t *file = load_file(arguments[n], &bytes);
        qdr_pixels_image image;
        qdr_result result;
        bool read = file != NULL && decode_image(&pixels, &device, (qdr_view){file, bytes},
                                                 &image) == QDR_OK;
        status = qdr_screen(&device, read ? &image : NULL, arena, arena_bytes, NULL, &result);
        if (status == QDR_OK) {
            print(&device, arguments[n], &result);
        }
        free(file);
    }
    qdr_close(&device);
    free(pixels.data);
    free(arena);
    free(bundle);
    return status == QDR_OK ? 0 : 1;
}
