/* A device's whole path on a tiny bundle, in an arena of exactly the stated size.
 *
 *   test_device FOLDER     which holds tiny.qdr (make_data.py)
 */
#define _POSIX_C_SOURCE 200112L

#include <string.h>

#include "arena.h"
#include "check.h"
#include "tiny.h"

enum { SIDE = 48 }; /* of the largest golden image */

static const qdr_trust TRUST = {TINY_KEY, 1};
static const qdr_decoder DECODER = {decode_raw, NULL};

/* The golden image whose name is given, as a picture. */
static qdr_pixels_image golden(const qdr_device *device, const char *name) {
    qdr_view content;
    qdr_pixels_image image;
    CHECK(qdr_bundle_entry(&device->bundle, qdr_text_of(name), &content) == QDR_OK);
    CHECK(decode_raw(NULL, device, content, &image) == QDR_OK);
    return image;
}

static void every_call(qdr_device *device) {
    uint32_t tested = 0;
    qdr_result result;
    size_t bytes = qdr_arena_bytes(device, SIDE, SIDE, 1);
    void *arena = take_arena(bytes);
    CHECK(qdr_self_test(device, &DECODER, arena, bytes, NULL, &tested) == QDR_OK);
    CHECK(tested == device->bundle.manifest.golden_count);
    qdr_pixels_image eye = golden(device, "golden/eye-0.raw");
    for (eye.orientation = 1; eye.orientation <= 8; eye.orientation++) {
        CHECK(qdr_screen(device, &eye, arena, bytes, NULL, &result) == QDR_OK);
        CHECK(result.has_logits && result.decision.label_count == device->plan.classes);
    }
    qdr_pixels_image black = golden(device, "golden/black.raw");
    CHECK(qdr_screen(device, &black, arena, bytes, NULL, &result) == QDR_OK);
    CHECK(!result.has_logits && result.reason[0] != '\0');
    free_arena(arena, bytes);
}

/* No arena is too small for any harm: each size is refused, or enough. */
static void every_arena(qdr_device *device) {
    qdr_result result;
    qdr_pixels_image eye = golden(device, "golden/eye-0.raw");
    unsigned refused = 0, enough = 0;
    size_t most = qdr_arena_bytes(device, SIDE, SIDE, 1);
    for (size_t bytes = 1; bytes <= most; bytes += bytes + 300 < most ? 97 : 1) {
        void *arena = take_arena(bytes);
        eye.orientation = 1;
        qdr_status status = qdr_screen(device, &eye, arena, bytes, NULL, &result);
        CHECK(status == QDR_OK || status == QDR_NO_SPACE);
        refused += status == QDR_NO_SPACE;
        enough += status == QDR_OK;
        free_arena(arena, bytes);
    }
    CHECK(refused > 0 && enough > 0);
    CHECK(qdr_screen(device, &eye, NULL, most, NULL, &result) == QDR_BAD_ARGUMENT);
}

/* Golden images that do not come out as recorded make a device refuse every image. */
static void faulty(unsigned char *content, size_t size) {
    qdr_device device;
    qdr_result result;
    CHECK(qdr_open(&device, content, size, &TRUST, 0, NULL) == QDR_OK);
    size_t bytes = qdr_arena_bytes(&device, SIDE, SIDE, 1);
    void *arena = take_arena(bytes);
    qdr_pixels_image eye = golden(&device, "golden/eye-0.raw");
    /* As if the flash had lost a bit after the bundle was verified. */
    unsigned char *pixel = content + (eye.data - content) + 3 * (SIDE * SIDE / 2 + SIDE / 2);
    *pixel ^= 0x80;
    CHECK(qdr_self_test(&device, &DECODER, arena, bytes, NULL, NULL) == QDR_SELF_TEST_FAILED);
    *pixel ^= 0x80;
    CHECK(qdr_self_test(&device, &DECODER, arena, bytes, NULL, NULL) == QDR_SELF_TEST_FAILED);
    CHECK(qdr_screen(&device, &eye, arena, bytes, NULL, &result) == QDR_OK);
    CHECK(result.decision.outcome == QDR_OUTCOME_FAULT && !result.has_logits);
    free_arena(arena, bytes);
    qdr_close(&device);
    CHECK(qdr_arena_bytes(&device, SIDE, SIDE, 1) == 0);
}

int main(int count, char **arguments) {
    static qdr_device device;
    char path[1024];
    size_t size;
    CHECK(count == 2);
    snprintf(path, sizeof path, "%s/tiny.qdr", arguments[1]);
    unsigned char *content = read_file(path, &size);
    CHECK(qdr_open(&device, content, size, &TRUST, 0, NULL) == QDR_OK);
    every_call(&device);
    every_arena(&device);
    qdr_close(&device);
    faulty(content, size);
    free(content);
    puts("ok");
    return 0;
}
