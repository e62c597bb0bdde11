"""`qdr-edge bench` on a small sealed bundle that really runs: real processes, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdr_bench.child import Child
from qdr_bench.evaluation_data import prepare
from qdr_bench.measurement import Status
from qdr_bench.plan import Plan
from qdr_bench.runner import measure
from qdr_bench.subject import open_subject
from qdr_edge.bundle import write_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import development_key
from tests.bundles import fundus, onnx_model, png, working_entries

ROOT = Path(__file__).resolve().parents[2]
IMAGES, PATIENTS = 24, 12


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as export leaves it: bundle, float twin, parity file, labelled images."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QDR_EDGE_HOME", str(folder / "home"))
        export = folder / "run" / "export"
        export.mkdir(parents=True)
        described, entries = working_entries()
        # Another network than the artefact's: flips and differences are real.
        twin = onnx_model(seed=7)
        described = described.model_copy(
            update={"provenance": {"float_twin_sha256": sha256_bytes(twin)}}
        )
        write_bundle(export / "tiny.qdr", described, entries, development_key().key)
    (export / "tiny.float.onnx").write_bytes(twin)
    rung = {"name": "openvino", "runtime": "openvino 1", "role": "gates", "status": "ran",
            "exact": 7, "images": 8, "largest": 0.25, "reason": "",
            "flips": [{"image": "<b>a.png", "label": "DR", "logit": 0.1}]}  # fmt: skip
    (export / "tiny.parity.json").write_text(json.dumps({"rungs": [rung]}))
    rows = ["file,modality,labels,patient,eye,split"]
    for index in range(IMAGES):
        (folder / "run" / f"{index}.png").write_bytes(png(fundus(index, side=160)))
        labels = ("NOR", "AMD", "DR", "AMD;DR")[index * 7 % 4]
        split = "test" if index < 20 else "val"
        rows.append(f"{index}.png,fundus,{labels},p{index // 2},R,{split}")
    (folder / "run" / "data.csv").write_text("\n".join(rows) + "\n")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "qdr_edge.cli", "bench", *arguments]


def environment(folder: Path) -> dict[str, str]:
    packages = os.pathsep.join(str(ROOT / name) for name in (".", "train", "export", "benchmarks"))
    return {**os.environ, "QDR_EDGE_HOME": str(folder / "home"), "PYTHONPATH": packages}


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def measured(run_folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One benchmark that several tests look at."""
    bundle = run_folder / "run" / "export" / "tiny.qdr"
    out = run_folder / "report"
    done = bench(run_folder, str(bundle), "--seconds", "0.3", "--threads", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done


def load(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    return content


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


def test_without_data_no_latency_is_printed(run_folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.qdr"
    alone.write_bytes((run_folder / "run" / "export" / "tiny.qdr").read_bytes())
    done = bench(run_folder, str(alone), "--seconds", "0.2", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "out")
    assert report["bundles"][0]["notes"] == [
        "no float twin: alone.float.onnx does not stand beside the bundle"
    ]
    row = report["rows"][0]
    assert row["status"] == "INVALID"
    assert "no accuracy: no data" in row["reasons"]
    assert row["latency"]["queries"] >= 64
    line = next(x for x in done.stdout.splitlines() if x.strip().startswith("int8 ort-x86"))
    assert line.split()[2:6] == ["0.00", "–", "–", "–"]


def test_a_stranger_beside_the_bundle_is_not_taken_for_its_twin(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", str(run_folder / "home"))
    bundle = tmp_path / "tiny.qdr"
    bundle.write_bytes((run_folder / "run" / "export" / "tiny.qdr").read_bytes())
    (tmp_path / "tiny.float.onnx").write_bytes(onnx_model(seed=8))
    subject = open_subject(bundle, tmp_path / "models", allow_unsigned=False, with_float=True)
    twins = [cell for cell in subject.cells if cell.target == "float"]
    assert len(twins) == 2
    for cell in twins:
        assert not cell.runnable
        assert "is not the float model" in cell.failed
    rows = measure([replace(subject, cells=tuple(twins))], {}, Plan()).rows
    assert [row.status for row in rows] == [Status.FAILED] * 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.qdr"], 7, "cannot read bundle"),
        (["BUNDLE", "--data", "missing.csv"], 4, "cannot read"),
        (["BUNDLE", "--split", "train"], 4, "no fundus image in split 'train'"),
        (["BUNDLE", "BUNDLE"], 14, "tiny.qdr is given twice"),
        (["BUNDLE", "--out", "BUNDLE/report"], 15, "cannot make this folder"),
        (["BUNDLE", "--seconds", "0"], 2, "seconds"),
    ],
    ids=["no bundle", "no table", "empty split", "twice", "no folder", "no time"],
)
def test_bad_input_is_one_line_and_leaves_the_last_report(
    run_folder: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    bundle = str(run_folder / "run" / "export" / "tiny.qdr")
    (tmp_path / "report.json").write_text("earlier")
    given = [argument.replace("BUNDLE", bundle) for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path)]
    done = bench(run_folder, *given)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "report.json").read_text() == "earlier"


def test_an_interrupt_keeps_the_rounds_that_were_measured(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", str(run_folder / "home"))
    path = run_folder / "run" / "export" / "tiny.qdr"
    subject = open_subject(path, tmp_path / "models", allow_unsigned=False, with_float=False)
    subject = replace(subject, cells=subject.cells[:1])
    data = prepare(subject.bundle, run_folder / "run" / "data.csv", "test", tmp_path)
    started: list[str] = []

    def interrupt(what: str, share: float) -> None:
        started.append(what)
        assert 0 <= share <= 1
        if what.startswith("single-stream round 4:"):
            raise KeyboardInterrupt

    measured = measure([subject], {subject.name: data}, Plan(seconds=0.2, threads=1), interrupt)
    assert measured.interrupted
    row = measured.rows[0]
    assert row.latency is not None
    assert len(row.latency.rounds) == 3
    assert row.accuracy is not None
    assert row.is_result
    assert row.status is Status.INVALID
    assert "interrupted after 3 of 10 rounds of single-stream" in row.reasons
    assert started[0].startswith("opening")


def test_ctrl_c_ends_every_process_and_writes_the_report(run_folder: Path, tmp_path: Path) -> None:
    bundle = run_folder / "run" / "export" / "tiny.qdr"
    arguments = (str(bundle), "--no-float", "--seconds", "300", "--out", str(tmp_path))
    process = subprocess.Popen(
        command(*arguments),
        env=environment(run_folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell started in the background ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    # The second measuring process is started when the first has opened its model.
    while len(workers := children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert load(tmp_path)["interrupted"]
    assert "<strong>Interrupted</strong>" in (tmp_path / "report.html").read_text()
    assert len(workers) == 2
    # One that was just being started ends by itself when its input does.
    deadline = time.monotonic() + 20
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue  # it ended while we looked
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found


def test_a_child_that_dies_is_a_reason_not_a_hang() -> None:
    child = Child("doomed")
    try:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(BenchmarkError, match=r"doomed: baseline: .*SIGKILL"):
            child.call("baseline", backend="onnxruntime")
    finally:
        child.close()


def test_a_worker_explains_its_errors_and_goes_on(tmp_path: Path) -> None:
    child = Child("worker")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    request = {"backend": "onnxruntime", "threads": 1, "options": {}, "size": 32}
    request["model"] = str(broken)
    try:
        with pytest.raises(BenchmarkError, match="changed while it was being measured"):
            child.call("open", sha256="0" * 64, **request)
        with pytest.raises(BenchmarkError, match="model refused"):
            child.call("open", sha256=sha256_bytes(broken.read_bytes()), **request)
        with pytest.raises(BenchmarkError, match="no model is open"):
            child.call("warm_up", seconds=0.0)
        assert child.call("baseline", backend="onnxruntime")["peak_rss_bytes"] > 10**7
    finally:
        child.close()


def test_a_slow_child_is_ended() -> None:
    child = Child("slow", timeout_s=0.05)
    try:
        with pytest.raises(BenchmarkError, match="no answer within"):
            child.call("baseline", backend="openvino")
    finally:
        child.close()
