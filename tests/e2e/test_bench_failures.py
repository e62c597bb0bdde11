"""`qdr-edge bench` where something is missing, wrong, interrupted or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qdr_bench.child import Child
from qdr_bench.evaluation_data import prepare
from qdr_bench.measurement import Status
from qdr_bench.plan import Plan
from qdr_bench.runner import measure
from qdr_bench.subject import open_subject
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import sha256_bytes
from qdr_edge.runtime import availability
from tests.benches import bench, command, environment, load, make_run
from tests.bundles import onnx_model


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("bench"))


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


@pytest.mark.skipif(availability()["tensorrt"].ok, reason="TensorRT and a GPU are here")
def test_an_engine_that_cannot_be_built_fails_its_row_alone(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device whose TensorRT refuses: the build is asked for, in a process of its own."""
    monkeypatch.setenv("QDR_EDGE_HOME", str(run_folder / "home"))
    path = run_folder / "run" / "export" / "tiny.qdr"
    subject = open_subject(
        path,
        tmp_path / "models",
        allow_unsigned=False,
        with_float=False,
        targets=("ort-x86", "tensorrt-10"),
    )
    cells = tuple(replace(cell, unavailable="") for cell in subject.cells)
    steps: list[str] = []
    measured = measure(
        [replace(subject, cells=cells)],
        {},
        Plan(seconds=0.2, threads=1),
        lambda what, _: steps.append(what),
    )
    ours, gpu = measured.rows
    assert ours.latency is not None
    assert (gpu.status, gpu.latency, gpu.cell.device) == (Status.FAILED, None, "cuda")
    assert "int8/tensorrt-10: engine: engine: TensorRT cannot be used" in gpu.reasons[0]
    assert [step for step in steps if "tensorrt" in step] == [
        "building the engine of tiny/int8/tensorrt-10"
    ]
