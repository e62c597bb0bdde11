"""Figures of labels and of resamples: scikit-learn's values, and what a resample of patients is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from qdr_edge.bootstrap import PatientWeights
from qdr_edge.decision import DecisionRule, aggregate, decide
from qdr_edge.figures import Answers, figures
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import summarise

LABELS = LabelSet.custom(("NOR", "DR", "AMD"))
EXCLUSIVE = LabelSet.custom(("NOR", "DR", "AMD"), exclusive=True)


def example(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray, DecisionRule]:
    """Logits with ties, targets with both kinds of every label, a rule that is often wrong."""
    random = np.random.default_rng(seed)
    targets = (random.random((n, 3)) < 0.3).astype(float)
    targets[:2] = [[1, 1, 1], [0, 0, 0]]
    logits = np.round(random.normal(size=(n, 3)) + targets, 1).astype(np.float32)
    return logits, targets, DecisionRule(LABELS, 1.5, (0.0, 0.5, -0.5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_every_figure_is_scikit_learns(seed: int) -> None:
    logits, targets, rule = example(seed)
    answers = Answers.of(logits, rule)
    found = figures(answers, targets, LABELS, PatientWeights(len(logits), None, 0, 0))
    assert answers.decisions is not None
    assert answers.probabilities is not None
    for k, code in enumerate(LABELS.codes):
        y, d, p = targets[:, k], answers.decisions[:, k], answers.probabilities[:, k]
        expected = {
            "ap": sklearn_metrics.average_precision_score(y, logits[:, k]),
            "auc": sklearn_metrics.roc_auc_score(y, logits[:, k]),
            "f1": sklearn_metrics.f1_score(y, d),
            "sensitivity": sklearn_metrics.recall_score(y, d),
            "specificity": sklearn_metrics.recall_score(1 - y, 1 - d),
            "accuracy": sklearn_metrics.accuracy_score(y, d),
            "kappa": sklearn_metrics.cohen_kappa_score(y, d),
            "brier": sklearn_metrics.brier_score_loss(y, p),
        }
        for name, value in expected.items():
            assert found.labels[code][name][0] == pytest.approx(value, abs=1e-12), (code, name)
    mean_kappa = np.mean([found.labels[code]["kappa"][0] for code in LABELS.codes])
    assert found.whole["kappa"][0] == pytest.approx(mean_kappa)
    assert found.whole["map"][0] == pytest.approx(
        sklearn_metrics.average_precision_score(targets, logits, average="macro")
    )


def test_exclusive_labels_have_top_1_kappa_and_confusion_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200)
    logits = (random.normal(size=(200, 3)) + np.eye(3)[truth]).astype(np.float32)
    rule = DecisionRule(EXCLUSIVE, 1.0, (0.0,) * 3)
    weights = PatientWeights(200, None, 20, 0)
    targets = np.eye(3)[truth]
    summary = summarise(
        figures(Answers.of(logits, rule), targets, EXCLUSIVE, weights), targets, EXCLUSIVE, weights
    )
    top = logits.argmax(axis=1)
    assert summary.accuracy.value == sklearn_metrics.accuracy_score(truth, top)
    assert summary.top1_kappa is not None
    assert summary.top1_kappa.value == pytest.approx(sklearn_metrics.cohen_kappa_score(truth, top))
    assert summary.top1_kappa.low < summary.top1_kappa.value < summary.top1_kappa.high
    assert np.array_equal(summary.confusion, sklearn_metrics.confusion_matrix(truth, top))
    # A common shift of an image's logits says nothing to a softmax, so it must change no figure.
    moved = logits + random.normal(size=(200, 1)).astype(np.float32) * 10
    again = figures(Answers.of(moved, rule), targets, EXCLUSIVE, weights)
    assert again.whole["map"][0] == pytest.approx(summary.map.value, abs=1e-4)


def test_an_eye_with_two_of_the_exclusive_labels_is_in_no_confusion_table() -> None:
    targets = np.array([[1.0, 0, 0], [0, 1, 1], [0, 1, 0]])
    answers = Answers(np.eye(3))
    found = figures(answers, targets, EXCLUSIVE, PatientWeights(3, None, 0, 0))
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_kappa_and_brier_on_a_resample_are_those_of_the_drawn_rows() -> None:
    logits, targets, rule = example(5)
    patients = [f"p{i // 2:02}" for i in range(len(logits))]
    weights = PatientWeights(len(logits), patients, 5, 11)
    answers = Answers.of(logits, rule)
    assert answers.decisions is not None
    assert answers.probabilities is not None
    found = figures(answers, targets, LABELS, weights)
    for row in range(1, 6):
        rows = np.repeat(np.arange(len(logits)), weights.rows[row].astype(int))
        y, d = targets[rows, 1], answers.decisions[rows, 1]
        assert found.labels["DR"]["kappa"][row] == pytest.approx(
            sklearn_metrics.cohen_kappa_score(y, d)
        )
        error = (answers.probabilities[rows, 1] - y) ** 2
        assert found.labels["DR"]["brier"][row] == pytest.approx(error.mean())


@pytest.mark.parametrize("name", ["map", "auc", "sensitivity", "f1", "brier"])
def test_repeated_images_of_a_patient_widen_the_interval_of_every_figure(name: str) -> None:
    logits, targets, rule = example(1, 60)
    logits, targets = np.tile(logits, (4, 1)), np.tile(targets, (4, 1))
    answers = Answers.of(logits, rule)

    def width(patients: list[str] | None) -> float:
        weights = PatientWeights(240, patients, 400, 1)
        low, high = np.percentile(
            figures(answers, targets, LABELS, weights).whole[name][1:], [2.5, 97.5]
        )
        return float(high - low)

    assert width([str(i % 60) for i in range(240)]) > 1.5 * width(None)


def test_subsets_of_the_same_resamples_add_up_to_the_whole() -> None:
    weights = PatientWeights(10, [str(i // 2) for i in range(10)], 20, 0)
    part = np.arange(10) < 3
    values = np.arange(10.0)
    inside, outside = weights.subset(part), weights.subset(~part)
    together = inside.rows @ values[part] + outside.rows @ values[~part]
    assert together == pytest.approx(weights.rows @ values)
    assert (inside.clusters, outside.clusters) == (2, 4)
    nobody = inside.totals == 0
    assert nobody.any()
    assert np.isnan(inside.mean(values[part])[nobody]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_merged_answers_are_those_of_the_device_for_an_eye(seed: int, exclusive: bool) -> None:
    random = np.random.default_rng(seed)
    rule = DecisionRule(
        EXCLUSIVE if exclusive else LABELS, 2.0, tuple(random.normal(size=3).tolist())
    )
    logits = random.normal(size=(12, 3)).astype(np.float32)
    unit = np.concatenate([np.arange(4), random.integers(0, 4, 8)])
    merged = Answers.of(logits, rule).merged(unit)
    assert merged.decisions is not None
    assert merged.probabilities is not None
    for number in range(4):
        eye = aggregate(list(logits[unit == number]), rule, "oct")
        assert merged.scores[number].tolist() == [label.score for label in eye.labels]
        assert merged.decisions[number].astype(bool).tolist() == [
            label.positive for label in eye.labels
        ]
        assert merged.probabilities[number] == pytest.approx(
            [label.probability for label in eye.labels]
        )
    alone = decide(logits[0], rule, "oct")
    assert Answers.of(logits, rule).scores[0].tolist() == [x.score for x in alone.labels]
