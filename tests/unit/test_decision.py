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
    label_decisions,
    label_probabilities,
    label_scores,
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


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(0) == 0.5
    assert sigmoid(1e6) == sigmoid(math.inf) == 1.0
    assert sigmoid(-1e6) == sigmoid(-math.inf) == 0.0
    assert sigmoid(-30) == pytest.approx(math.exp(-30))


EXCLUSIVE = LabelSet.custom(("NOR", "AMD", "PCV", "WAMD"), exclusive=True)


def test_scores_of_labels_that_go_together_are_the_logits() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(label_scores(x, LABELS), x.astype(np.float64))


@pytest.mark.parametrize("scale", [0.1, 3, 200], ids=["flat", "usual", "extreme"])
def test_sigmoid_of_an_exclusive_score_is_the_softmax(scale: float) -> None:
    x = (np.random.default_rng(1).normal(size=(200, 4)) * scale).astype(np.float32)
    rule = DecisionRule(EXCLUSIVE, 2.5, (0.0,) * 4)
    for probabilities, z in (
        (label_probabilities(x, rule), x.astype(np.float64) / 2.5),
        (1 / (1 + np.exp(-label_scores(x, EXCLUSIVE).clip(-700, 700))), x.astype(np.float64)),
    ):
        softmax = np.exp(z - z.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        assert np.allclose(probabilities, softmax, rtol=1e-9, atol=1e-300)
        assert np.allclose(probabilities.sum(axis=1), 1)


def test_exclusive_scores_do_not_change_when_all_logits_move() -> None:
    x = np.array([[1.0, 2.0, -1.0, 0.5]])
    assert label_scores(x + 7, EXCLUSIVE) == pytest.approx(label_scores(x, EXCLUSIVE), abs=1e-12)
    # Raw logits would call the second image's faint findings stronger than the first's.
    first, second = [0.0, 5, 0, 0], [20.0, 14, 14, 14]
    eye = aggregate([logits(*first), logits(*second)], DecisionRule(EXCLUSIVE, 1, (0,) * 4), "oct")
    assert [result.code for result in eye.findings] == ["NOR", "AMD"]
    assert eye.labels[1].score == pytest.approx(label_scores(np.array([first]), EXCLUSIVE)[0, 1])
    assert eye.labels[1].probability == pytest.approx(sigmoid(eye.labels[1].score))


@pytest.mark.parametrize("labels", [LABELS, EXCLUSIVE], ids=["together", "exclusive"])
def test_one_image_and_a_stack_are_decided_alike_bit_for_bit(labels: LabelSet) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(300, len(labels))).astype(np.float32)
    # Thresholds that are some image's very score: the last bit decides.
    thresholds = tuple(label_scores(x, labels)[7])
    rule = DecisionRule(labels, 1.7, thresholds)
    together = label_decisions(np.asfortranarray(x), rule)
    assert together[7].all()
    for row, called, probability in zip(x, together, label_probabilities(x, rule), strict=True):
        alone = decide(row, rule, "fundus").labels
        assert [result.positive for result in alone] == called.tolist()
        assert [result.probability for result in alone] == pytest.approx(probability.tolist())


def test_an_exclusive_row_with_a_logit_that_is_no_number_is_a_fault() -> None:
    rule = DecisionRule(EXCLUSIVE, 1.0, (0.0,) * 4)
    assert decide(logits(0, math.inf, 0, 0), rule, "oct").outcome is Outcome.FAULT
    assert decide(logits(1e38, -1e38, 0, 0), rule, "oct").outcome is Outcome.NEGATIVE
