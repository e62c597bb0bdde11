"""Suites on a small bundle that really runs: scenarios, crashes, interrupts and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from markupsafe import escape

from qdr_bench.suite.schema import SHIPPED, Suite, full, load_suite, parse
from qdr_edge.bundle import write_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import development_key
from qdr_edge.target import host
from tests.bundles import fundus, onnx_model, png, working_entries

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QDR_EDGE_HOME", str(folder / "home"))
        (folder / "export").mkdir()
        twin = onnx_model(seed=7)
        described, entries = working_entries()
        provenance = {"float_twin_sha256": sha256_bytes(twin)}
        described = described.model_copy(update={"provenance": provenance})
        write_bundle(folder / "export" / "tiny.qdr", described, entries, development_key().key)
    (folder / "export" / "tiny.float.onnx").write_bytes(twin)
    rows = ["file,modality,labels,patient,eye,split"]
    for index in range(12):
        (folder / f"{index}.png").write_bytes(png(fundus(index, side=160)))
        labels = ("NOR", "AMD", "DR", "AMD;DR")[index * 7 % 4]
        rows.append(f"{index}.png,fundus,{labels},p{index},R,{'val' if index > 7 else 'test'}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    return folder


def start(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    packages = os.pathsep.join(str(ROOT / name) for name in (".", "train", "export", "benchmarks"))
    home = {"QDR_EDGE_HOME": str(folder / "home"), "PYTHONPATH": packages}
    bundle = str(folder / "export" / "tiny.qdr")
    return subprocess.Popen(
        [sys.executable, "-m", "qdr_edge.cli", "bench", bundle, *options, "--out", str(out)],
        env={**os.environ, **home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell started in the background ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def bench(folder: Path, out: Path, *options: str, code: int = 0) -> tuple[dict[str, Any], str]:
    process = start(folder, out, *options)
    said, problems = process.communicate(timeout=180)
    assert process.returncode == code, problems
    return json.loads((out / "report.json").read_text()), said + problems


def suite_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


SHORT = """
targets: [ort-x86]
threads: [1, 2]
seconds: 0.3
rounds: 3
starts: 2
soak_seconds: 1
soak_images_per_second: 50
scenarios: [single-stream, multi-stream, offline, cold-start, soak]
"""


def test_every_scenario_on_two_thread_counts(run_folder: Path, tmp_path: Path) -> None:
    suite = suite_file(tmp_path, SHORT)
    report, _ = bench(run_folder, tmp_path / "out", "--suite", suite)
    assert report["suite"] == "mine"
    assert [group["plan"]["threads"] for group in report["groups"]] == [1, 2]
    rows = {row["id"]: row for row in report["rows"]}
    assert {name for name in rows if "int8" in name} == {
        "tiny/int8/ort-x86@1",
        "tiny/int8/ort-x86@2",
    }
    row = rows["tiny/int8/ort-x86@1"]
    assert row["threads"] == 1
    assert row["multi_stream"]["queries"] >= 662
    assert row["multi_stream"]["early_stopping_p99_ms"] >= row["multi_stream"]["p50_ms"]
    assert row["multi_stream"]["p50_ms"] > 2 * row["latency"]["p50_ms"]
    assert row["offline"]["batch"] == 1
    assert len(row["offline"]["rounds_images_per_second"]) == 3
    assert row["offline"]["images_per_second"] > 0
    cold = row["cold_start"]
    assert cold["starts"] == 2
    assert cold["total_ms"] >= cold["open_ms"] + cold["first_decision_ms"]
    assert cold["import_ms"] > 20
    soak = row["soak"]
    assert (soak["images"], soak["golden_wrong"]) == (50, 0)
    assert soak["timeline"][-1]["rss_bytes"] > 10**7
    # A float twin has no bundle to start or to soak.
    twin = rows["tiny/float/onnxruntime@1"]
    assert twin["multi_stream"] is not None
    assert twin["cold_start"] is twin["soak"] is None
    for row in rows.values():
        assert not [r for r in row["reasons"] if "outputs" in r or "golden" in r or "self" in r]


@pytest.mark.full
def test_a_whole_group_is_not_measured_again(run_folder: Path, tmp_path: Path) -> None:
    text = "targets: [ort-x86]\nthreads: [1]\nseconds: 0.2\nrounds: 2\nfloat_twins: false\n"
    suite = suite_file(tmp_path, text)
    first, _ = bench(run_folder, tmp_path / "out", "--suite", suite)
    again, said = bench(run_folder, tmp_path / "out", "--suite", suite, "--resume")
    assert "taken from before" in said
    assert again["rows"] == first["rows"]
    fresh, said = bench(run_folder, tmp_path / "out", "--suite", suite)
    assert "measuring" in said
    assert fresh["rows"][0]["latency"] != first["rows"][0]["latency"]
    # Another question is another group.
    other, said = bench(
        run_folder, tmp_path / "out", "--suite", suite, "--resume", "--seconds", "0.3"
    )
    assert "measuring" in said
    assert other["groups"][0]["plan"]["seconds"] == 0.3


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        try:
            if "qdr_bench.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def _await_workers(process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = _workers(process)
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"never saw {count} workers")


def test_a_cell_that_dies_is_a_row_and_the_others_go_on(run_folder: Path, tmp_path: Path) -> None:
    options = ("--target", "ort-x86", "--seconds", "6", "--threads", "1")
    process = start(run_folder, tmp_path / "out", *options)
    # Opened in the order of the rows: the artefact, then its two float twins.
    victim = _await_workers(process, 3)[0]
    victim.send_signal(signal.SIGKILL)
    _, problems = process.communicate(timeout=120)
    assert process.returncode == 0, problems
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert rows[0]["status"] == "FAILED"
    assert "the process ended (SIGKILL)" in rows[0]["reasons"][0]
    for row in rows[1:]:
        assert row["latency"]["queries"] >= 64


def test_an_interrupted_suite_goes_on_where_it_stopped(run_folder: Path, tmp_path: Path) -> None:
    text = "targets: [ort-x86]\nthreads: [1, 2]\nseconds: 0.2\nrounds: 2\nfloat_twins: false\n"
    suite, out = suite_file(tmp_path, text), tmp_path / "out"
    process = start(run_folder, out, "--suite", suite, "--seconds", "4")
    deadline = time.monotonic() + 90
    while not list(out.glob("groups/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    _await_workers(process, 1)
    process.send_signal(signal.SIGINT)
    _, problems = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in problems.replace("\n", " ")
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"]
    assert report["rows"][0]["latency"]["queries"] >= 64
    whole, said = bench(run_folder, out, "--suite", suite, "--seconds", "4", "--resume")
    assert said.count("taken from before") == 1
    assert not whole["interrupted"]
    assert whole["rows"][0] == report["rows"][0]
    assert len(whole["rows"]) == 2


def test_a_busy_neighbour_makes_a_row_invalid(run_folder: Path, tmp_path: Path) -> None:
    burn = "import os\nwhile os.getppid() != 1: sum(range(10000))"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        # As many threads as cores: fair schedulers would leave a single one alone.
        options = ("--target", "ort-x86", "--no-float", "--seconds", "2", "--threads", "0")
        report, _ = bench(run_folder, tmp_path / "out", *options)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    row = report["rows"][0]
    assert row["status"] == "INVALID"
    assert any(r.startswith("other load:") for r in row["reasons"]), row["reasons"]


def test_accuracy_below_what_was_asked_for(run_folder: Path, tmp_path: Path) -> None:
    options = ("--target", "ort-x86", "--no-float", "--seconds", "0.2", "--min-map", "1")
    report, _ = bench(run_folder, tmp_path / "out", *options)
    reasons = report["rows"][0]["reasons"]
    assert any("at least 100.0 % was asked for" in reason for reason in reasons)


def test_peers_stand_beside_ours(run_folder: Path, tmp_path: Path) -> None:
    text = (
        "targets: [ort-x86]\nthreads: [1]\nseconds: 0.2\nrounds: 2\n"
        "peers: [ort-ptq, torch-eager, cuda-fp16]\n"
    )
    report, said = bench(run_folder, tmp_path / "out", "--suite", suite_file(tmp_path, text))
    rows = {row["form"]: row for row in report["rows"]}
    for form in ("ORT PTQ U8S8", "torch eager"):
        assert rows[form]["latency"], rows[form]["reasons"]
        assert rows[form]["latency"]["queries"] >= 64, rows[form]["reasons"]
        assert rows[form]["accuracy"]["images"] == 8
    if rows["CUDA fp16"]["status"] == "UNAVAILABLE":
        assert "no NVIDIA GPU" in rows["CUDA fp16"]["reasons"][0]
    against = {entry["row"].split("/")[1] for entry in report["against_peers"]}
    assert {"ORT PTQ U8S8", "torch eager"} <= against
    assert "Beside what else there is" in (tmp_path / "out" / "report.html").read_text()
    assert "calibrated on 4 validation images" in " ".join(said.split())


def test_what_is_missing_is_a_row_with_the_command_that_adds_it(
    run_folder: Path, tmp_path: Path
) -> None:
    text = (
        "targets: [ort-x86, tensorrt-10]\nthreads: [1]\nseconds: 0.2\nrounds: 2\n"
        "float_twins: true\n"
        "peers: [ort-cuda, ort-cuda-qdq, cuda-fp16-graph, openvino-gpu, openvino-npu-float]\n"
    )
    out = tmp_path / "out"
    report, said = bench(run_folder, out, "--suite", suite_file(tmp_path, text))
    said, page = " ".join(said.split()), (out / "report.html").read_text()
    rows = {row["id"]: row for row in report["rows"]}
    commands = {
        "tiny/int8/tensorrt-10": "qdr-edge[tensorrt]",
        "tiny/CUDA float32/onnxruntime": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        "tiny/CUDA int8 QDQ/onnxruntime": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        "tiny/CUDA fp16 graph/torch": "pip install --force-reinstall torch",
        "tiny/GPU int8/openvino": "sudo apt-get install intel-opencl-icd",
        "tiny/NPU float/openvino": "sudo snap install intel-npu-driver",
    }
    assert commands.keys() <= rows.keys()
    missing = {name for name in commands if rows[name]["status"] == "UNAVAILABLE"}
    if "nvidia" not in host().features:
        assert {name for name in missing if "CUDA" in name or "tensorrt" in name} == {
            name for name in commands if "CUDA" in name or "tensorrt" in name
        }
    for name in missing:
        (reason,) = rows[name]["reasons"]
        assert commands[name] in reason
        assert f"{name}: UNAVAILABLE: {' '.join(reason.split())}" in said
        assert f"{name}: {escape(reason)}" in page
        assert rows[name]["latency"] is None
    settings = rows["tiny/int8/tensorrt-10"]["options"]
    assert settings == {"cuda_graph": "0", "spin_wait": "0", "transfers": "timed"}
    assert "cuda graph 0" in page.replace("_", " ")


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_suites_can_be_read(name: str) -> None:
    assert load_suite(name).name == name


def test_full_is_what_the_rules_ask_for() -> None:
    assert (full(Suite()).seconds, full(Suite()).soak_seconds) == (600, 600)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"secnods": 5}, "unknown key secnods, did you mean seconds?"),
        ({"scenarios": ["single"]}, "scenarios.0: input should be 'single-stream'"),
        ({"threads": []}, "threads: tuple should have at least 1 item"),
        ({"seconds": -1}, "seconds: input should be greater than or equal to 0.1"),
        ({"min_map": 70}, "min_map: input should be less than or equal to 1"),
    ],
)
def test_a_wrong_suite_is_one_line_that_names_the_key(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchmarkError) as caught:
        parse(raw, "mine.yaml")
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "not YAML"), ("- a", "no keys"), (None, "cannot read")],
)
def test_a_file_that_is_no_suite(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BenchmarkError, match=said):
        load_suite(str(path))
    with pytest.raises(BenchmarkError, match="did you mean quick"):
        load_suite("quik")
