"""Operating points: temperature, thresholds, and bounds that say how little is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from qdr_edge.decision import NEVER, label_decisions, label_probabilities
from qdr_edge.errors import CheckpointError, RecipeError
from qdr_edge.files import canonical_json
from qdr_edge.labels import LabelSet
from qdr_edge.operating_point import (
    Fitted,
    Target,
    fit,
    fit_temperature,
    fit_thresholds,
    sensitivity_bound,
)


def fitted(
    x: list[float], y: list[int], target: Target | None = None, patients: list[str] | None = None
) -> Fitted:
    ids = patients or [str(i) for i in range(len(x))]
    scores, targets = np.array(x, float)[:, None], np.array(y)[:, None]
    return fit_thresholds(scores, targets, ("DR",), ids, target or Target())[0]


def test_temperature_recovers_the_scale_of_the_logits() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 2)) * 2
    targets = rng.random(true.shape) < 1 / (1 + np.exp(-true))
    assert fit_temperature(true * 3, targets) == pytest.approx(3, rel=0.1)
    assert fit_temperature(true, targets) == pytest.approx(1, rel=0.1)


def test_temperature_recovers_the_scale_of_a_softmax() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(6000, 4)) * 2
    drawn = (true + rng.gumbel(size=true.shape)).argmax(axis=1)
    targets = np.eye(4)[drawn]
    assert fit_temperature(true * 3, targets, exclusive=True) == pytest.approx(3, rel=0.1)
    # One sigmoid a label would be another model, with another temperature.
    assert abs(fit_temperature(true * 3, targets) - 3) > 0.5
    with pytest.raises(ValueError, match="exclude"):
        fit_temperature(true, np.ones_like(targets), exclusive=True)


def test_temperature_is_bounded_and_defined_without_data() -> None:
    separable = np.array([[-1.0], [1.0]])
    assert 0.1 <= fit_temperature(separable, separable > 0) < 0.11
    assert 9.9 < fit_temperature(separable, separable < 0) <= 10
    assert fit_temperature(np.zeros((0, 3)), np.zeros((0, 3))) == 1.0


def test_a_threshold_lies_midway_at_the_best_f1() -> None:
    assert fitted([3, 2, 1, 0], [1, 1, 0, 0]).threshold == 1.5
    assert fitted([0, 1, 2, 3], [0, 0, 1, 1]).threshold == 1.5
    assert fitted([4, 3, 2, 1, 0], [1, 0, 1, 0, 0]).threshold == 1.5


def test_a_threshold_never_splits_equal_scores() -> None:
    assert fitted([2, 1, 1, 0], [1, 1, 0, 0]).threshold == 0.5


def test_a_label_without_positives_never_fires() -> None:
    for target in (Target(), Target("sensitivity")):
        label = fitted([3, 2, 1], [0, 0, 0], target)
        assert (label.threshold, label.positives, label.reached) == (NEVER, 0, False)
        assert canonical_json(label.to_dict())
        assert label.to_dict()["sensitivity"] is None


def test_a_label_with_positives_only_fires_on_all() -> None:
    assert fitted([3, 2, 1], [1, 1, 1]).threshold == 0.0


def test_one_positive_ranked_last_does_not_make_its_label_fire_on_everything() -> None:
    y = [1] + [0] * 99
    assert fitted([float(i) for i in range(100)], y).threshold == 98.5


def test_a_wanted_sensitivity_is_reached_by_the_highest_threshold_whose_bound_does() -> None:
    random = np.random.default_rng(0)
    y = (random.random(600) < 0.4).astype(int)
    x = random.normal(size=600) + 2 * y
    label = fitted(list(x), list(y), Target("sensitivity", 0.87))
    assert label.reached
    positives = np.sort(x[y == 1])[::-1]
    caught = int((positives >= label.threshold).sum())
    ones = [1] * len(positives)
    assert sensitivity_bound(caught / len(positives), ones) >= 0.87
    assert sensitivity_bound((caught - 1) / len(positives), ones) < 0.87
    assert label.sensitivity == caught / len(positives) > label.lower_bound >= 0.87


def test_too_few_positives_say_so_and_are_all_caught() -> None:
    x, y = [5.0, 4, 3, 2, 1, 0], [1, 0, 1, 0, 0, 0]
    label = fitted(x, y, Target("sensitivity", 0.87))
    assert not label.reached
    assert (label.threshold, label.sensitivity, label.positives) == (2.5, 1.0, 2)
    assert label.lower_bound == pytest.approx(2 / (2 + 1.96**2), abs=1e-4)
    enough = [float(i) for i in range(26)]
    assert fitted(enough, [1] * 26, Target("sensitivity", 0.87)).reached
    assert not fitted(enough[:25], [1] * 25, Target("sensitivity", 0.87)).reached


def test_many_images_of_few_patients_prove_little() -> None:
    x, y = [float(i) for i in range(40)], [1] * 40
    target = Target("sensitivity", 0.87)
    assert fitted(x, y, target).reached
    label = fitted(x, y, target, patients=[str(i % 4) for i in range(40)])
    assert not label.reached
    assert label.patients == 4
    assert label.lower_bound == pytest.approx(sensitivity_bound(1.0, [1] * 4))


def test_the_bound_is_wilsons_and_grows_with_every_image_caught() -> None:
    for n in (5, 40, 300):
        bounds = [sensitivity_bound(caught / n, [1] * n) for caught in range(n + 1)]
        assert bounds == sorted(bounds)
        assert bounds[0] == pytest.approx(0)
        for caught in (n // 2, n - 1, n):
            exact = stats.binomtest(caught, n).proportion_ci(0.95, method="wilson")
            assert bounds[caught] == pytest.approx(exact.low)


def test_the_bound_covers_as_often_as_it_says() -> None:
    missed = []
    for n in (20, 50, 200):
        for true in np.linspace(0.7, 0.99, 30):
            caught = np.arange(n + 1)
            above = np.array([sensitivity_bound(c / n, [1] * n) > true for c in caught])
            missed.append(stats.binom.pmf(caught, n, true)[above].sum())
    assert np.mean(missed) <= 0.025
    assert max(missed) <= 0.05


def test_a_fitted_point_rules_exclusive_labels_by_their_scores() -> None:
    random = np.random.default_rng(0)
    labels = LabelSet.custom(("NOR", "DR", "AMD"), exclusive=True)
    truth = random.integers(0, 3, 400)
    x = random.normal(size=(400, 3)) + 4 * np.eye(3)[truth]
    # Softmax ignores what is common to all logits of an image; so must thresholds.
    moved = x + random.normal(size=(400, 1)) * 20
    targets = np.eye(3)[truth]
    ids = [str(i) for i in range(400)]
    first = fit(x, targets, labels, ids, Target())
    second = fit(moved, targets, labels, ids, Target())
    assert second.rule.temperature == pytest.approx(first.rule.temperature, rel=1e-6)
    assert second.rule.logit_thresholds == pytest.approx(first.rule.logit_thresholds, rel=1e-6)
    assert (label_decisions(moved, second.rule) == label_decisions(x, first.rule)).all()
    assert (label_decisions(moved, second.rule) == targets).mean() > 0.95
    assert label_probabilities(moved, second.rule).sum(axis=1) == pytest.approx(np.ones(400))
    assert json.loads(canonical_json(first.to_dict()))["fitted_for"] == "largest F1"


def test_a_target_survives_the_checkpoint_and_bad_ones_are_named() -> None:
    target = Target("sensitivity", 0.9, 0.05)
    assert Target.from_dict(target.to_dict()) == target
    assert Target.from_dict({}) == Target()
    assert "0.9 by its lower 95 % bound" in target.text
    for change in ({"target": "auc"}, {"sensitivity": 1.5}, {"rejection_rate": "x"}):
        with pytest.raises(CheckpointError, match="operating_point"):
            Target.from_dict({**target.to_dict(), **change})
    with pytest.raises(RecipeError, match="between 0 and 1"):
        Target("sensitivity", 1.0)


def test_fitting_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        fitted([math.nan], [1])
    with pytest.raises(ValueError, match="one \\[N, K\\]"):
        fit_temperature(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="patients"):
        fitted([1.0, 2.0], [1, 0], patients=["a"])
