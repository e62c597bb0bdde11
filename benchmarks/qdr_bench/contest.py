"""Models timed against each other in one process, in interleaved rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import Ratio, paired_ratio, round_medians
from qdr_bench.subject import open_subject
from qdr_edge.errors import BenchmarkError
from qdr_edge.runtime import Session, open_model

BACKENDS = ("onnxruntime", "openvino")
WARM_UP_QUERIES = 3
IMAGES = 8


@dataclass(frozen=True)
class Contender:
    """One model file on one runtime."""

    model: str
    variant: str
    backend: str
    file: Path
    size_px: int
    options: Mapping[str, str]

    @property
    def key(self) -> str:
        """Name in tables and in the JSON."""
        return f"{self.model}/{self.variant}/{self.backend}"


@dataclass(frozen=True)
class Claim:
    """A figure, what it has to reach, and whether it does."""

    what: str
    value: float
    target: float
    at_least: bool
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure itself, not its interval, reaches the target."""
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Timings:
    """Raw latencies of every contender by round, and how busy the machine was otherwise."""

    rounds_ns: dict[str, list[list[int]]] = field(default_factory=dict)
    foreign_cores: float | None = None

    def ratio(self, slow: str, fast: str) -> Ratio:
        """How many times faster one contender is than another."""
        ratio = paired_ratio(
            round_medians(self.rounds_ns[slow]), round_medians(self.rounds_ns[fast])
        )
        assert ratio is not None, "both were measured in the same rounds"
        return ratio

    def median_ms(self, key: str) -> float:
        """Median of the round medians."""
        return float(np.median(round_medians(self.rounds_ns[key]))) / 1e6


def contenders(model: str, bundle: Path, scratch: Path) -> list[Contender]:
    """Lay out a bundle's artefacts and its float twin for both runtimes."""
    subject = open_subject(bundle, scratch, allow_unsigned=False, with_float=True)
    found = [
        Contender(
            model=model,
            variant=cell.variant,
            backend=cell.backend,
            file=cell.model,
            size_px=subject.bundle.manifest.input.size,
            options=cell.options,
        )
        for cell in subject.cells
        if cell.runnable and cell.backend in BACKENDS
    ]
    if len(found) != 2 * len(BACKENDS):
        problems = "; ".join(c.unavailable or c.failed for c in subject.cells if not c.runnable)
        raise BenchmarkError(
            f"{len(found)} models of {bundle.name} can run here: {problems}",
            expected="int8 and float on ONNX Runtime and on OpenVINO",
            fix="pip install 'qdr-edge[openvino]'",
        )
    return found


def measure(group: Sequence[Contender], threads: int, rounds: int, seconds: float) -> Timings:
    """Time all contenders in this process, one after the other in every round."""
    tree, timings = ProcTree(), Timings({entry.key: [] for entry in group})
    sessions = {
        entry.key: open_model(
            entry.backend, entry.file.read_bytes(), threads=threads, options=entry.options
        )
        for entry in group
    }
    random = np.random.default_rng(0)
    pools = {
        size: random.integers(0, 256, (IMAGES, 1, 3, size, size), dtype=np.uint8)
        for size in {entry.size_px for entry in group}
    }
    before, cpu, wall = tree.busy_cores_ticks(), time.process_time(), time.perf_counter()
    for number in range(rounds):
        # Each round starts with another contender, so that none is always the one after a pause.
        turn = number % len(group)
        for entry in [*group[turn:], *group[:turn]]:
            latencies = list(_round(sessions[entry.key], pools[entry.size_px], seconds))
            timings.rounds_ns[entry.key].append(latencies)
    after, wall = tree.busy_cores_ticks(), time.perf_counter() - wall
    if before and after:
        busy = (after[0] - before[0]) / os.sysconf("SC_CLK_TCK")
        timings.foreign_cores = max(0.0, (busy - (time.process_time() - cpu)) / wall)
    for session in sessions.values():
        session.close()
    return timings


def speed_claim(what: str, ratio: Ratio, target: float) -> Claim:
    """A claim that one contender is at least so many times as fast as another."""
    return Claim(what, ratio.value, target, True, ratio.low, ratio.high)


def _round(session: Session, pool: np.ndarray, seconds: float) -> Iterator[int]:
    for image in pool[:WARM_UP_QUERIES]:
        session.infer(image)
    deadline = time.perf_counter() + seconds
    turn = 0
    while turn < WARM_UP_QUERIES or time.perf_counter() < deadline:
        before = time.perf_counter_ns()
        session.infer(pool[turn % len(pool)])
        yield time.perf_counter_ns() - before
        turn += 1
