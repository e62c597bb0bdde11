/* A camera's loop: frames are screened as they come, and the device proves itself now and then.
 *
 *   camera_loop BUNDLE.qdr PUBLIC_KEY.pem FRAMES_FOLDER [SELF_TEST_EVERY [THREADS]]
 *
 * Stands for firmware with a frame source, a watchdog and an operator's display. Frames are the files
 * 000000.jpg, 000001.jpg, … of a folder; the loop ends with the first that is missing. A frame that
 * takes longer than the watchdog allows, or a self-test that fails, stops screening for good: the
 * device says FAULT and waits for service.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "decode.h"
#include "keys.h"
#include "qdr/threads.h"

enum { WIDTH = 6000, HEIGHT = 4000, WATCHDOG_MS = 2000, TEST_EVERY = 100 };

typedef struct camera {
    qdr_device device;
    qdr_pool pool;
    qdr_run_options options;
    decoded pixels;
    void *arena;
    size_t arena_bytes;
} camera;

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static bool proves_itself(camera *c) {
    qdr_decoder decoder = {decode_image, &c->pixels};
    uint32_t tested = 0;
    qdr_status status = qdr_self_test(&c->device, &decoder, c->arena, c->arena_bytes, &c->options,
                                      &tested);
    printf("self-test: %s, %u golden images\n", qdr_status_text(status), tested);
    return status == QDR_OK;
}

/* One frame; false where the device must not go on. */
static bool screen(camera *c, const char *path, const uint8_t *file, size_t size) {
    double start = now_ms();
    qdr_pixels_image image;
    qdr_result result;
    qdr_status read = decode_image(&c->pixels, &c->device, (qdr_view){file, size}, &image);
    qdr_status status = qdr_screen(&c->device, read == QDR_OK ? &image : NULL, c->arena,
                                   c->arena_bytes, &c->options, &result);
    double took = now_ms() - start;
    if (status != QDR_OK || took > WATCHDOG_MS) {
        printf("%s: FAULT: %s after %.1f ms\n", path, qdr_status_text(status), took);
        return false;
    }
    printf("%s: outcome %d in %.1f ms %s\n", path, (int)result.decision.outcome, took,
           result.reason);
    return result.decision.outcome != QDR_OUTCOME_FAULT;
}

static bool start(camera *c, const uint8_t *bundle, size_t size, const char *key_path,
                  uint32_t threads) {
    static uint8_t key[1][QDR_KEY_BYTES];
    qdr_trust trust = {(const uint8_t(*)[QDR_KEY_BYTES])key, 1};
    qdr_bundle_error why = {"no key", 0};
    if (load_public_key(key_path, key[0]) != 0 ||
        qdr_open(&c->device, bundle, size, &trust, 0, &why) != QDR_OK) {
        fprintf(stderr, "the bundle cannot be opened: %s\n", why.what);
        return false;
    }
    if (qdr_pool_start(&c->pool, threads) != QDR_OK) {
        fprintf(stderr, "%u threads cannot be started\n", threads);
        return false;
    }
    c->options.parallel = &c->pool.parallel;
    c->arena_bytes = qdr_arena_bytes(&c->device, WIDTH, HEIGHT, threads);
    c->arena = aligned_alloc(QDR_ARENA_ALIGNMENT, (c->arena_bytes + QDR_ARENA_ALIGNMENT - 1) /
                                                      QDR_ARENA_ALIGNMENT * QDR_ARENA_ALIGNMENT);
    return c->arena != NULL && proves_itself(c);
}

int main(int count, char **arguments) {
    static camera c;
    size_t size = 0;
    if (count < 4) {
        fprintf(stderr, "usage: camera_loop BUNDLE KEY FOLDER [SELF_TEST_EVERY [THREADS]]\n");
        return 2;
    }
    unsigned every = count > 4 ? (unsigned)strtoul(arguments[4], NULL, 10) : TEST_EVERY;
    unsigned threads = count > 5 ? (unsigned)strtoul(arguments[5], NULL, 10) : 1;
    uint8_t *bundle = load_file(arguments[1], &size);
    bool works = bundle != NULL && start(&c, bundle, size, arguments[2], threads);
    unsigned frame = 0;
    for (; works; frame++) {
        char path[4096];
        size_t bytes = 0;
        snprintf(path, sizeof path, "%s/%06u.jpg", arguments[3], frame);
        uint8_t *file = load_file(path, &bytes);
        if (file == NULL) {
            break;
        }
        works = screen(&c, path, file, bytes);
        if (works && every != 0 && (frame + 1) % every == 0) {
            works = proves_itself(&c);
        }
        free(file);
    }
    printf("%u frames; %s\n", frame, works ? "ready" : "out of service");
    qdr_pool_stop(&c.pool);
    qdr_close(&c.device);
    free(c.pixels.data);
    free(c.arena);
    free(bundle);
    return works ? 0 : 1;
}
