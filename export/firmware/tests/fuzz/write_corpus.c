/* Write the inputs that fuzzing begins with: write_corpus DATA FOLDER
 *
 * FOLDER/bundle, /plan, /pixels, /device hold a few files each, in the form that the target reads;
 * FOLDER/written is written last. DATA is tests/data.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "../bundle/sample.h"
#include "../check.h"
#include "../random.h"
#include "bundle/container.h"

static const char *to;

static void make_folder(const char *path) { CHECK(mkdir(path, 0777) == 0 || errno == EEXIST); }

static void save(const char *name, const void *head, size_t head_bytes, const void *rest,
                 size_t rest_bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", to, name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(head, 1, head_bytes, file) == head_bytes);
    CHECK(fwrite(rest, 1, rest_bytes, file) == rest_bytes);
    CHECK(fclose(file) == 0);
}

/* A whole bundle, its container and manifest by themselves, and numbers as text. */
static void bundles(const char *name, const uint8_t *content, size_t size) {
    qdr_container container;
    qdr_bundle_error where = {"", 0};
    char file[64];
    CHECK(qdr_container_check(&container, content, size, &where) == QDR_OK);
    size_t row = container.table;
    qdr_view manifest = qdr_container_entry(&container, &row).content;
    const struct {
        const char *head;
        const uint8_t *bytes;
        size_t size;
    } forms[] = {{"b", content, size}, {"c", content, size},
                 {"m", manifest.bytes, manifest.size}};
    for (size_t k = 0; k < sizeof forms / sizeof *forms; k++) {
        snprintf(file, sizeof file, "bundle/%s-%s", forms[k].head, name);
        save(file, forms[k].head, 1, forms[k].bytes, forms[k].size);
    }
}

static void texts(void) {
    static const char *const TEXTS[] = {"0.1", "-2.5e-07", "inf", "1.7976931348623157e+308",
                                        "5e-324", "-0.0", "\\u00e9\\n\\\"\\ud83d\\ude00"};
    for (size_t k = 0; k < sizeof TEXTS / sizeof *TEXTS; k++) {
        char file[64];
        snprintf(file, sizeof file, "bundle/t-%zu", k);
        save(file, "t", 1, TEXTS[k], strlen(TEXTS[k]));
    }
}

/* Heads that differ in every field, and something to see behind them. */
static void drawn(const char *target, size_t head_bytes, int count) {
    uint64_t state = 1;
    for (int k = 0; k < count; k++) {
        uint8_t bytes[256];
        char file[64];
        for (size_t at = 0; at < sizeof bytes; at++) {
            bytes[at] = (uint8_t)(next_random(&state) >> 40);
        }
        for (size_t at = 0; at < head_bytes; at++) {
            bytes[at] &= (uint8_t)(k % 2 == 0 ? 0x3f : 0xff); /* high bits choose what is odd */
        }
        snprintf(file, sizeof file, "%s/%d", target, k);
        save(file, bytes, sizeof bytes, "", 0);
    }
}

int main(int count, char **arguments) {
    static const char *const TARGETS[] = {"bundle", "plan", "pixels", "device"};
    char path[1024];
    size_t size;
    CHECK(count == 3);
    to = arguments[2];
    make_folder(to);
    for (size_t k = 0; k < sizeof TARGETS / sizeof *TARGETS; k++) {
        snprintf(path, sizeof path, "%s/%s", to, TARGETS[k]);
        make_folder(path);
    }
    bundles("sample", SAMPLE, sizeof SAMPLE);
    texts();
    snprintf(path, sizeof path, "%s/tiny.plan", arguments[1]);
    unsigned char *plan = read_file(path, &size);
    save("plan/tiny.plan", plan, size, "", 0);
    free(plan);
    drawn("pixels", 32, 40);
    drawn("device", 32, 40);
    save("written", SAMPLE_KEY, 0, "", 0);
    return 0;
}
