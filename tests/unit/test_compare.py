"""`qdr-edge compare`: its words, its refusals, and what a CI reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from qdr_bench.compare.cli import compare as command
from qdr_bench.compare.judge import Change, Word, compare
from qdr_bench.compare.reading import Report, differences
from qdr_edge.errors import BenchmarkError, RegressionError

Edit = Callable[[dict[str, Any]], None]
ENVIRONMENT = {"cpu": "a", "cores": 2, "packages": {"onnxruntime": "1.0"}, "kernel": "6"}


def document(*, ms: float = 10.0, noise: float = 0.002, seed: int = 0) -> dict[str, Any]:
    """A report with one row whose rounds differ a little."""
    draw = np.random.default_rng(seed)
    rounds = [
        [int(1e6 * ms * (1 + noise * drift) * (1 + 0.01 * abs(x))) for x in draw.normal(size=20)]
        for drift in draw.normal(size=10)
    ]
    row = {
        "id": "demo/int8/ort-x86",
        "status": "VALID",
        "reasons": [],
        "threads": 2,
        "model_bytes": 500_000,
        "memory": {"peak_rss_bytes": 80_000_000},
        "latency": {"rounds_ns": rounds},
        "multi_stream": None,
        "offline": {"rounds_images_per_second": [1000 / ms + x for x in draw.normal(size=10)]},
        "accuracy": {"map": {"value": 0.7, "low": 0.69, "high": 0.71}},
    }
    return {
        "format": "qdr-benchmark",
        "schema_version": 3,
        "environment": json.loads(json.dumps(ENVIRONMENT)),
        "bundles": [],
        "ratios": [],
        "rows": [row],
    }


def report(content: dict[str, Any], name: str = "x.json") -> Report:
    return Report(Path(name), content, {row["id"]: row for row in content["rows"]})


def words(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Change]:
    return {c.metric.name: c for c in compare(report(before), report(after))}


def test_the_same_is_the_same() -> None:
    found = words(document(seed=1), document(seed=2))
    assert set(found) == {"p50", "p90", "Offline", "peak memory", "size", "mAP"}
    for name in ("p50", "p90", "Offline", "peak memory", "size"):
        assert found[name].word is Word.SAME, name
    # The intervals of two accuracies that nobody paired are wider than half a point.
    assert found["mAP"].word is Word.CANNOT_TELL


def test_a_report_is_the_same_as_itself_however_its_rounds_vary() -> None:
    found = words(document(noise=0.5), document(noise=0.5)).values()
    assert found
    assert {change.word for change in found} == {Word.SAME}


@pytest.mark.parametrize(("factor", "word"), [(1.2, Word.WORSE), (0.8, Word.BETTER)])
def test_a_change_beyond_the_noise_is_told_in_its_direction(factor: float, word: Word) -> None:
    found = words(document(seed=1), document(ms=10 * factor, seed=2))
    assert found["p50"].word is found["p90"].word is found["Offline"].word is word
    assert found["p50"].low < factor < found["p50"].high or abs(found["p50"].value - factor) < 0.01
    assert (found["Offline"].loss > 0.1) == (word is Word.WORSE)
    assert found["size"].word is Word.SAME


def test_noise_larger_than_the_band_leaves_no_word() -> None:
    found = words(document(noise=0.1, seed=1), document(noise=0.1, seed=3))
    assert found["p50"].word is Word.CANNOT_TELL
    assert "band" in found["p50"].why


def test_an_invalid_row_is_no_basis_for_times_but_for_size_and_accuracy() -> None:
    before, after = document(seed=1), document(ms=20, seed=2)
    after["rows"][0] |= {"status": "INVALID", "reasons": ["other load"], "model_bytes": 10**6}
    found = words(before, after)
    assert found["p50"].word is Word.CANNOT_TELL
    assert found["p50"].why == "INVALID in the second report: other load"
    assert found["size"].word is Word.WORSE


def test_accuracy_is_compared_in_points() -> None:
    before, after = document(), document()
    after["rows"][0]["accuracy"]["map"] = {"value": 0.6, "low": 0.59, "high": 0.61}
    change = words(before, after)["mAP"]
    assert change.word is Word.WORSE
    assert change.value == pytest.approx(-10, abs=0.3)
    assert change.fails(0.05)
    assert not change.fails(0.2)


def test_what_surrounds_two_reports() -> None:
    before, after = document(), document()
    after["environment"] |= {"cpu": "b", "kernel": "7", "packages": {"onnxruntime": "2.0"}}
    after["rows"][0]["threads"] = 4
    found = differences(report(before), report(after))
    assert found.machine == ("cpu: a → b", "threads of demo/int8/ort-x86: 2 → 4")
    assert found.software == ("onnxruntime: 1.0 → 2.0", "kernel: 6 → 7")


app = typer.Typer()
app.command()(command)


def run(folder: Path, before: Any, after: Any, *options: str) -> tuple[int, str, Exception | None]:
    files = []
    for name, content in (("a.json", before), ("b.json", after)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
        files.append(str(folder / name))
    result = CliRunner().invoke(app, [*files, *options])
    problem = result.exception
    return result.exit_code, result.output, problem if isinstance(problem, Exception) else None


def test_a_regression_ends_with_an_error_and_everything_is_written(tmp_path: Path) -> None:
    outputs = {name: tmp_path / name for name in ("junit.xml", "summary.md", "out.json")}
    outputs["summary.md"].write_text("before\n")
    _, text, problem = run(
        tmp_path, document(seed=1), document(ms=12, seed=2), "--fail-on", "5%",
        "--junit", str(outputs["junit.xml"]), "--summary", str(outputs["summary.md"]),
        "--json", str(outputs["out.json"]),
    )  # fmt: skip
    assert isinstance(problem, RegressionError)
    assert "3 of 6 figures are worse" in str(problem)
    assert "worse FAILS" in text
    suite = ElementTree.parse(outputs["junit.xml"]).getroot()
    assert suite.get("tests") == "6"
    assert suite.get("failures") == "3" == str(len(suite.findall(".//failure")))
    assert suite.get("skipped") == "1" == str(len(suite.findall(".//skipped")))
    assert {case.get("classname") for case in suite.iter("testcase")} == {"demo/int8/ort-x86"}
    markdown = outputs["summary.md"].read_text()
    assert markdown.startswith("before\n")
    assert markdown.count("**fails**") == 3
    changes = json.loads(outputs["out.json"].read_text())["changes"]
    assert [c["metric"] for c in changes if c["fails"]] == ["p50", "p90", "Offline"]


def test_a_loss_within_the_limit_passes(tmp_path: Path) -> None:
    code, text, _ = run(tmp_path, document(seed=1), document(ms=12, seed=2), "--fail-on", "30%")
    assert code == 0
    assert "worse" in text
    assert "FAILS" not in text


def _other_cpu(content: dict[str, Any]) -> None:
    content["environment"]["cpu"] = "b"


def _later(content: dict[str, Any]) -> None:
    content["schema_version"] = 99


def _renamed(content: dict[str, Any]) -> None:
    content["rows"][0]["id"] = "other"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_other_cpu, "unlike machines: cpu: a → b"),
        (_later, "schema version 99; expected 1 to 3"),
        (_renamed, "no row is in both reports"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, edit: Edit, said: str) -> None:
    after = document()
    edit(after)
    _, _, problem = run(tmp_path, document(), after)
    assert isinstance(problem, BenchmarkError)
    assert said in str(problem)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other"}', '{"format": 1, "rows": []}']
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    _, _, problem = run(tmp_path, document(), text)
    assert isinstance(problem, BenchmarkError)
    assert "expected a report.json of `qdr-edge bench`" in str(problem)


def test_unlike_machines_are_compared_by_force(tmp_path: Path) -> None:
    after = document(seed=2)
    _other_cpu(after)
    code, text, _ = run(tmp_path, document(seed=1), after, "--force")
    assert code == 0
    assert "machine: cpu: a → b" in text


@pytest.mark.parametrize("share", ["five", "-1%", "200%"])
def test_a_share_must_be_one(tmp_path: Path, share: str) -> None:
    assert run(tmp_path, document(), document(), "--fail-on", share)[0] == 2
