/* Canonical JSON without floating-point numbers: one check of the whole, then a cursor over it.
 *
 * Canonical means: the bytes that Python's canonical_json (qdr_edge/files.py) writes. Keys are
 * sorted and occur once, there are no spaces, and a character has one spelling; so two texts are
 * equal exactly if their bytes are.
 */
#ifndef QDR_JSON_H
#define QDR_JSON_H

#include "qdr/bundle.h"

/* Objects and arrays inside each other. A manifest's deepest valid tree needs 35. */
#define QDR_JSON_DEPTH 36u

/* Python reads no integer with more digits. */
#define QDR_JSON_DIGITS 4300u

/* Whether the bytes are one canonical object; `*place` receives where they cease to be. */
bool qdr_json_is_canonical(const uint8_t *raw, size_t size, size_t *place);

/* A cursor over canonical JSON. `what` is NULL until something is not as it was expected; from
 * then on every call answers zero, false or empty and nothing moves.
 */
typedef struct qdr_json {
    const uint8_t *at;
    const uint8_t *end;
    const char *what;
} qdr_json;

qdr_json qdr_json_over(qdr_view value);

/* Note the first thing that is wrong. */
void qdr_json_fail(qdr_json *json, const char *what);

/* The first byte of the next value, which tells its type; 0 behind the end. */
uint8_t qdr_json_peek(const qdr_json *json);

/* Step into an object ('{') or an array ('['); then, before each member, ask for more. `more` steps
 * out behind the last one and answers false.
 */
void qdr_json_enter(qdr_json *json, uint8_t bracket);
bool qdr_json_more(qdr_json *json);

/* The values' readers; each fails if the value is of another type or outside its limits. */
qdr_text qdr_json_key(qdr_json *json);
qdr_text qdr_json_string(qdr_json *json);
qdr_text qdr_json_short_text(qdr_json *json); /* at most QDR_MAX_TEXT characters */
qdr_text qdr_json_name(qdr_json *json);       /* A-Z a-z 0-9 . _ + -, the first one of 62, to 128 */
bool qdr_json_bool(qdr_json *json);
uint32_t qdr_json_u32(qdr_json *json, uint32_t least, uint32_t most);
double qdr_json_float(qdr_json *json); /* text, see decimal.h */
void qdr_json_expect(qdr_json *json, const char *expected); /* text with one allowed value */
void qdr_json_sha256(qdr_json *json, uint8_t digest[QDR_SHA256_BYTES]);

/* A value that is skipped, with its bytes. */
qdr_view qdr_json_any(qdr_json *json);

/* A tree: an object whose members lie at most 32 levels deep. */
qdr_view qdr_json_tree(qdr_json *json);

/* A key of a sorted list of `count` fields and which one it is; fails for an unknown one. `*seen`
 * collects a bit a field. False behind the last key, or if that failed.
 */
bool qdr_json_field(qdr_json *json, const char *const *fields, unsigned count, uint32_t *seen,
                    unsigned *which);

/* Fail unless every bit of `needed` was seen. */
void qdr_json_need(qdr_json *json, uint32_t seen, uint32_t needed);

/* Whether text is of the alphabet and length that qdr_json_name reads. */
bool qdr_text_is_name(qdr_text text);

/* Characters of a text. */
size_t qdr_text_length(qdr_text text);

/* The byte of unescaped UTF-8 at `*at`, which moves behind it; -1 at the end. Unescaped UTF-8
 * sorts as Python sorts text, by code point.
 */
int qdr_text_next(qdr_text text, size_t *at);

/* `size` bytes from lower-case hexadecimal digits; false if text is anything else. */
bool qdr_text_hex(qdr_text text, uint8_t *out, size_t size);

#endif
