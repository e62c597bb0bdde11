"""Killed at any moment, resumed, and in the end not one bit is different.

A real process is killed by SIGKILL, which it cannot notice: while it reads images into the cache,
while it writes its state or a checkpoint, and at random moments between. The recipe has everything
in it whose state must survive: moments of two optimizers, teachers that learn on, moving averages,
alternating stages, phases that patience cuts short, learned scales, both samplers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import CheckpointError, OutputError
from qdr_edge.samples import read_csv
from qdr_train.engine.run_folder import BEGINNING, create_run, open_run, require_vacant
from qdr_train.recipe.files import load_recipe
from tests.eyes import write_eyes, write_recipe

RECIPE = """
name: tiny
seed: 3
size: 32
alternate: true
defaults:
  teacher:
    model: {name: qdr-small, width: 0.34}
    batch: 6
    epochs: 1
    ema: 0.9
    sampler: balanced
  student:
    model: {name: qdr-small, width: 0.34, dropout: 0.1}
    batch: 6
    accumulate: 2
    epochs: 3
    ema: 0.9
    patience: 1
    qat_epochs: 4
    frozen_epochs: 1
    calibration_images: 6
stages:
  teacher-fundus: {modality: fundus}
  teacher-oct:
    modality: oct
    epochs: 2
    optimizer: {name: sgd, lr: 0.01, schedule: plateau, stop_lr: 1.0e-5}
  student-oct:
    modality: oct
    teachers: [teacher-fundus]
    distill: {teacher_views: augmented, teacher_learns: along}
  student-fundus:
    modality: fundus
    teachers: [teacher-oct, teacher-fundus]
    distill: {teacher_views: augmented, teacher_learns: ema, soft_labels: 0.5}
    quantization: {scales: learned}
"""

STAGES = {"teacher-fundus", "teacher-oct", "student-oct", "student-fundus"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
POLL_S = 0.0005
PATIENCE_S = 120.0

Moment = Callable[[Path], bool]
"""Whether to kill, asked again and again while the process runs."""


@dataclass(frozen=True)
class Task:
    """What is trained."""

    table: Path
    recipe: Path

    def start(self, out: Path) -> subprocess.Popen[str]:
        """Begin the run, or resume it, as a user would."""
        arguments = ["--resume", "--out", out]
        if not self._resumable(out):
            arguments = [self.recipe, "--data", self.table, "--out", out, "--threads", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "qdr_train", *map(str, arguments)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _resumable(out: Path) -> bool:
        record = out / "run.json"
        return record.is_file() and json.loads(record.read_bytes())["status"] != BEGINNING


class Undisturbed:
    """A run that trains beside the tests, on a core of its own."""

    def __init__(self, out: Path, process: subprocess.Popen[str]) -> None:
        self._out = out
        self._process = process

    def wait(self) -> Path:
        """Its folder, once it is done."""
        status = self._process.wait(PATIENCE_S)
        assert status == 0, self._process.stderr and self._process.stderr.read()
        return self._out


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    return Task(write_eyes(folder / "eyes", patients=12), write_recipe(folder, RECIPE))


@pytest.fixture(scope="module")
def undisturbed(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = task.start(out)
    yield Undisturbed(out, process)
    process.kill()
    process.communicate()


def test_killed_while_writing_it_ends_with_the_same_bits(
    task: Task, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    # Three epochs are the teachers'; from the ninth on students train quantization-aware.
    moments = [
        writing(".*.u8*", "cache"),
        then(told(5), writing(".state-*", "student-*")),
        then(told(9), after(random.Random(0).uniform(0.0, 0.3))),
    ]
    assert torment(task, tmp_path / "run", moments) >= 2
    assert_same(undisturbed.wait(), tmp_path / "run")


@pytest.mark.full
def test_killed_at_twenty_moments_it_ends_with_the_same_bits(
    task: Task, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    rng = random.Random(1)
    kinds = [
        (".run.json*", "."),
        (".*.u8*", "cache"),
        (".state*", "*-*"),
        (".best-*", "*-*"),
        (".checkpoint.json*", ".probe-*", ".weights-*", "*-*"),
    ]
    kills = runs = 0
    while kills < 20:
        runs += 1
        # Half of them at random moments, half at a kind of file, or soon where none is written.
        moments = [
            either(writing(*rng.choice(kinds)), after(rng.uniform(0.5, 2.0)))
            if rng.random() < 0.5
            else after(rng.uniform(0.0, 2.0))
            for _ in range(10)
        ]
        found = torment(task, tmp_path / f"run-{runs}", moments)
        assert found >= 5
        kills += found
        assert_same(undisturbed.wait(), tmp_path / f"run-{runs}")


def test_the_undisturbed_run_has_in_it_what_it_must(undisturbed: Undisturbed) -> None:
    """Were patience never to run out, resuming after it would not be tested."""
    epochs = epochs_of(undisturbed.wait())
    assert set(epochs) == STAGES
    assert any(len(epochs[name]) < 7 for name in STAGES if name.startswith("student"))
    assert all(len(epochs[name]) >= 4 for name in STAGES if name.startswith("student"))


def test_a_run_killed_before_its_folder_is_whole_is_begun_again(task: Task, tmp_path: Path) -> None:
    """Between run.json and data.csv there is nothing to resume, and nothing in the way."""
    recipe, samples = load_recipe(task.recipe), read_csv(task.table)
    facts = {"synthetic": False}
    whole = create_run(tmp_path / "whole", recipe, samples, facts)
    out = tmp_path / "half"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({**whole.record, "status": BEGINNING}))
    (out / "recipe.yaml").write_text("name: ti")
    (out / ".data.csv.a1b2c3_4").write_text("file,mod")
    with pytest.raises(CheckpointError, match="stopped before it began to train"):
        open_run(out)
    create_run(out, recipe, samples, facts)
    assert open_run(out).samples.sha256 == samples.sha256
    assert not (out / ".data.csv.a1b2c3_4").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("name: mine")
    with pytest.raises(OutputError, match="not empty"):
        require_vacant(tmp_path / "mine")


def writing(*patterns: str) -> Moment:
    """While a hidden file is there: all but the last pattern are names, the last ones folders."""
    names = [p for p in patterns if p.startswith(".") and p != "."]
    folders = [p for p in patterns if p not in names]

    def seen(out: Path) -> bool:
        places = [out] if folders == ["."] else [f for p in folders for f in out.glob(p)]
        return any(True for place in places for name in names for _ in place.glob(name))

    return seen


def after(seconds: float) -> Moment:
    """So long after the process has begun its work, or from when it has written to the log."""
    since: list[float] = []
    sizes: list[int] = []

    def over(out: Path) -> bool:
        log = out / "log.jsonl"
        size = log.stat().st_size if log.is_file() else 0
        if not sizes:
            sizes.append(size)
        if not since and size != sizes[0]:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return over


def told(epochs: int) -> Moment:
    """Once log.jsonl tells of so many epochs."""

    def enough(out: Path) -> bool:
        log = out / "log.jsonl"
        return log.is_file() and log.read_text().count('"event": "epoch"') >= epochs

    return enough


def then(first: Moment, second: Moment) -> Moment:
    """The second moment, looked for once the first has come."""
    come: list[bool] = []

    def both(out: Path) -> bool:
        if not come and first(out):
            come.append(True)
        return bool(come) and second(out)

    return both


def either(first: Moment, second: Moment) -> Moment:
    """At the earlier of two moments."""

    def come(out: Path) -> bool:
        return any([first(out), second(out)])

    return come


def torment(task: Task, out: Path, moments: Iterable[Moment]) -> int:
    """Kill a run at each of the moments, then let it finish; how often it was killed."""
    kills = 0
    for moment in moments:
        process = task.start(out)
        if wait_for(process, moment, out):
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, -signal.SIGKILL), errors
        kills += process.returncode == -signal.SIGKILL
    finish(task, out)
    return kills


def finish(task: Task, out: Path) -> None:
    process = task.start(out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors


def wait_for(process: subprocess.Popen[str], moment: Moment, out: Path) -> bool:
    """Whether the moment came before the process ended."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None:
        if moment(out):
            return True
        assert time.monotonic() < deadline, "neither the moment nor the end came"
        time.sleep(POLL_S)
    return False


def epochs_of(out: Path) -> dict[str, list[int]]:
    """The epochs that log.jsonl tells of, by stage."""
    found: dict[str, list[int]] = {}
    for line in (out / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "epoch":
            found.setdefault(event["stage"], []).append(event["epoch"])
    return found


def epochs_drawn(out: Path) -> dict[str, set[int]]:
    """The epochs that TensorBoard shows, by stage; its files end anywhere after a kill."""
    events = EventAccumulator(str(out / "tb")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.endswith("/loss")]
    return {tag.removesuffix("/loss"): {e.step for e in events.Scalars(tag)} for tag in tags}


def assert_same(left: Path, right: Path) -> None:
    """The same checkpoints bit for bit, the same epochs in the log, and no debris."""
    for name in STAGES:
        mine, other = load_checkpoint(left / name), load_checkpoint(right / name)
        assert mine.graph == other.graph, name
        assert mine.validation == other.validation, name
        assert mine.provenance["epoch"] == other.provenance["epoch"], name
        for part in ("tensors", "probe"):
            ours, theirs = getattr(mine, part), getattr(other, part)
            assert set(ours) == set(theirs)
            for key, value in ours.items():
                assert np.array_equal(value, theirs[key]), f"{name} {part} {key}"
    assert epochs_of(left) == epochs_of(right)
    assert epochs_drawn(right) == {name: set(epochs) for name, epochs in epochs_of(left).items()}
    record = json.loads((right / "run.json").read_bytes())
    assert [record["status"], *(s["status"] for s in record["stages"])] == ["done"] * 5
    files = [sorted(p.name for p in run.glob("*-*/*")) for run in (left, right)]
    assert files[0] == files[1]
    assert not [p for p in right.rglob(".*") if p.name != ".lock"]
