"""The manifest is exact: no floats, no unknown fields, one byte form."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from qdr_edge.errors import BundleError, CompatibilityError
from qdr_edge.files import canonical_json
from qdr_edge.manifest import (
    MAX_MANIFEST_BYTES,
    Artefact,
    Decisions,
    GoldenVector,
    Manifest,
    created_at,
    exact_text,
    without_floats,
)
from tests.bundles import LABELS, ORT, manifest


def _changed(**changes: Any) -> bytes:
    value = json.loads(manifest().to_bytes())
    value.update(changes)
    return canonical_json(value)


def test_bytes_and_back() -> None:
    original = manifest(evidence=without_floats({"mAP": 0.1 + 0.2, "n": 3, "rows": [1.5, "x"]}))
    raw = original.to_bytes()
    again = Manifest.from_bytes(raw)
    assert again == original
    assert again.to_bytes() == raw
    assert again.evidence == {"mAP": "0.30000000000000004", "n": 3, "rows": ["1.5", "x"]}


def test_floats_survive_as_text_and_nothing_else_changes() -> None:
    for value in (0.1, -0.0, 1e-300, math.inf, np.float32(0.1), np.float64(2 / 3)):
        assert float(exact_text(value)) == value
    tree = {"a": np.int64(3), "b": (True, None, np.float32(0.5)), "c": {"d": "x"}}
    assert without_floats(tree) == {"a": 3, "b": [True, None, "0.5"], "c": {"d": "x"}}


def test_a_float_is_refused_when_made_and_when_read() -> None:
    with pytest.raises(ValidationError, match="write it as a string"):
        manifest(evidence={"deep": [{"mAP": 0.5}]})
    with pytest.raises(BundleError, match="floating-point"):
        Manifest.from_bytes(
            manifest().to_bytes().replace(b'"security_version":0', b'"security_version":0.0')
        )


@pytest.mark.parametrize("text", ["nan", "1", "1.50", "1e3", " 1.0", "1_0.0", "x", ""])
def test_a_number_must_be_in_its_shortest_exact_form(text: str) -> None:
    decision = json.loads(manifest().to_bytes())["decision"]
    raw = _changed(decision={**decision, "temperature": text})
    with pytest.raises(BundleError, match=r"decision\.temperature"):
        Manifest.from_bytes(raw)


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match="surprise"):
        Manifest.from_bytes(_changed(surprise=1))


def test_a_newer_schema_is_a_matter_of_compatibility() -> None:
    with pytest.raises(CompatibilityError, match=r"schema 3.*expected schema 1 or 2"):
        Manifest.from_bytes(_changed(schema_version=3))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"not json",
        b"\xff",
        b'{"a":1,"a":1}',
        b'{ "a":1}',
        b'{"b":1,"a":1}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b"x" * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=[
        "empty",
        "list",
        "text",
        "utf8",
        "twice",
        "space",
        "order",
        "nan",
        "digits",
        "deep",
        "big",
    ],
)
def test_anything_but_canonical_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BundleError, match="manifest cannot be read"):
        Manifest.from_bytes(raw)


def test_parts_must_agree() -> None:
    thresholds = manifest().decision.thresholds
    decision = manifest().decision.model_copy(update={"thresholds": thresholds[::-1]})
    with pytest.raises(ValidationError, match="in logit order"):
        manifest(decision=decision)
    vector = {"name": "g", "image": "g.png", "outcome": "NEGATIVE"}
    with pytest.raises(ValidationError, match="known targets"):
        manifest(golden=(GoldenVector(**vector, logits={"other": ("0.0",) * 3}),))
    with pytest.raises(ValidationError, match="known targets"):
        manifest(golden=(GoldenVector(**vector, logits={"ort-x86": ("0.0",) * 2}),))
    with pytest.raises(ValidationError, match="label codes"):
        manifest(golden=(GoldenVector(**vector, positives=("XYZ",)),))
    with pytest.raises(ValidationError, match=f"{ORT} is referred to"):
        manifest(entries={"NOTICE": {"size": 1, "sha256": "0" * 64}})


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest().proven = False  # type: ignore[misc]


def test_a_manifest_over_the_cap_is_not_sealed() -> None:
    with pytest.raises(BundleError, match="too large"):
        manifest(provenance={"x": "y" * MAX_MANIFEST_BYTES}).to_bytes()


def test_tolerance_is_steps_times_step() -> None:
    artefact = Artefact(entry="a", backend="b", opset=19, tolerance_steps=3, logit_step="0.5")
    assert artefact.logit_tolerance == 1.5
    assert Artefact(entry="a", backend="b", opset=19).logit_tolerance == 0.0


def test_creation_time_follows_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert created_at() == "1970-01-02T00:00:00Z"


def test_a_decision_rule_survives_bit_for_bit() -> None:
    from qdr_edge.decision import DecisionRule

    rule = DecisionRule(LABELS, 1 / 3, (0.1, -2.5e-7, math.inf))
    sealed = Decisions.of(rule, {"focus": 0.25}, fitted_for="F1", split="val")
    assert sealed.rule(LABELS) == rule
    assert sealed.gates == {"focus": "0.25"}


def _as_schema_1(**labels: Any) -> bytes:
    """What the first release wrote: none of what schema 2 added."""
    value = json.loads(manifest().to_bytes())
    value["schema_version"] = 1
    value["labels"] = {k: v for k, v in value["labels"].items() if k != "exclusive"} | labels
    added = ("positives", "patients", "sensitivity", "lower_bound", "reached")
    del value["decision"]["rejection_rate"]
    for threshold in value["decision"]["thresholds"]:
        for name in added:
            del threshold[name]
    return canonical_json(value)


def test_schema_1_is_read_and_means_what_it_did() -> None:
    old = Manifest.from_bytes(_as_schema_1())
    assert not old.labels.exclusive
    assert old.decision.rule(LABELS) == manifest().decision.rule(LABELS)
    assert old.decision.thresholds[0].reached is None


def test_schema_1_cannot_hold_exclusive_labels() -> None:
    with pytest.raises(BundleError, match="needs schema 2"):
        Manifest.from_bytes(_as_schema_1(exclusive=True))


def test_exclusive_labels_and_what_a_threshold_came_to_survive() -> None:
    from qdr_edge.decision import DecisionRule
    from qdr_edge.labels import LabelSet
    from qdr_edge.manifest import Labels
    from qdr_edge.operating_point import Fitted

    labels = LabelSet.custom(("NOR", "AMD", "DR"), exclusive=True)
    nan = math.nan
    fitted = (
        Fitted("NOR", 0.1, 30, 12, 0.9, 2 / 3, True),
        Fitted("AMD", -2.0, 2, 2, 1.0, 0.342, False),
        Fitted("DR", math.inf, 0, 0, nan, nan, False),
    )
    sealed = Decisions.of(
        DecisionRule(labels, 1.5, tuple(label.threshold for label in fitted)),
        {},
        fitted_for="x",
        split="val",
        fitted=fitted,
        rejection_rate=0.02,
    )
    again = Manifest.from_bytes(manifest(labels=Labels.of(labels), decision=sealed).to_bytes())
    assert again.labels.label_set() == labels
    first, second, third = again.decision.thresholds
    assert (first.positives, first.patients, first.reached) == (30, 12, True)
    assert float(first.lower_bound or 0) == 2 / 3
    assert (second.sensitivity, second.reached) == ("1.0", False)
    assert (third.sensitivity, third.lower_bound, third.positives) == (None, None, 0)
    assert again.decision.rejection_rate == "0.02"
