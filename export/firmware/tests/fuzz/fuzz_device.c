/* Fuzz target of a device's whole path: open, screen, self-test, close.
 *
 * The input is a picture's form (HEAD bytes) and edits of tiny.qdr, four bytes each: where (16 bits),
 * a value, and a kind. Whatever the edits change of the manifest, the plan or the contract, the hashes
 * and checksums over it are made to fit again, and every signature holds: what is reached is what
 * only the holder of a trusted key reaches. QDR_FUZZ_BUNDLE is the path of tiny.qdr.
 */
#define _POSIX_C_SOURCE 200112L

#include "../arena.h"
#include "../bundle/any_signature.h"
#include "../tiny.h"
#include "bundle/container.h"

enum { HEAD = 16, EDIT = 4, RECORDS = 3280, MOST_ARENA = 4 << 20, HEX = 64, LOCAL = 30, ROW = 46 };

#define HOLDS(condition)                                           \
    do {                                                           \
        if (!(condition)) {                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                               \
        }                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes of the bundle that hold together: an entry, and where its two checksums stand. */
typedef struct part {
    size_t begin, size, local_crc, row_crc;
} part;

static unsigned char *good;
static size_t good_size;
static part manifest, plan, eye;
static size_t plan_hash, spec, spec_bytes, spec_hash; /* places */

static size_t find(const char *text, size_t length, size_t from) {
    for (size_t at = from; at + length <= good_size; at++) {
        if (memcmp(good + at, text, length) == 0) {
            return at;
        }
    }
    HOLDS(text == NULL); /* tiny.qdr has another form */
    return 0;
}

static void write_hash(uint8_t *to, const uint8_t *bytes, size_t size) {
    static const char DIGITS[] = "0123456789abcdef";
    uint8_t digest[QDR_SHA256_BYTES];
    qdr_sha256(bytes, size, digest);
    for (size_t k = 0; k < sizeof digest; k++) {
        to[2 * k] = (uint8_t)DIGITS[digest[k] >> 4];
        to[2 * k + 1] = (uint8_t)DIGITS[digest[k] & 15];
    }
}

static part find_part(const qdr_container *container, const char *name) {
    size_t row = container->table;
    for (uint32_t k = 0; k < container->count; k++) {
        size_t begin = row;
        qdr_entry entry = qdr_container_entry(container, &row);
        if (qdr_text_equal(entry.name, qdr_text_of(name))) {
            size_t content = (size_t)(entry.content.bytes - good);
            size_t local = content - LOCAL - entry.name.size;
            return (part){content, entry.content.size, local + 14, begin + 16};
        }
    }
    HOLDS(name == NULL); /* tiny.qdr has another form */
    return (part){0, 0, 0, 0};
}

static void learn(void) {
    char hash[HEX];
    qdr_container container;
    qdr_bundle_error where = {"", 0};
    good = read_file(QDR_FUZZ_BUNDLE, &good_size);
    HOLDS(qdr_container_check(&container, good, good_size, &where) == QDR_OK);
    manifest = find_part(&container, "manifest.json");
    plan = find_part(&container, "artefacts/native.plan");
    write_hash((uint8_t *)hash, good + plan.begin, plan.size);
    eye = find_part(&container, "golden/eye-0.raw");
    plan_hash = find(hash, HEX, manifest.begin);
    spec = find("\"spec\":", 7, manifest.begin) + 7;
    spec_bytes = find("}", 1, spec) + 1 - spec;
    write_hash((uint8_t *)hash, good + spec, spec_bytes);
    spec_hash = find(hash, HEX, manifest.begin);
}

static void edit(uint8_t *bundle, const uint8_t *how) {
    size_t where = (size_t)how[0] | (size_t)how[1] << 8;
    switch (how[3] % 5) {
    case 0:
        bundle[manifest.begin + where % manifest.size] = how[2];
        break;
    case 1: /* where the contract, the rule and the gate stand, bytes count most */
        bundle[spec + where % spec_bytes] = how[2];
        break;
    case 2:
        bundle[plan.begin + where % RECORDS] = how[2];
        break;
    case 3: /* a small number, as most fields of a plan hold */
        memset(bundle + plan.begin + where % RECORDS / 4 * 4, 0, 4);
        bundle[plan.begin + where % RECORDS / 4 * 4] = how[2];
        break;
    default:
        bundle[where % good_size] = how[2];
    }
}

static void write_crc(uint8_t *bundle, const part *of) {
    uint32_t crc = qdr_crc32(bundle + of->begin, of->size);
    for (size_t k = 0; k < 4; k++) {
        bundle[of->local_crc + k] = bundle[of->row_crc + k] = (uint8_t)(crc >> 8 * k);
    }
}

static void check_result(const qdr_result *result) {
    HOLDS(result->reason != NULL);
    HOLDS(result->decision.label_count <= QDR_MAX_LABELS);
    switch (result->decision.outcome) {
    case QDR_OUTCOME_POSITIVE:
    case QDR_OUTCOME_NEGATIVE:
        HOLDS(result->has_logits && result->reason[0] == '\0');
        break;
    case QDR_OUTCOME_UNGRADABLE:
    case QDR_OUTCOME_INVALID_INPUT:
        HOLDS(!result->has_logits && result->reason[0] != '\0');
        break;
    default:
        HOLDS(result->decision.outcome == QDR_OUTCOME_FAULT && result->reason[0] != '\0');
    }
}

/* Every call of an open device, in an arena of exactly the stated size. */
static void use(qdr_device *device, const qdr_pixels_image *image, const uint8_t *head) {
    static qdr_result result;
    const qdr_decoder decoder = {decode_raw, NULL};
    size_t bytes = qdr_arena_bytes(device, image->width, image->height, 1);
    if (bytes == 0 || bytes > MOST_ARENA) {
        return;
    }
    void *arena = take_arena(bytes);
    uint32_t tested = 0;
    HOLDS(qdr_screen(device, image, arena, bytes, NULL, &result) == QDR_OK);
    check_result(&result);
    if (head[4] & 1) {
        qdr_status status = qdr_screen(device, image, arena, bytes - 1, NULL, &result);
        HOLDS(status == QDR_OK || status == QDR_NO_SPACE);
    }
    if (head[4] & 2) {
        HOLDS(qdr_screen(device, NULL, arena, bytes, NULL, &result) == QDR_OK);
        HOLDS(result.decision.outcome == QDR_OUTCOME_INVALID_INPUT);
    }
    qdr_status proved = qdr_self_test(device, &decoder, arena, bytes, NULL, &tested);
    HOLDS(proved == QDR_OK || proved == QDR_SELF_TEST_FAILED || proved == QDR_NO_SPACE);
    HOLDS(tested <= QDR_MAX_GOLDEN && device->is_faulty == (proved == QDR_SELF_TEST_FAILED));
    HOLDS(qdr_screen(device, image, arena, bytes, NULL, &result) == QDR_OK);
    HOLDS(!device->is_faulty || result.decision.outcome == QDR_OUTCOME_FAULT);
    free_arena(arena, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qdr_device device;
    static const qdr_trust trust = {TINY_KEY, 1};
    qdr_bundle_error where;
    if (size < HEAD) {
        return 0;
    }
    if (good == NULL) {
        learn();
    }
    uint8_t *bundle = malloc(good_size);
    HOLDS(bundle != NULL);
    memcpy(bundle, good, good_size);
    for (size_t at = HEAD; at + EDIT <= size && at < HEAD + 64 * EDIT; at += EDIT) {
        edit(bundle, data + at);
    }
    write_hash(bundle + plan_hash, bundle + plan.begin, plan.size);
    write_hash(bundle + spec_hash, bundle + spec, spec_bytes);
    write_crc(bundle, &plan);
    write_crc(bundle, &manifest);
    /* The picture is a golden image, or the head again and again. */
    uint8_t pixels[3 * 64 * 64];
    for (size_t at = 0; at < sizeof pixels; at++) {
        pixels[at] = (uint8_t)(data[at % HEAD] + at / 256);
    }
    uint32_t width = 28u + data[0] % 36u, height = 28u + data[1] % 36u;
    qdr_pixels_image image = {pixels, width, height, 3 * (size_t)width, 3, 1u + data[2] % 8u};
    if (data[3] & 1) {
        image = (qdr_pixels_image){good + eye.begin + 4, 48, 48, 144, 3, 1u + data[2] % 8u};
    }
    if (qdr_open(&device, bundle, good_size, &trust, 0, &where) == QDR_OK) {
        use(&device, &image, data);
    } else {
        HOLDS(!device.is_open && qdr_arena_bytes(&device, 64, 64, 1) == 0);
    }
    qdr_close(&device);
    free(bundle);
    return 0;
}
