"""Decisions: outcomes, operating points, and what a rule survives."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from qdr_edge.decision import (
    NEVER,
    DecisionRule,
    Outcome,
    aggregate,
    decide,
    fit_temperature,
    fit_thresholds,
    rejected,
    sigmoid,
)
from qdr_edge.errors import BundleError
from qdr_edge.files import canonical_json
from qdr_edge.labels import LabelSet

LABELS = LabelSet.custom(("NOR", "DR", "AMD"))
RULE = DecisionRule(LABELS, 2.0, (0.0, 1.0, NEVER))


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        pytest.param((5, -5, -5), Outcome.NEGATIVE, id="normal-only"),
        pytest.param((-5, -5, -5), Outcome.NEGATIVE, id="nothing"),
        pytest.param((5, 5, -5), Outcome.POSITIVE, id="disease-beside-normal"),
        pytest.param((-5, 1, -5), Outcome.POSITIVE, id="at-the-threshold"),
        pytest.param((-5, 0.9999999, -5), Outcome.NEGATIVE, id="just-below"),
        pytest.param((-5, -5, 1e30), Outcome.NEGATIVE, id="a-label-that-never-fires"),
        pytest.param((0, math.nan, 0), Outcome.FAULT, id="not-a-number"),
        pytest.param((0, math.inf, 0), Outcome.FAULT, id="infinite"),
        pytest.param((0, 0), Outcome.FAULT, id="too-few-logits"),
    ],
)
def test_outcome(values: tuple[float, ...], outcome: Outcome) -> None:
    decision = decide(logits(*values), RULE, "fundus")
    assert decision.outcome is outcome
    assert bool(decision.reason) == (outcome is Outcome.FAULT)


def test_results_carry_logit_probability_and_threshold() -> None:
    decision = decide(logits(-1, 2, 0), RULE, "oct")
    dr = decision.labels[1]
    assert (dr.code, dr.name, dr.logit) == ("DR", "diabetic retinopathy", 2.0)
    assert dr.probability == pytest.approx(1 / (1 + math.exp(-1)))
    assert dr.threshold == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert decision.labels[2].threshold == 1.0
    assert decision.findings == (dr,)
    assert json.loads(canonical_json(decision.to_dict()))["outcome"] == "POSITIVE"


def test_without_a_normal_label_every_label_counts() -> None:
    rule = DecisionRule(LabelSet.custom(("DR",)), 1.0, (0.0,))
    assert decide(logits(1), rule, "fundus").outcome is Outcome.POSITIVE


def test_an_eye_takes_the_maximum_of_its_images() -> None:
    eye = aggregate([logits(0, 2, -1), logits(1, -2, -3)], RULE, "fundus")
    assert [label.logit for label in eye.labels] == [1.0, 2.0, -1.0]
    assert eye.outcome is Outcome.POSITIVE
    assert aggregate([logits(0, -1, -1), logits(0, math.nan, 0)], RULE, "oct").outcome == "FAULT"
    assert aggregate([], RULE, "oct").outcome is Outcome.UNGRADABLE


def test_a_rejection_has_no_labels() -> None:
    decision = rejected(Outcome.UNGRADABLE, "too dark", "fundus")
    assert decision.to_dict()["labels"] == []
    assert decision.to_dict()["reason"] == "too dark"


def test_a_rule_survives_json_bit_for_bit() -> None:
    rule = DecisionRule(LABELS, 0.1 + 0.2, (1 / 3, -0.0, NEVER))
    assert DecisionRule.from_dict(json.loads(canonical_json(rule.to_dict()))) == rule


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"temperature": "0"}, id="zero-temperature"),
        pytest.param({"temperature": "nan"}, id="nan-temperature"),
        pytest.param({"temperature": "warm"}, id="text"),
        pytest.param({"logit_thresholds": ["1"]}, id="too-few"),
        pytest.param({"logit_thresholds": ["1", "nan", "2"]}, id="nan-threshold"),
        pytest.param({"labels": {}}, id="no-labels"),
    ],
)
def test_a_malformed_rule_is_a_bundle_error(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="decision rule"):
        DecisionRule.from_dict({**RULE.to_dict(), **change})


def test_temperature_recovers_the_scale_of_the_logits() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 2)) * 2
    targets = rng.random(true.shape) < 1 / (1 + np.exp(-true))
    assert fit_temperature(true * 3, targets) == pytest.approx(3, rel=0.1)
    assert fit_temperature(true, targets) == pytest.approx(1, rel=0.1)


def test_temperature_is_bounded_and_defined_without_data() -> None:
    separable = np.array([[-1.0], [1.0]])
    assert 0.1 <= fit_temperature(separable, separable > 0) < 0.11
    assert 9.9 < fit_temperature(separable, separable < 0) <= 10
    assert fit_temperature(np.zeros((0, 3)), np.zeros((0, 3))) == 1.0


def threshold(x: list[float], y: list[int], **options: float) -> float:
    return fit_thresholds(np.array(x)[:, None], np.array(y)[:, None], **options)[0]


def test_a_threshold_lies_midway_at_the_best_f1() -> None:
    assert threshold([3, 2, 1, 0], [1, 1, 0, 0]) == 1.5
    assert threshold([0, 1, 2, 3], [0, 0, 1, 1]) == 1.5
    assert threshold([4, 3, 2, 1, 0], [1, 0, 1, 0, 0]) == 1.5


def test_a_threshold_never_splits_equal_logits() -> None:
    assert threshold([2, 1, 1, 0], [1, 1, 0, 0]) == 0.5


def test_a_label_without_positives_never_fires() -> None:
    assert threshold([3, 2, 1], [0, 0, 0]) == NEVER
    assert fit_thresholds(np.zeros((0, 2)), np.zeros((0, 2))) == (NEVER, NEVER)


def test_a_label_with_positives_only_fires_on_all() -> None:
    assert threshold([3, 2, 1], [1, 1, 1]) == 0.0


def test_one_positive_ranked_last_does_not_make_its_label_fire_on_everything() -> None:
    x = np.arange(100.0)
    y = np.zeros(100)
    y[0] = 1
    assert threshold(list(x), list(y)) == 98.5


def test_a_wanted_sensitivity_is_reached_by_the_highest_threshold() -> None:
    x, y = [5, 4, 3, 2, 1, 0], [1, 0, 1, 0, 1, 0]
    assert threshold(x, y, target_sensitivity=0.3) == 4.5
    assert threshold(x, y, target_sensitivity=0.6) == 2.5
    assert threshold(x, y, target_sensitivity=1.0) == 0.5
    with pytest.raises(ValueError, match="target_sensitivity"):
        threshold(x, y, target_sensitivity=0.0)


def test_fitting_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        threshold([math.nan], [1])
    with pytest.raises(ValueError, match="one \\[N, K\\]"):
        fit_thresholds(np.zeros((3, 2)), np.zeros((2, 2)))


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(0) == 0.5
    assert sigmoid(1e6) == sigmoid(math.inf) == 1.0
    assert sigmoid(-1e6) == sigmoid(-math.inf) == 0.0
    assert sigmoid(-30) == pytest.approx(math.exp(-30))
