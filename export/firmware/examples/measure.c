/* What a target costs a program that screens: benchmarks/native_program.py runs it.
 *
 *   measure BUNDLE.qdr PUBLIC_KEY.pem IMAGE TARGET INFERENCES
 *
 * Opens the bundle, decides about the image, proves itself, infers again and again. Prints one JSON
 * object: `decided_ns`, the monotonic clock at the first decision, which a parent process shares;
 * `open_ns`, of opening the artefact alone, without verifying the bundle and loading a runtime's
 * library; `first_ns`, of the first qdr_screen; `infer_ns`, one number an inference; `peak_kb`, the process's largest resident
 * memory.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode.h"
#include "engines.h"
#include "keys.h"

enum { WIDTH = 6000, HEIGHT = 4000 };

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Linux's own count; a parent cannot ask for it once the process has ended. */
static long peak_kb(void) {
    char line[256];
    long found = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            found = strtol(line + 6, NULL, 10);
        }
    }
    if (status != NULL) {
        fclose(status);
    }
    return found;
}

/* Engines that note how long the true ones take to open a model. */
static qdr_engine timed[MOST_ENGINES];
static int64_t opening_ns;

static qdr_status time_opening(const qdr_engine *engine, const qdr_engine_model *model,
                               void **session, char why[QDR_WHY_BYTES]) {
    int64_t start = now_ns();
    qdr_status status = engine->open(engine->library, model, session, why);
    opening_ns = now_ns() - start;
    return status;
}

static qdr_status open_first(const char *library, const qdr_engine_model *model, void **session,
                             char why[QDR_WHY_BYTES]) {
    (void)library;
    return time_opening(&timed[0], model, session, why);
}

static qdr_status open_second(const char *library, const qdr_engine_model *model, void **session,
                              char why[QDR_WHY_BYTES]) {
    (void)library;
    return time_opening(&timed[1], model, session, why);
}

/* What the native target's opening took, which has no engine to be asked. */
static void time_plan(const qdr_device *device) {
    qdr_plan plan;
    qdr_view content;
    if (device->session == NULL &&
        qdr_bundle_entry(&device->bundle, device->artefact->entry, &content) == QDR_OK) {
        int64_t start = now_ns();
        (void)qdr_plan_open(&plan, content.bytes, content.size);
        opening_ns = now_ns() - start;
    }
}

static int fail(const char *what, qdr_status status) {
    fprintf(stderr, "measure: %s: %s\n", what, qdr_status_text(status));
    return 1;
}

int main(int count, char **arguments) {
    static qdr_device device;
    uint8_t key[1][QDR_KEY_BYTES];
    qdr_trust trust = {(const uint8_t(*)[QDR_KEY_BYTES])key, 1};
    qdr_engine engines[MOST_ENGINES] = {0};
    size_t size = 0, bytes = 0;
    if (count != 6 || load_public_key(arguments[2], key[0]) != 0) {
        fprintf(stderr, "usage: measure BUNDLE.qdr PUBLIC_KEY.pem IMAGE TARGET INFERENCES\n");
        return 2;
    }
    qdr_selection how = {.target = arguments[4], .engines = engines, .threads = 1};
    how.engine_count = linked_engines(engines);
    memcpy(timed, engines, sizeof timed);
    engines[0].open = open_first;
    engines[1].open = open_second;
    uint8_t *content = load_file(arguments[1], &size), *file = load_file(arguments[3], &bytes);

    qdr_status status = qdr_open_with(&device, content, size, &trust, 0, &how, NULL);
    if (status != QDR_OK || file == NULL) {
        return fail(how.why, status);
    }
    size_t arena_bytes = qdr_arena_bytes(&device, WIDTH, HEIGHT, 1);
    arena_bytes = (arena_bytes + QDR_ARENA_ALIGNMENT - 1) / QDR_ARENA_ALIGNMENT *
                  QDR_ARENA_ALIGNMENT;
    uint8_t *arena = aligned_alloc(QDR_ARENA_ALIGNMENT, arena_bytes);
    decoded pixels = {0};
    qdr_pixels_image image;
    qdr_result result;
    status = decode_image(&pixels, &device, (qdr_view){file, bytes}, &image);
    int64_t read = now_ns();
    if (status == QDR_OK) {
        status = qdr_screen(&device, &image, arena, arena_bytes, NULL, &result);
    }
    int64_t decided = now_ns();
    if (status != QDR_OK || !result.has_logits) {
        return fail("the image reached no decision by the network", status);
    }
    qdr_decoder decoder = {decode_image, &pixels};
    status = qdr_self_test(&device, &decoder, arena, arena_bytes, NULL, NULL);
    if (status != QDR_OK) {
        return fail("self-test", status);
    }
    time_plan(&device);
    printf("{\"decided_ns\": %" PRId64 ", \"open_ns\": %" PRId64 ", \"first_ns\": %" PRId64,
           decided, opening_ns, decided - read);
    /* The input at the arena's beginning is the last golden image's: any pixels do. */
    printf(", \"infer_ns\": [");
    for (long n = 0, last = strtol(arguments[5], NULL, 10); n < last && status == QDR_OK; n++) {
        int64_t start = now_ns();
        status = qdr_infer(&device, arena, arena, arena_bytes, NULL, result.logits);
        printf("%s%" PRId64, n == 0 ? "" : ", ", now_ns() - start);
    }
    printf("], \"peak_kb\": %ld}\n", peak_kb());
    qdr_close(&device);
    free(pixels.data);
    free(arena);
    free(content);
    free(file);
    return status == QDR_OK ? 0 : fail("it failed while it was measured", status);
}
