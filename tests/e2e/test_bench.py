"""`qdr-edge bench` on a small sealed bundle that really runs: what the report holds."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.benches import bench, load, make_run
from tests.bundles import onnx_model


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def measured(run_folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One benchmark that several tests look at."""
    bundle = run_folder / "run" / "export" / "tiny.qdr"
    out = run_folder / "report"
    done = bench(run_folder, str(bundle), "--seconds", "0.3", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done


def test_every_runnable_model_is_measured_beside_its_float_twin(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    report = load(measured[0])
    assert (report["format"], report["schema_version"]) == ("qdr-benchmark", 3)
    assert report["quick"]
    assert report["synthetic"]
    assert not report["interrupted"]
    assert [row["id"] for row in report["rows"]] == [
        "tiny/int8/ort-x86",
        "tiny/float/onnxruntime",
        "tiny/int8/openvino",
        "tiny/float/openvino",
        "tiny/int8/tensorrt-10",
        "tiny/int8/tensorrt-11",
    ]
    assert report["rows"][-1]["status"] == "UNAVAILABLE"
    assert "qdr-edge[tensorrt]" in report["rows"][-1]["reasons"][0] or (
        "nvidia" in report["rows"][-1]["reasons"][0]
    )
    for row in report["rows"][:-2]:
        latency = row["latency"]
        raw = [value for rounds in latency["rounds_ns"] for value in rounds]
        assert len(latency["rounds_ns"]) == report["plan"]["rounds"]
        assert latency["queries"] == len(raw) >= 64
        assert latency["min_ms"] <= latency["p50_ms"] <= latency["p90_ms"] <= latency["max_ms"]
        assert latency["p50_ms"] == pytest.approx(np.median(raw) / 1e6)
        assert latency["p90_ms"] <= latency["early_stopping_p90_ms"]
        assert row["memory"]["peak_rss_bytes"] > row["memory"]["baseline_rss_bytes"] > 10**6
        assert row["threads"] == 1
        # Whatever the machine was doing, the outputs were right.
        assert not [r for r in row["reasons"] if "outputs" in r or "self-test" in r]


def test_accuracy_is_that_of_the_artefact_itself(
    run_folder: Path, measured: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    from qdr_edge.metrics import evaluate
    from qdr_edge.preprocess import PreprocessSpec, load_image
    from qdr_edge.runtime import open_model
    from qdr_edge.samples import read_csv
    from tests.bundles import LABELS, SIZE

    report = load(measured[0])
    samples = read_csv(run_folder / "run" / "data.csv", LABELS).select("fundus", "test")
    spec = PreprocessSpec("fundus", SIZE)
    images = np.stack([load_image(sample.file, spec) for sample in samples])
    rows = {row["id"]: row for row in report["rows"]}
    for name, seed in (("tiny/int8/ort-x86", 0), ("tiny/float/onnxruntime", 7)):
        session = open_model("onnxruntime", onnx_model(seed=seed), threads=1)
        expected = evaluate(
            session.infer(images), samples.targets(), LABELS, groups=samples.patients()
        )
        session.close()
        accuracy = rows[name]["accuracy"]
        assert accuracy["map"] == expected.map.to_dict()
        assert accuracy["images"] == 20
        assert accuracy["patients"] == 10
    against = rows["tiny/int8/ort-x86"]["accuracy"]["against_float"]
    assert against["decisions"] == 60
    assert sum(against["flips_by_label"].values()) == against["label_flips"] > 0
    assert rows["tiny/float/onnxruntime"]["accuracy"]["against_float"] is None


def test_stages_and_self_test_go_through_the_screener(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    rows = {row["id"]: row for row in load(measured[0])["rows"]}
    artefact, twin = rows["tiny/int8/ort-x86"], rows["tiny/float/onnxruntime"]
    assert artefact["self_test"] == "passed"
    stages = artefact["stages"]
    assert sum(stages["outcomes"].values()) == 20
    parts = stages["median_ms"]
    # No order among them: they are timed apart, and a busy machine may turn any two round.
    names = ["decode", "preprocess", "gate", "infer", "postprocess", "end_to_end"]
    assert list(parts) == names
    assert {len(stages["times_ns"][name]) for name in names} == {stages["samples"]}
    assert all(value > 0 for value in parts.values())
    assert twin["stages"] is None


def test_ratios_compare_the_same_runtime(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    ratios = load(measured[0])["ratios"]
    assert {(r["target"], r["backend"]) for r in ratios} == {
        ("ort-x86", "onnxruntime"),
        ("openvino", "openvino"),
    }
    for entry in ratios:
        ratio = entry["faster_than_float"]
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
        assert ratio["rounds"] == 10


class Page(HTMLParser):
    """What a browser would fetch, and whether tags are closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "circle", "use", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        for name in ("src", "srcset", "data", "poster"):
            if found.get(name):
                self.fetched.append(str(found[name]))
        if tag == "link" and found.get("href"):
            self.fetched.append(str(found["href"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    html = (measured[0] / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.fetched == ["data:,"]
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", html)
    # Every reference within a plot points at something on this page.
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(page.ids)
    assert "Synthetic data" in html
    assert "not a medical device" in html
    assert html.count("<svg") == 9  # the mark and eight plots
    assert "&lt;b&gt;a.png" in html
    assert "<b>a.png" not in html
    assert ">None<" not in html
    assert "#0505" not in html  # each sentinel colour has become a variable of the page


def test_the_terminal_says_what_must_be_known(
    measured: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    text = measured[1].stdout
    assert "quick SingleStream, 1 threads" in text
    assert "20 images of 10 patients" in text
    assert "chance mAP" in text
    assert "Synthetic data" in text
    assert str(measured[0] / "report.html") in text.replace("\n", "")
