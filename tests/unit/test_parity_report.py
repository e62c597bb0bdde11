"""The parity report: flips, exact rows, what gates, what is unavailable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdr_edge.decision import DecisionRule
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate
from qdr_edge.runtime import Availability
from qdr_export.emission import Artefact, Emission
from qdr_export.parity import (
    FAILED,
    HELD,
    UNSURE,
    Limits,
    ParityReport,
    Truth,
    compare_rungs,
    metric_verdict,
)
from qdr_export.pipeline import _json_numbers, gate_error
from qdr_export.profiles import load_profile
from qdr_export.rungs import FLOAT_TWIN, REFERENCE, Outputs
from qdr_export.seal import is_proven
from tests.networks import LABELS

RULE = DecisionRule(LABELS, 1.0, (0.0, 0.5, 1.0, float("inf")))
LOGITS = np.array([[0.1, 0.4, 2.0, 9.0], [-0.1, 0.5, 0.9, -9.0]], np.float32)
IMAGES = ("a.png", "b.png")


def _report(
    rule: DecisionRule = RULE,
    *,
    ok: bool = True,
    logits: np.ndarray = LOGITS,
    options: Mapping[str, Any] | None = None,
    **forms: np.ndarray,
) -> ParityReport:
    here = Availability(ok, "1", "no module", "pip install it")
    emission = Emission(
        b"",
        b"",
        {t: Artefact(load_profile(t), b"", here, None, ()) for t in ("ort-x86", "openvino")},
    )
    answers = {REFERENCE: logits, FLOAT_TWIN: logits}
    answers |= {name.replace("_", "-"): value for name, value in forms.items()}
    outputs = Outputs(answers, dict.fromkeys(answers, "test 1"), ())
    images = IMAGES if len(logits) == 2 else [f"{row}.png" for row in range(len(logits))]
    return compare_rungs(outputs, emission, rule, images, **(options or {}))


def test_equal_logits_are_exact_and_proven() -> None:
    report = _report(trainer=LOGITS, ort_x86=LOGITS, openvino=LOGITS)
    rung = report.rung("ort-x86")
    assert (rung.exact, rung.images, rung.largest, rung.flips) == (2, 2, 0.0, ())
    assert not report.failures
    assert is_proven(report)


def test_a_flip_names_image_label_and_logits() -> None:
    moved = LOGITS.copy()
    moved[1, 1] = 0.499
    report = _report(trainer=LOGITS, ort_x86=moved, openvino=LOGITS)
    (failed,) = report.failures
    assert failed.name == "ort-x86"
    assert failed.exact == 1
    assert failed.largest == pytest.approx(0.001, rel=1e-3)
    (flip,) = failed.flips
    assert (flip.image, flip.label, flip.threshold) == ("b.png", "AMD", 0.5)
    assert flip.reference_logit == 0.5
    assert not is_proven(report)


def test_a_difference_without_a_flip_does_not_fail() -> None:
    report = _report(trainer=LOGITS, ort_x86=LOGITS + np.float32(0.01), openvino=LOGITS)
    assert report.rung("ort-x86").exact == 0
    assert not report.failures


def test_float_flips_inform_but_do_not_gate() -> None:
    flipped = -LOGITS
    report = _report(**{"trainer": LOGITS, "ort_x86": LOGITS, "float twin": flipped})
    assert report.rung(FLOAT_TWIN).flips
    assert not report.failures


def test_a_missing_backend_is_unavailable_never_passed() -> None:
    report = _report(ok=False, trainer=LOGITS)
    rung = report.rung("openvino")
    assert rung.status == "unavailable"
    assert "pip install it" in rung.reason
    assert not is_proven(report)


def test_without_the_trainers_logits_nothing_is_proven() -> None:
    report = _report(ort_x86=LOGITS, openvino=LOGITS)
    assert report.rung("trainer").status == "unavailable"
    assert not is_proven(report)


def test_nan_counts_as_a_difference() -> None:
    broken = LOGITS.copy()
    broken[1, 0] = np.nan
    report = _report(trainer=LOGITS, ort_x86=broken)
    assert report.failures[0].flips[0].label == "NOR"
    assert report.rung("ort-x86").largest == np.inf
    json.dumps(_json_numbers(report.to_dict()), allow_nan=False)


@pytest.mark.parametrize("exclusive", [False, True], ids=["together", "exclusive"])
@pytest.mark.parametrize("label", range(4))
def test_a_logit_that_is_no_number_is_a_flip_of_any_label(label: int, exclusive: bool) -> None:
    labels = LabelSet.custom(LABELS.codes, exclusive=exclusive)
    # Every label is negative: a comparison with NaN would be "negative" too.
    rule = DecisionRule(labels, 1.0, (float("inf"),) * 4)
    broken = LOGITS.copy()
    broken[1, label] = np.nan
    (failed,) = _report(rule, trainer=LOGITS, ort_x86=broken, openvino=LOGITS).failures
    flips = {(flip.image, flip.label) for flip in failed.flips}
    # A softmax with a NaN in it says nothing of any label.
    touched = labels.codes if exclusive else (labels.codes[label],)
    assert flips == {("b.png", code) for code in touched}
    assert failed.largest == np.inf


def test_exclusive_labels_flip_by_their_log_odds() -> None:
    labels = LabelSet.custom(LABELS.codes, exclusive=True)
    rule = DecisionRule(labels, 1.0, (0.0,) * 4)
    # The same answer: a softmax ignores what all logits share, so no decision changes.
    report = _report(rule, trainer=LOGITS + 5, ort_x86=LOGITS, openvino=LOGITS)
    assert not report.failures
    assert report.rung("trainer").exact == 0
    other = LOGITS.copy()
    other[1, 2] += 3
    (failed,) = _report(rule, trainer=LOGITS, ort_x86=other, openvino=LOGITS).failures
    assert {flip.label for flip in failed.flips} == {LABELS.codes[2]}


def test_a_difference_is_told_in_steps_of_the_largest_reference_logit() -> None:
    moved = LOGITS.copy()
    moved[0, 2] += np.float32(2 * 9 / 127)
    rung = _report(trainer=LOGITS, ort_x86=moved).rung("ort-x86")
    assert rung.steps == pytest.approx(2, rel=1e-5)
    assert rung.unequal == 1 / 8
    assert rung.decisions == 8


def test_the_ladder_goes_from_the_float_twin_to_the_targets() -> None:
    report = _report(trainer=LOGITS, ort_x86=LOGITS, openvino=LOGITS)
    assert [rung.name for rung in report.rungs] == [FLOAT_TWIN, "trainer", "ort-x86", "openvino"]


def test_flips_within_the_budget_hold_where_integers_are_not_computed() -> None:
    many = np.tile(LOGITS, (250, 1))  # 2,000 decisions
    moved = many.copy()
    moved[[1, 3, 5, 7], 1] = 0.499
    forms = {"trainer": many, "ort_x86": moved, "openvino": many}
    exact = _report(logits=many, **forms).rung("ort-x86")
    assert (exact.verdict, exact.allowed) == (FAILED, 0)
    portable = _report(logits=many, options={"exact": False}, **forms)
    assert (portable.rung("ort-x86").verdict, portable.rung("ort-x86").allowed) == (HELD, 4)
    assert not portable.failures
    strict = {"exact": False, "limits": Limits(flips=0.0015)}
    (failed,) = _report(logits=many, options=strict, **forms).failures
    assert failed.reason == "4 of 2000 decisions flip, 3 may"


def test_no_budget_excuses_a_logit_that_is_no_number() -> None:
    broken = LOGITS.copy()
    broken[0, 0] = np.nan
    options = {"exact": False, "limits": Limits(flips=1.0)}
    (failed,) = _report(options=options, trainer=LOGITS, ort_x86=broken).failures
    assert failed.reason == "1 logits are no numbers"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.021, 0.05, FAILED), (-0.01, 0.019, HELD), (0.01, 0.03, UNSURE), (np.nan, np.nan, UNSURE)],
    ids=["beyond", "within", "across", "undefined"],
)
def test_the_metric_gate_decides_only_what_its_interval_shows(
    low: float, high: float, verdict: str
) -> None:
    found, reason = metric_verdict(Estimate((low + high) / 2, low, high, 30), 2.0, patients=12)
    assert found == verdict
    assert ("n = 30" in reason) == (verdict == UNSURE)


@pytest.mark.parametrize("low", [-0.01, 0.5], ids=["within", "beyond"])
def test_an_interval_of_a_handful_of_patients_decides_nothing(low: float) -> None:
    found, reason = metric_verdict(Estimate(low, low, low, 30), 2.0, patients=9)
    assert found == UNSURE
    assert "9 patients" in reason


def _truth(images: int) -> Truth:
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (images, 4)).astype(np.uint8)
    return Truth(np.arange(images), targets, tuple(f"p{row // 2}" for row in range(images)))


def test_int8_that_forgets_what_float_knows_fails_and_is_not_proven() -> None:
    truth = _truth(80)
    knows = np.where(truth.targets, 1, -1).astype(np.float32)
    forgot = np.random.default_rng(1).normal(0, 1, knows.shape).astype(np.float32)
    forms = {"trainer": forgot, "ort_x86": forgot, FLOAT_TWIN: knows}
    report = _report(logits=forgot, options={"truth": truth}, **forms)
    (failed,) = report.failures
    assert failed.name == FLOAT_TWIN
    assert failed.role == "metric"
    assert "points of mAP" in failed.reason
    assert not is_proven(report)
    error = gate_error(report, Path("p.json"), "mend it")
    assert error.exit_code == 13
    assert "int8 costs" in error.what
    assert error.expected == "at most 2 points of mAP lost"
    lenient = {"truth": truth, "limits": Limits(drop=100)}
    assert is_proven(_report(logits=forgot, options=lenient, **forms))


def test_equal_logits_cost_nothing_whatever_the_labels() -> None:
    truth = _truth(80)
    logits = np.random.default_rng(1).normal(0, 1, truth.targets.shape).astype(np.float32)
    report = _report(logits=logits, options={"truth": truth}, trainer=logits, ort_x86=logits)
    difference = report.rung("ort-x86").map_difference
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert report.rung(FLOAT_TWIN).verdict == HELD
