/* From logits to a decision: scores, thresholds and the possible outcomes.
 *
 * Mirrors qdr_edge/decision.py. Labels that go together: a label's score is its logit, the
 * decision is one comparison of two float64 and the same as Python's on every machine. Labels
 * that exclude each other: the score is z_k - log(sum over j != k of exp z_j) by the very
 * operations of Python, in its order, with a sum that is rounded once; it is the same bit for
 * bit wherever exp() and log() of the C library give the bits that Python's C library gave.
 * Elsewhere, with both within one unit in the last place, a label can be decided otherwise only
 * if its score lies within 2^-47 x max(1, largest |z|) of its threshold; Python's own answers
 * may part as much between machines.
 *
 * Part of qdr-edge. Not a medical device.
 */
#ifndef QDR_DECISION_H
#define QDR_DECISION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qdr/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QDR_MAX_LABELS 64u

typedef enum qdr_outcome {
    QDR_OUTCOME_POSITIVE = 1,
    QDR_OUTCOME_NEGATIVE = 2,
    QDR_OUTCOME_UNGRADABLE = 3,
    QDR_OUTCOME_INVALID_INPUT = 4,
    QDR_OUTCOME_FAULT = 5
} qdr_outcome;

/* The frozen operating point of a model. */
typedef struct qdr_rule {
    uint32_t label_count; /* 1..QDR_MAX_LABELS */
    uint32_t normal;      /* index of the label NOR, which is no finding; label_count if none is */
    bool exclusive;       /* each image carries exactly one label; needs two labels */
    double temperature;   /* finite, above 0 */
    double thresholds[QDR_MAX_LABELS]; /* [label_count]; may be infinite, never NaN */
} qdr_rule;

/* One label's answer. Probabilities and their thresholds are for people and are never compared.
 * They are Python's bit for bit where exp() and log() are; elsewhere they differ by at most
 * 2^-49 of their value, among exclusive labels by 2^-46 x max(1, largest |z / temperature|).
 */
typedef struct qdr_label_result {
    double logit;
    double score;       /* what decides */
    double probability; /* calibrated, 0..1 */
    double threshold;   /* on the probability scale; among exclusive labels before calibration */
    bool positive;      /* score >= threshold of the rule */
} qdr_label_result;

typedef struct qdr_decision {
    qdr_outcome outcome;
    uint32_t label_count; /* 0 unless POSITIVE or NEGATIVE */
    qdr_label_result labels[QDR_MAX_LABELS];
} qdr_decision;

/* Decide about one image.
 *
 * logits: float32 [count]. The outcome is POSITIVE if a label other than NOR reaches its threshold,
 * else NEGATIVE; FAULT if a logit is not finite or `count` is not the rule's.
 *
 * QDR_BAD_ARGUMENT: a null pointer, or a rule outside its stated ranges; `out` is FAULT then.
 */
qdr_status qdr_decide(const qdr_rule *rule, const float *logits, size_t count, qdr_decision *out);

/* The decision about an eye before its first image: UNGRADABLE. */
void qdr_eye_start(qdr_decision *eye);

/* Add one image's decision to its eye's: each label's largest score counts.
 *
 * Images that are UNGRADABLE or INVALID_INPUT are left out; a FAULT of one is one of the eye.
 *
 * QDR_BAD_ARGUMENT: a null pointer, or a decision of another rule; the eye is FAULT then.
 */
qdr_status qdr_eye_add(const qdr_rule *rule, qdr_decision *eye, const qdr_decision *image);

#ifdef __cplusplus
}
#endif

#endif
