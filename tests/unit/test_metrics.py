"""Metrics against scikit-learn and against cases worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from qdr_edge import bootstrap, metrics
from qdr_edge.files import canonical_json
from qdr_edge.labels import TOPCON_MM, LabelSet

RNG = np.random.default_rng(7)
LABELS = LabelSet.custom(("NOR", "DR", "AMD"))


def example(n: int = 200, k: int = 3, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    targets = (RNG.random((n, k)) < 0.2).astype(np.uint8)
    targets[:2] = [[1] * k, [0] * k]
    scores = RNG.normal(size=(n, k)) + targets
    return (np.round(scores) if ties else scores), targets


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_ranking_metrics_equal_scikit_learn(ties: bool) -> None:
    for _ in range(20):
        scores, targets = example(60, 1, ties)
        s, y = scores[:, 0], targets[:, 0]
        expected = sklearn_metrics.average_precision_score(y, s)
        assert metrics.average_precision(s, y) == pytest.approx(expected, abs=1e-12)
        assert metrics.roc_auc(s, y) == pytest.approx(
            sklearn_metrics.roc_auc_score(y, s), abs=1e-12
        )


def test_a_constant_score_has_the_prevalence_as_ap_and_one_half_as_auc() -> None:
    y = np.array([1, 0, 0, 0])
    assert metrics.average_precision(np.zeros(4), y) == 0.25
    assert metrics.roc_auc(np.zeros(4), y) == 0.5


def test_metrics_without_both_kinds_are_undefined() -> None:
    assert math.isnan(metrics.average_precision(np.arange(3.0), np.zeros(3)))
    assert math.isnan(metrics.roc_auc(np.arange(3.0), np.ones(3)))
    assert math.isnan(metrics.sensitivity(np.ones(3), np.zeros(3)))
    assert math.isnan(metrics.specificity(np.ones(3), np.ones(3)))
    assert math.isnan(metrics.f1(np.zeros(3), np.zeros(3)))


def test_rates_of_an_operating_point() -> None:
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    d = np.array([1, 1, 0, 1, 0, 0, 0, 0])
    assert metrics.sensitivity(d, y) == pytest.approx(2 / 3)
    assert metrics.specificity(d, y) == pytest.approx(4 / 5)
    assert metrics.f1(d, y) == pytest.approx(sklearn_metrics.f1_score(y, d))
    assert metrics.f1_sens_spec(d, y) == pytest.approx(2 * (2 / 3) * 0.8 / (2 / 3 + 0.8))
    assert metrics.f1_sens_spec(d, y) != pytest.approx(metrics.f1(d, y))
    assert metrics.f1_sens_spec(1 - y, y) == 0.0


def test_calibration_errors() -> None:
    y = np.array([1, 0, 1, 0])
    assert metrics.brier(np.array([1.0, 0, 1, 0]), y) == 0
    assert metrics.brier(np.full(4, 0.5), y) == 0.25
    assert metrics.ece(np.full(4, 0.5), y) == 0
    assert metrics.ece(np.full(4, 0.9), y) == pytest.approx(0.4)
    assert metrics.ece(np.array([1.0, 1.0, 0.0, 0.0]), y) == pytest.approx(0.5)
    assert metrics.ece(y.astype(float), y) == 0
    with pytest.raises(ValueError, match="outside"):
        metrics.ece(np.array([1.5, 0, 0, 0]), y)


def test_evaluation_equals_scikit_learns_macro_means() -> None:
    scores, targets = example(300)
    result = metrics.evaluate(scores, targets, LABELS, n_bootstrap=50, decisions=scores > 0.5)
    assert result.map.value == pytest.approx(
        sklearn_metrics.average_precision_score(targets, scores, average="macro")
    )
    assert result.auc.value == pytest.approx(
        sklearn_metrics.roc_auc_score(targets, scores, average="macro")
    )
    assert result.f1 is not None
    assert result.f1.value == pytest.approx(
        sklearn_metrics.f1_score(targets, scores > 0.5, average="macro")
    )
    assert result.chance_map == pytest.approx(targets.mean(axis=0).mean())
    for estimate in (result.map, result.auc, result.accuracy, result.f1):
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 300


def test_the_bootstrap_equals_resampling_patient_by_patient() -> None:
    scores, targets = example(40, 1, ties=True)
    patients = np.repeat(np.arange(20), 2)
    result = metrics.evaluate(
        scores,
        targets,
        LabelSet.custom(("DR",)),
        groups=[f"p{i:02}" for i in patients],
        n_bootstrap=64,
        seed=3,
    )
    assert result.patients == 20
    drawn = np.random.default_rng(3).integers(0, 20, size=(64, 20))
    values = []
    for row in drawn:
        rows = np.concatenate([np.flatnonzero(patients == p) for p in row])
        if targets[rows].any():
            values.append(
                sklearn_metrics.average_precision_score(targets[rows, 0], scores[rows, 0])
            )
    low, high = np.percentile(values, [2.5, 97.5])
    assert (result.map.low, result.map.high) == pytest.approx((low, high))


def test_images_of_few_patients_widen_the_interval() -> None:
    scores, targets = example(50)
    scores, targets = np.tile(scores, (4, 1)), np.tile(targets, (4, 1))
    alone = metrics.evaluate(scores, targets, LABELS, seed=1)
    together = metrics.evaluate(
        scores, targets, LABELS, groups=[str(i % 50) for i in range(200)], seed=1
    )
    assert together.map.high - together.map.low > 1.5 * (alone.map.high - alone.map.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores, targets = example()
    first = metrics.evaluate(scores, targets, LABELS, n_bootstrap=100, seed=1)
    assert metrics.evaluate(scores, targets, LABELS, n_bootstrap=100, seed=1) == first
    assert metrics.evaluate(scores, targets, LABELS, n_bootstrap=100, seed=2) != first


def test_splitting_the_work_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = example()
    whole = metrics.evaluate(scores, targets, LABELS, n_bootstrap=100)
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 1)
    parts = metrics.evaluate(scores, targets, LABELS, n_bootstrap=100)
    assert (parts.map.low, parts.map.high) == pytest.approx((whole.map.low, whole.map.high))
    assert (parts.auc.low, parts.auc.high) == pytest.approx((whole.auc.low, whole.auc.high))


def test_labels_without_both_kinds_enter_no_mean() -> None:
    scores, targets = example()
    targets[:, 1] = 0
    targets[:, 2] = 1
    result = metrics.evaluate(scores, targets, LABELS, n_bootstrap=10)
    assert result.skipped == ("DR", "AMD")
    assert [label.code for label in result.labels] == ["NOR"]
    assert result.map.value == result.labels[0].ap.value


def test_nothing_to_evaluate_is_undefined_and_still_json() -> None:
    result = metrics.evaluate(np.zeros((4, 3)), np.zeros((4, 3)), LABELS, n_bootstrap=10)
    assert math.isnan(result.map.value)
    assert json.loads(canonical_json(result.to_dict()))["map"]["value"] is None


def test_without_a_bootstrap_there_is_no_interval() -> None:
    scores, targets = example()
    result = metrics.evaluate(scores, targets, LABELS, n_bootstrap=0, decisions=scores > 0)
    assert math.isnan(result.map.low)
    assert result.to_dict()["map"] == {
        "value": result.map.value,
        "low": None,
        "high": None,
        "n": 200,
    }
    assert len(json.loads(canonical_json(result.to_dict()))["labels"]) == 3


def test_majority_baseline() -> None:
    targets = np.array([[1, 0, 0]] * 6 + [[0, 1, 0]] * 3 + [[0, 0, 1]])
    perfect = metrics.evaluate(targets.astype(float), targets, LABELS, n_bootstrap=200)
    assert perfect.majority_accuracy == 0.6
    assert perfect.accuracy.value == 1.0
    assert perfect.accuracy_above_majority.value == pytest.approx(0.4)
    assert perfect.map_above_chance.low > 0


def test_a_model_equals_itself_and_beats_a_worse_one() -> None:
    scores, targets = example(300)
    patients = [str(i // 2) for i in range(300)]
    same = metrics.paired_map_difference(scores, scores, targets, patients)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    noise = np.random.default_rng(0).normal(size=scores.shape)
    better = metrics.paired_map_difference(scores, noise, targets, patients, n_bootstrap=200)
    assert better.low > 0
    whole = metrics.evaluate(scores, targets, LABELS, n_bootstrap=0).map.value
    other = metrics.evaluate(noise, targets, LABELS, n_bootstrap=0).map.value
    assert better.value == pytest.approx(whole - other)


def test_wrong_shapes_and_values_are_refused() -> None:
    scores, targets = example(10)
    with pytest.raises(ValueError, match="shape"):
        metrics.evaluate(scores, targets[:5], LABELS)
    with pytest.raises(ValueError, match="not \\[N, 11\\]"):
        metrics.evaluate(scores, targets, TOPCON_MM)
    with pytest.raises(ValueError, match="groups"):
        metrics.evaluate(scores, targets, LABELS, groups=["a"])
    with pytest.raises(ValueError, match="no images"):
        metrics.evaluate(np.zeros((0, 3)), np.zeros((0, 3)), LABELS)
    with pytest.raises(ValueError, match="finite"):
        metrics.evaluate(np.full((10, 3), np.nan), targets, LABELS)
