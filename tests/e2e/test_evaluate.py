"""A trained run and the bundle made of it are evaluated to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdr_edge.evaluation.device import open_bundle
from qdr_edge.evaluation.subject import open_run
from tests.e2e.conftest import Pipeline


def _evaluated(pipeline: Pipeline, out: Path, *arguments: object) -> dict[str, Any]:
    result = pipeline.cli("evaluate", *arguments, "--resamples", 20, "--json", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "figures × 100" in result.stdout
    (document,) = json.loads(out.read_text())["evaluations"]
    assert isinstance(document, dict)
    return document


def test_a_run_and_its_bundle_have_the_same_thresholds_and_answers(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    run = _evaluated(
        pipeline, tmp_path / "run.json", pipeline.run, "--student", "student-oct",
        "--level", "all", "--by", "camera",
    )  # fmt: skip
    bundle = _evaluated(
        pipeline, tmp_path / "bundle.json", pipeline.bundle("oct"), "--level", "all",
        "--target", "ort-x86", "--threads", 1,
    )  # fmt: skip
    # The run's were fitted here on recorded answers, the bundle's at export on computed ones.
    assert run["operating_point"]["rule"] == bundle["operating_point"]["rule"]
    assert run["data"]["sha256"] == bundle["data"]["sha256"]
    assert bundle["evaluated_before"]["before"] == 1
    assert bundle["evaluated_before"]["before_same_artefact"] == 0
    for name in ("image", "eye", "patient"):
        ours, theirs = run["levels"][name], bundle["levels"][name]
        assert ours["n"] == theirs["n"]
        if bundle["gate"]["graded"] == bundle["data"]["images"]:
            assert ours["int8"] == theirs["int8"]
    assert run["levels"]["image"]["subgroups"][0]["groups"]
    assert run["levels"]["eye"]["n"] > run["levels"]["patient"]["n"]


def test_a_runtime_answers_what_training_recorded(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", pipeline.environment["QDR_EDGE_HOME"])
    (recorded,) = open_run(pipeline.run, "test", "student-oct")
    computed = open_bundle(pipeline.bundle("oct"), "test", target="ort-x86", threads=1)
    assert computed.graded.any()
    assert np.array_equal(computed.logits["int8"], recorded.logits["int8"][computed.graded])
    assert np.allclose(
        computed.logits["float"], recorded.logits["float"][computed.graded], atol=1e-4
    )
    assert len(computed.rejections) == (~computed.graded).sum()


def test_every_student_of_a_run_is_evaluated(pipeline: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "both.json"
    result = pipeline.cli("evaluate", pipeline.run, "--split", "val", "--json", out)
    assert result.returncode == 0, result.stdout + result.stderr
    evaluations = json.loads(out.read_text())["evaluations"]
    stages = {evaluation["subject"]["stage"]: evaluation for evaluation in evaluations}
    assert set(stages) == {"student-fundus", "student-oct"}
    checkpoint = json.loads((pipeline.run / "student-oct" / "checkpoint.json").read_bytes())
    # Training, with its own hands, found the same.
    level = stages["student-oct"]["levels"]["image"]
    for name in ("map", "auc", "accuracy"):
        assert level["int8"][name]["value"] == checkpoint["validation"][name]["value"]
        assert level["float"][name]["value"] == checkpoint["validation"]["float"][name]["value"]
