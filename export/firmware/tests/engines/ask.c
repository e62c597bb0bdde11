/* One target's logits: tests/e2e/test_firmware_engines.py holds them against Python's.
 *
 *   ask BUNDLE.qdr PUBLIC_KEY.pem TARGET PIXELS     TARGET "-": the first that can run here
 *
 * PIXELS: uint8 [N, 3, S, S]. Writes float32 [N, K]. What goes wrong is one line, and the exit code
 * is its qdr_status.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines.h"
#include "keys.h"
#include "qdr/qdr.h"

int main(int count, char **arguments) {
    static qdr_device device;
    uint8_t key[1][QDR_KEY_BYTES];
    qdr_trust trust = {(const uint8_t(*)[QDR_KEY_BYTES])key, 1};
    qdr_bundle_error where = {"", 0};
    qdr_engine engines[MOST_ENGINES];
    size_t size = 0, bytes = 0;
    if (count != 5 || load_public_key(arguments[2], key[0]) != 0) {
        return 99;
    }
    uint8_t *content = load_file(arguments[1], &size), *pixels = load_file(arguments[4], &bytes);
    qdr_selection how = {.engines = engines, .engine_count = linked_engines(engines)};
    if (strcmp(arguments[3], "-") != 0) {
        how.target = arguments[3];
    }
    qdr_status status = qdr_open_with(&device, content, size, &trust, 0, &how, &where);
    if (status != QDR_OK) {
        fprintf(stderr, "%s\n", where.what);
    }
    size_t arena_bytes = qdr_arena_bytes(&device, 64, 64, 1);
    void *arena = status != QDR_OK ? NULL
                                   : aligned_alloc(QDR_ARENA_ALIGNMENT,
                                                   arena_bytes / QDR_ARENA_ALIGNMENT *
                                                           QDR_ARENA_ALIGNMENT +
                                                       QDR_ARENA_ALIGNMENT);
    size_t image = (size_t)3 * device.pixels.size * device.pixels.size;
    for (size_t at = 0; status == QDR_OK && at + image <= bytes; at += image) {
        float logits[QDR_MAX_LABELS];
        status = qdr_infer(&device, pixels + at, arena, arena_bytes, NULL, logits);
        fwrite(logits, sizeof *logits, device.rule.label_count, stdout);
    }
    qdr_close(&device);
    if (qdr_infer(&device, pixels, arena, arena_bytes, NULL, NULL) != QDR_CLOSED) {
        return 98;
    }
    free(arena);
    free(content);
    free(pixels);
    return (int)status;
}
