"""`torchrun --nproc-per-node 2 -m qdr_train` as a user types it: trained, killed, resumed.

The recipe has in it whatever must stay equal between processes: moments, moving averages, a teacher
that learns on, dropout, learned scales, BatchNorm's statistics.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import CheckpointError
from qdr_train.engine import program
from tests.eyes import write_eyes, write_recipe

RECIPE = """
name: tiny
seed: 3
size: 32
defaults:
  teacher:
    model: {name: qdr-small, width: 0.34}
    batch: 8
    epochs: 2
  student:
    model: {name: qdr-small, width: 0.34, dropout: 0.1}
    batch: 8
    accumulate: 2
    epochs: 2
    ema: 0.9
    qat_epochs: 2
    frozen_epochs: 1
    calibration_images: 6
    quantization: {scales: learned}
    distill: {teacher_learns: ema, teacher_views: augmented}
stages:
  teacher-fundus: {modality: fundus}
  student-oct: {modality: oct, teachers: [teacher-fundus]}
"""
PATIENCE_S = 600.0  # a busy machine, not a measure
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: object) -> list[str]:
    started = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    port = f"--master-port={free_port()}"
    return [*started, port, "-m", "qdr_train", *map(str, arguments)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, errors


def run(command: list[str]) -> tuple[int, str, str]:
    with started(command) as process:
        return ended(process)


@contextmanager
def started(command: list[str], **variables: object) -> Iterator[subprocess.Popen[str]]:
    """A process, and none of its children after the test, whatever happens."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**ENVIRONMENT, **{name: str(value) for name, value in variables.items()}}
    process = subprocess.Popen(command, env=environment, text=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            process.communicate()


@contextmanager
def pair(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Two processes as torchrun starts them; it would hide their exit codes behind its own."""
    command = [sys.executable, "-m", "qdr_train", *map(str, arguments)]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    sizes = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    with (
        started(command, RANK=0, LOCAL_RANK=0, **sizes, **address) as first,
        started(command, RANK=1, LOCAL_RANK=1, **sizes, **address) as second,
    ):
        yield first, second


def wait_for(happened: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, np.ndarray]:
    """Every weight, scale and proven logit of a finished run."""
    found = {}
    for name in ("teacher-fundus", "student-oct"):
        checkpoint = load_checkpoint(folder / name)
        found |= {f"{name}/{key}": value for key, value in checkpoint.tensors.items()}
        found |= {f"{name}/{key}": value for key, value in checkpoint.probe.items()}
        scales = [node.scale or 0.0 for node in checkpoint.graph.nodes]
        found[f"{name}/scales"] = np.array(scales)
    return found


def assert_same(one: Path, other: Path) -> None:
    left, right = contents(one), contents(other)
    assert set(left) == set(right)
    assert len(left) > 20
    for name, value in left.items():
        assert np.array_equal(value, right[name]), name


def events(folder: Path) -> list[tuple[str, str | None, int | None]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["event"], line.get("stage"), line.get("epoch")) for line in lines]


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("given")
    table = write_eyes(folder / "eyes", patients=16)
    return [write_recipe(folder, RECIPE), "--data", table, "--threads", 1]


@pytest.fixture(scope="module")
def whole(begin: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    code, said, errors = run(torchrun(*begin, "--out", out))
    assert code == 0, errors
    # One process speaks.
    assert said.count("trained: ") == 1
    assert errors.count("student-oct: reference validation mAP") == 1
    return out


def test_one_of_two_processes_writes(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert (record["status"], record["processes"], record["threads"]) == ("done", 2, 1)
    epochs = [event for event in events(whole) if event[0] == "epoch"]
    expected = [("teacher-fundus", 1), ("teacher-fundus", 2)]
    expected += [("student-oct", epoch) for epoch in (1, 2, 3, 4)]
    assert [event[1:] for event in epochs] == expected
    assert not list(whole.glob("*/state*"))
    assert len(list((whole / "tb").iterdir())) == 1
    packs = [path.name for path in (whole / "cache").iterdir()]
    assert sorted(name.split("-")[0] for name in packs) == ["fundus", "oct"]
    assert np.isfinite(contents(whole)["student-oct/reference_logits"]).all()


def test_a_run_of_two_is_not_resumed_by_one(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="2 processes, and this is 1") as caught:
        program.resume(whole, program.Options())
    assert "torchrun" in str(caught.value)


def test_killed_terminated_and_resumed_it_ends_with_the_same_bits(
    whole: Path, begin: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    # Rank 1 is killed while the teacher trains: torchrun ends rank 0 too.
    with started(torchrun(*begin, "--out", out)) as process:
        wait_for((out / "teacher-fundus" / "state.json").is_file, process)
        children = psutil.Process(process.pid).children()
        ranks = {child.environ().get("RANK"): child for child in children}
        ranks["1"].kill()
        code, _, errors = ended(process)
        assert code != 0
        assert "SIGKILL" in errors
        assert not ranks["0"].is_running()
    assert json.loads((out / "run.json").read_text())["status"] != "done"

    # Ctrl-C while the student trains comes from the terminal, and then once more from torchrun.
    with pair("--resume", "--out", out) as (first, second):
        wait_for((out / "student-oct" / "state.json").is_file, first, second)
        for process in (first, second, first, second):
            process.send_signal(signal.SIGINT)
        (code, _, errors), (other_code, _, other_errors) = ended(first), ended(second)
    assert (code, other_code) == (130, 130), errors + other_errors
    assert errors.count("Continue with: qdr-edge train --resume") == 1
    assert "interrupted" not in other_errors
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"

    with pair("--resume", "--out", out) as (first, second):
        (code, _, errors), (other_code, _, other_errors) = ended(first), ended(second)
    assert (code, other_code) == (0, 0), errors + other_errors
    assert "student-oct: resumed after epoch" in errors
    assert_same(whole, out)
    assert [e for e in events(out) if e[0] == "epoch"] == [
        e for e in events(whole) if e[0] == "epoch"
    ]


@pytest.mark.full
def test_an_error_is_told_once(begin: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, errors = run(torchrun(*begin, "--out", out, "--set", "teacher.batch=5"))
    assert code != 0
    assert errors.count("error: ") == 1
    assert "a multiple of 2, such as 4 or 6" in errors
    assert "exitcode  : 5" in errors
    assert not out.exists()
