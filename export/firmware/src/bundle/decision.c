#include "qdr/decision.h"

#include <math.h>
#include <string.h>

#include "sum.h"

/* Floating point is forced here: Python's decision of exclusive labels is defined by float64
 * operations and exp() and log(). No sum that counts has a product in it, so that contraction to a
 * fused multiply-add cannot change a bit; sum.h refuses the compiler options that would.
 */

static bool is_finite_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

static bool is_nan_f64(double value) {
    return value != value;
}

/* Scores of one image: the logits, or each label's log-odds against all others. */
static void row_scores(const double *logits, uint32_t count, bool exclusive, double *scores) {
    double terms[QDR_MAX_LABELS];
    for (uint32_t k = 0; k < count; k++) {
        if (!exclusive) {
            scores[k] = logits[k];
            continue;
        }
        uint32_t first = k == 0 ? 1 : 0;
        double largest = logits[first];
        for (uint32_t j = first + 1; j < count; j++) {
            largest = j != k && logits[j] > largest ? logits[j] : largest;
        }
        uint32_t used = 0;
        for (uint32_t j = 0; j < count; j++) {
            if (j != k) {
                terms[used++] = exp(logits[j] - largest);
            }
        }
        scores[k] = logits[k] - (largest + log(qdr_exact_sum(terms, used)));
    }
}

/* 1 / (1 + exp(-value)) without overflow; 0 for NaN, as decision.py. */
static double sigmoid(double value) {
    if (value >= 0) {
        return 1 / (1 + exp(-value));
    }
    return value > -700 ? exp(value) / (1 + exp(value)) : 0.0;
}

static bool rule_is_valid(const qdr_rule *rule) {
    if (rule->label_count < 1 || rule->label_count > QDR_MAX_LABELS ||
        (rule->exclusive && rule->label_count < 2) || !(rule->temperature > 0) ||
        rule->temperature - rule->temperature != 0) {
        return false;
    }
    for (uint32_t k = 0; k < rule->label_count; k++) {
        if (is_nan_f64(rule->thresholds[k])) {
            return false;
        }
    }
    return true;
}

static void reject(qdr_decision *out, qdr_outcome outcome) {
    memset(out, 0, sizeof *out);
    out->outcome = outcome;
}

static qdr_outcome outcome_of(const qdr_rule *rule, const qdr_label_result *labels) {
    for (uint32_t k = 0; k < rule->label_count; k++) {
        if (labels[k].positive && k != rule->normal) {
            return QDR_OUTCOME_POSITIVE;
        }
    }
    return QDR_OUTCOME_NEGATIVE;
}

qdr_status qdr_decide(const qdr_rule *rule, const float *logits, size_t count, qdr_decision *out) {
    double values[QDR_MAX_LABELS] = {0};
    double scores[QDR_MAX_LABELS] = {0};
    if (out == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    reject(out, QDR_OUTCOME_FAULT);
    if (rule == NULL || logits == NULL || !rule_is_valid(rule)) {
        return QDR_BAD_ARGUMENT;
    }
    if (count != rule->label_count) {
        return QDR_OK;
    }
    for (uint32_t k = 0; k < rule->label_count; k++) {
        if (!is_finite_f32(logits[k])) {
            return QDR_OK;
        }
        values[k] = (double)logits[k];
    }
    row_scores(values, rule->label_count, rule->exclusive, scores);
    double shown = rule->exclusive ? 1.0 : rule->temperature;
    for (uint32_t k = 0; k < rule->label_count; k++) {
        out->labels[k].logit = values[k];
        out->labels[k].score = scores[k];
        out->labels[k].threshold = sigmoid(rule->thresholds[k] / shown);
        out->labels[k].positive = scores[k] >= rule->thresholds[k];
        values[k] /= rule->temperature;
    }
    row_scores(values, rule->label_count, rule->exclusive, scores);
    for (uint32_t k = 0; k < rule->label_count; k++) {
        out->labels[k].probability = sigmoid(scores[k]);
    }
    out->label_count = rule->label_count;
    out->outcome = outcome_of(rule, out->labels);
    return QDR_OK;
}

void qdr_eye_start(qdr_decision *eye) {
    if (eye != NULL) {
        reject(eye, QDR_OUTCOME_UNGRADABLE);
    }
}

qdr_status qdr_eye_add(const qdr_rule *rule, qdr_decision *eye, const qdr_decision *image) {
    if (eye == NULL) {
        return QDR_BAD_ARGUMENT;
    }
    if (eye->outcome == QDR_OUTCOME_FAULT) {
        return QDR_OK;
    }
    bool decided = image != NULL && (image->outcome == QDR_OUTCOME_POSITIVE ||
                                     image->outcome == QDR_OUTCOME_NEGATIVE);
    if (rule == NULL || image == NULL || !rule_is_valid(rule) ||
        (decided && image->label_count != rule->label_count) ||
        (eye->label_count != 0 && eye->label_count != rule->label_count)) {
        reject(eye, QDR_OUTCOME_FAULT);
        return QDR_BAD_ARGUMENT;
    }
    if (!decided) {
        if (image->outcome == QDR_OUTCOME_FAULT) {
            reject(eye, QDR_OUTCOME_FAULT);
        }
        return QDR_OK;
    }
    if (eye->label_count == 0) {
        *eye = *image;
        return QDR_OK;
    }
    for (uint32_t k = 0; k < rule->label_count; k++) {
        double seen = eye->labels[k].probability;
        double found = image->labels[k].probability;
        /* The first image of equal scores counts, as in Python. */
        if (image->labels[k].score > eye->labels[k].score) {
            eye->labels[k] = image->labels[k];
        }
        eye->labels[k].probability = found > seen ? found : seen;
    }
    eye->outcome = outcome_of(rule, eye->labels);
    return QDR_OK;
}
