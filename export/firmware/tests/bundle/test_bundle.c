/* The bundle's reader by itself: published vectors, a sample bundle, every flipped bit of it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/bundle/container.h"
#include "../../src/bundle/decimal.h"
#include "../../src/bundle/json.h"
#include "../../src/bundle/sha512.h"
#include "../../src/bundle/signature.h"
#include "sample.h"

static unsigned failures;

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            failures++;                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);             \
        }                                                                      \
    } while (0)

static const qdr_trust TRUST = {SAMPLE_KEY, 1};

static void from_hex(const char *hex, uint8_t *out) {
    CHECK(qdr_text_hex(qdr_text_of(hex), out, strlen(hex) / 2));
}

static void test_sha256(void) {
    /* FIPS 180-4 examples: "abc" and a million times "a". */
    uint8_t digest[32];
    uint8_t expected[32];
    from_hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", expected);
    qdr_sha256((const uint8_t *)"abc", 3, digest);
    CHECK(memcmp(digest, expected, sizeof digest) == 0);
    uint8_t *many = malloc(1000000);
    CHECK(many != NULL);
    if (many != NULL) {
        memset(many, 'a', 1000000);
        from_hex("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", expected);
        qdr_sha256(many, 1000000, digest);
        CHECK(memcmp(digest, expected, sizeof digest) == 0);
        free(many);
    }
}

static void test_sha512(void) {
    uint8_t digest[64];
    uint8_t expected[64];
    qdr_sha512 hash;
    from_hex("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
             "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
             expected);
    qdr_sha512_start(&hash);
    qdr_sha512_add(&hash, (const uint8_t *)"a", 1);
    qdr_sha512_add(&hash, (const uint8_t *)"bc", 2);
    qdr_sha512_finish(&hash, digest);
    CHECK(memcmp(digest, expected, sizeof digest) == 0);
}

static void test_ed25519(void) {
    /* RFC 8032, 7.1, test 3. */
    uint8_t key[32];
    uint8_t signature[64];
    uint8_t message[2] = {0xaf, 0x82};
    qdr_view view = {message, sizeof message};
    from_hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", key);
    from_hex("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
             "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
             signature);
    CHECK(qdr_signature_holds(signature, key, view));
    message[0] ^= 1;
    CHECK(!qdr_signature_holds(signature, key, view));
}

static void test_crc32(void) {
    CHECK(qdr_crc32((const uint8_t *)"123456789", 9) == 0xcbf43926u);
    CHECK(qdr_crc32((const uint8_t *)"", 0) == 0);
}

static void test_decimals(void) {
    static const char *const GOOD[] = {
        "0.0", "-0.0", "inf", "-inf", "0.1", "1e-05", "0.0001", "1e+16", "9007199254740993e0",
        "5e-324", "1.7976931348623157e+308", "-2.2250738585072014e-308", "1125899906842624.2",
        "1e+23", "9.5e+22",
    };
    static const char *const BAD[] = {
        "nan", "1", "1.50", " 1.0", "1e5", "0x1p3", "", "-", "e", "1e", "+1.0", ".5", "1e+400",
        "0.1000000000000000055511151231257827", "1.0 ", "infinity", "-nan", "1e-400", "9e-324",
    };
    double value;
    for (size_t k = 0; k < sizeof GOOD / sizeof GOOD[0]; k++) {
        /* The ninth is a value that no float64 has, spelt as no repr is. */
        CHECK(qdr_decimal_read(qdr_text_of(GOOD[k]), &value) == (k != 8));
    }
    for (size_t k = 0; k < sizeof BAD / sizeof BAD[0]; k++) {
        CHECK(!qdr_decimal_read(qdr_text_of(BAD[k]), &value));
    }
    CHECK(qdr_decimal_read(qdr_text_of("-2.5e-07"), &value) && value == -2.5e-07);
}

static void test_canonical(void) {
    static const char *const GOOD[] = {
        "{}", "{\"a\":[],\"b\":{}}", "{\"a\":-1,\"a\\n\":[true,false,null,0,\"\\u001f\\\"\x7f\"]}",
        "{\"\\n\":1,\" \":2}",
    };
    static const char *const BAD[] = {
        "", "[]", "1", "{", "{\"a\":1,\"a\":2}", "{\"b\":1,\"a\":2}", "{ }", "{\"a\":1}\n",
        "{\"a\":1.0}", "{\"a\":-0}", "{\"a\":00}", "{\"a\":1,}", "{\"a\":[1,]}", "{\"a\":[,1]}",
        "{\"a\":\"\\/\"}", "{\"a\":\"\\u0041\"}", "{\"a\":\"\\u000a\"}", "{\"a\":\"\\u001F\"}",
        "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xf4\x90\x80\x80\"}",
        "{\"a\":\"\n\"}", "{\"a\":tru}", "{\"a\":}", "{\"a\"}", "{a:1}", "{\"a\":1]", "{\"a\":[1}",
        "{\" \":2,\"\\n\":1}", "{\"a\":1}{}", "{\"a\":\"x", "{\"a\":\"\\", "{\"a\":-}",
        "{\"\":\xff}",
    };
    size_t place;
    for (size_t k = 0; k < sizeof GOOD / sizeof GOOD[0]; k++) {
        CHECK(qdr_json_is_canonical((const uint8_t *)GOOD[k], strlen(GOOD[k]), &place));
    }
    for (size_t k = 0; k < sizeof BAD / sizeof BAD[0]; k++) {
        CHECK(!qdr_json_is_canonical((const uint8_t *)BAD[k], strlen(BAD[k]), &place));
    }
}

static void test_sample(void) {
    static qdr_bundle bundle;
    qdr_bundle_error where;
    qdr_contract spec;
    qdr_gate_limits gates;
    qdr_rule rule;
    qdr_view view;
    double logits[3];
    char text[32];
    size_t length;
    CHECK(qdr_bundle_open(&bundle, SAMPLE, sizeof SAMPLE, &TRUST, 7, &where) == QDR_OK);
    const qdr_manifest *m = &bundle.manifest;
    CHECK(where.what[0] == '\0' && m->security_version == 7 && m->label_count == 3);
    CHECK(qdr_text_equal(m->bundle_id, qdr_text_of("sample")));
    CHECK(qdr_text_copy(m->labels[2].name, text, sizeof text, &length) == QDR_OK);
    CHECK(length == 2 && strcmp(text, "D\n") == 0);
    CHECK(qdr_text_copy(m->labels[2].name, text, 2, NULL) == QDR_NO_SPACE);
    CHECK(qdr_bundle_entry(&bundle, qdr_text_of("NOTICE"), &view) == QDR_OK);
    CHECK(view.size == 6 && memcmp(view.bytes, "notice", 6) == 0);
    CHECK(qdr_bundle_entry(&bundle, qdr_text_of("notice"), &view) == QDR_BAD_BUNDLE);
    CHECK(qdr_manifest_preprocess(m, &spec) == QDR_OK && spec.size == 64);
    CHECK(qdr_manifest_gates(m, &gates) == QDR_OK && gates.low[0] <= gates.high[0]);
    CHECK(qdr_manifest_rule(m, &rule) == QDR_OK && rule.normal == 0 && rule.temperature == 1.5);
    CHECK(qdr_golden_logits(&m->golden[0], qdr_text_of("native"), logits, 3) == QDR_OK);
    CHECK(logits[0] == 0.25 && logits[1] == -1.5 && logits[2] == 3.0);
    CHECK(qdr_golden_logits(&m->golden[0], qdr_text_of("x"), logits, 3) == QDR_UNSUPPORTED);
    CHECK(qdr_golden_logits(&m->golden[0], qdr_text_of("native"), logits, 2) == QDR_BAD_ARGUMENT);
    CHECK(qdr_bundle_open(&bundle, SAMPLE, sizeof SAMPLE, &TRUST, 8, NULL) == QDR_ROLLBACK);
    CHECK(bundle.count == 0 && bundle.manifest.label_count == 0);
    qdr_trust nobody = {NULL, 0};
    CHECK(qdr_bundle_open(&bundle, SAMPLE, sizeof SAMPLE, &nobody, 0, &where) ==
          QDR_BAD_SIGNATURE);
    CHECK(qdr_bundle_open(NULL, SAMPLE, sizeof SAMPLE, &TRUST, 0, &where) == QDR_BAD_ARGUMENT);
}

/* In memory of exactly its size, so that a sanitizer sees every byte too far. */
static void test_every_truncation(void) {
    static qdr_bundle bundle;
    for (size_t size = 0; size < sizeof SAMPLE; size++) {
        uint8_t *cut = malloc(size > 0 ? size : 1);
        CHECK(cut != NULL);
        if (cut != NULL) {
            memcpy(cut, SAMPLE, size);
            CHECK(qdr_bundle_open(&bundle, cut, size, &TRUST, 0, NULL) == QDR_BAD_BUNDLE);
            free(cut);
        }
    }
}

static void test_every_bit(void) {
    static qdr_bundle bundle;
    static uint8_t changed[sizeof SAMPLE];
    memcpy(changed, SAMPLE, sizeof SAMPLE);
    for (size_t bit = 0; bit < 8 * sizeof SAMPLE; bit++) {
        changed[bit / 8] = (uint8_t)(changed[bit / 8] ^ 1u << bit % 8);
        CHECK(qdr_bundle_open(&bundle, changed, sizeof changed, &TRUST, 0, NULL) != QDR_OK);
        changed[bit / 8] = SAMPLE[bit / 8];
    }
    CHECK(qdr_bundle_open(&bundle, changed, sizeof changed, &TRUST, 0, NULL) == QDR_OK);
}

static void test_decision(void) {
    qdr_rule rule = {3, 0, false, 1.0, {0.0, 0.5, (double)INFINITY}};
    const float negative[3] = {9.0f, 0.25f, 9.0f};
    const float positive[3] = {-9.0f, 0.5f, 0.0f};
    const float broken[3] = {0.0f, (float)NAN, 0.0f};
    qdr_decision one;
    qdr_decision eye;
    qdr_eye_start(&eye);
    CHECK(eye.outcome == QDR_OUTCOME_UNGRADABLE);
    CHECK(qdr_decide(&rule, negative, 3, &one) == QDR_OK);
    CHECK(one.outcome == QDR_OUTCOME_NEGATIVE && one.labels[0].positive && !one.labels[1].positive);
    CHECK(qdr_eye_add(&rule, &eye, &one) == QDR_OK && eye.outcome == QDR_OUTCOME_NEGATIVE);
    CHECK(qdr_decide(&rule, positive, 3, &one) == QDR_OK && one.outcome == QDR_OUTCOME_POSITIVE);
    CHECK(qdr_eye_add(&rule, &eye, &one) == QDR_OK && eye.outcome == QDR_OUTCOME_POSITIVE);
    CHECK(eye.labels[0].score == 9.0 && eye.labels[1].score == 0.5);
    CHECK(qdr_decide(&rule, broken, 3, &one) == QDR_OK && one.outcome == QDR_OUTCOME_FAULT);
    CHECK(qdr_decide(&rule, negative, 2, &one) == QDR_OK && one.outcome == QDR_OUTCOME_FAULT);
    CHECK(qdr_eye_add(&rule, &eye, &one) == QDR_OK && eye.outcome == QDR_OUTCOME_FAULT);
    rule.temperature = 0;
    CHECK(qdr_decide(&rule, negative, 3, &one) == QDR_BAD_ARGUMENT);
    CHECK(one.outcome == QDR_OUTCOME_FAULT);
}

int main(void) {
    test_sha256();
    test_sha512();
    test_ed25519();
    test_crc32();
    test_decimals();
    test_canonical();
    test_sample();
    test_every_truncation();
    test_every_bit();
    test_decision();
    printf("%u failures\n", failures);
    return failures == 0 ? 0 : 1;
}
