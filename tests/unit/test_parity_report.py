"""The parity report: flips, exact rows, what gates, what is unavailable."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qdr_edge.decision import DecisionRule
from qdr_edge.labels import LabelSet
from qdr_edge.runtime import Availability
from qdr_export.emission import Artefact, Emission
from qdr_export.parity import ParityReport, compare_rungs
from qdr_export.pipeline import _json_numbers
from qdr_export.profiles import load_profile
from qdr_export.rungs import FLOAT_TWIN, REFERENCE, Outputs
from qdr_export.seal import is_proven
from tests.networks import LABELS

RULE = DecisionRule(LABELS, 1.0, (0.0, 0.5, 1.0, float("inf")))
LOGITS = np.array([[0.1, 0.4, 2.0, 9.0], [-0.1, 0.5, 0.9, -9.0]], np.float32)
IMAGES = ("a.png", "b.png")


def _report(rule: DecisionRule = RULE, *, ok: bool = True, **forms: np.ndarray) -> ParityReport:
    here = Availability(ok, "1", "no module", "pip install it")
    emission = Emission(
        b"",
        b"",
        {t: Artefact(load_profile(t), b"", here, None, ()) for t in ("ort-x86", "openvino")},
    )
    logits = {REFERENCE: LOGITS, FLOAT_TWIN: LOGITS}
    logits |= {name.replace("_", "-"): value for name, value in forms.items()}
    return compare_rungs(
        Outputs(logits, dict.fromkeys(logits, "test 1"), ()), emission, rule, IMAGES
    )


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
