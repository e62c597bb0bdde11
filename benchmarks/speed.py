"""The speed and size claims of the README, measured by one command: ``python benchmarks/speed.py``.

Networks with random weights are trained for nought epochs, calibrated and exported by the project's
own commands, then timed in ONE process in interleaved rounds: every model runs in every round, so
that a change of the machine meets all of them. Latency does not depend on what was learnt; accuracy
does, and is measured by ``qdr-edge bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, build, prepare
from qdr_bench.environment import ProcTree, environment, machine_state
from qdr_bench.statistics import Ratio, paired_ratio, round_medians
from qdr_bench.subject import open_subject
from qdr_edge.errors import BenchmarkError, QdrError
from qdr_edge.files import atomic_write
from qdr_edge.runtime import Session, open_model

RECIPES = {
    "student": "student-latency",
    "mobilenetv3": "mobilenetv3-latency",
    "resnet50": "resnet50-latency",
}
GROUPS = (("student", "mobilenetv3"), ("resnet50",))
BACKENDS = ("onnxruntime", "openvino")
STUDENT_SPEED_UP = 2.0
RESNET_SPEED_UP = 3.2
SIZE_SHARE = 0.27
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


def claims(timings: Sequence[Timings], sizes: Mapping[str, tuple[int, int]]) -> list[Claim]:
    """Compare what was measured with what is claimed."""
    student, resnet = timings
    found = []
    for backend in BACKENDS:
        speed_up = student.ratio(f"student/float/{backend}", f"student/int8/{backend}")
        found.append(_speed_claim(f"student 224 px, int8 against float, {backend}", speed_up,
                                  STUDENT_SPEED_UP))  # fmt: skip
    for backend in BACKENDS:
        rivals = [f"mobilenetv3/{variant}/{backend}" for variant in ("float", "int8")]
        fastest = min(rivals, key=student.median_ms)
        lead = student.ratio(fastest, f"student/int8/{backend}")
        name = " ".join(fastest.split("/")[:2])
        found.append(_speed_claim(f"student int8 against {name}, {backend}", lead, 1.0))
    for backend in BACKENDS:
        speed_up = resnet.ratio(f"resnet50/float/{backend}", f"resnet50/int8/{backend}")
        found.append(_speed_claim(f"ResNet-50 448 px, int8 against float, {backend}", speed_up,
                                  RESNET_SPEED_UP))  # fmt: skip
    for name, (artefact, twin) in sizes.items():
        if name.startswith("mobilenetv3"):  # the rival: nothing is claimed of it
            continue
        share = artefact / twin
        found.append(Claim(f"{name}: artefact bytes / float bytes", share, SIZE_SHARE, False))
    return found


def show(timings: Sequence[Timings], results: Sequence[Claim], console: Console) -> None:
    """Print medians, then the claims."""
    medians = Table(title="Median latency, ms, batch 1", title_justify="left")
    medians.add_column("model")
    for backend in BACKENDS:
        medians.add_column(backend, justify="right")
    keys = [key for timing in timings for key in timing.rounds_ns]
    for name in dict.fromkeys(key.rsplit("/", 1)[0] for key in keys):
        timing = next(t for t in timings if f"{name}/{BACKENDS[0]}" in t.rounds_ns)
        medians.add_row(name, *(f"{timing.median_ms(f'{name}/{b}'):.2f}" for b in BACKENDS))
    console.print(medians)
    table = Table(title="Claims", title_justify="left")
    table.add_column("claim")
    for column in ("value", "95 % interval", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for claim in results:
        unit, scale = (" ×", 1) if claim.at_least else (" %", 100)
        interval = (
            f"{claim.low:.2f} – {claim.high:.2f}"
            if claim.low is not None and claim.high is not None
            else "exact"
        )
        table.add_row(
            claim.what,
            f"{scale * claim.value:.2f}{unit}",
            interval,
            f"{'≥' if claim.at_least else '≤'} {scale * claim.target:g}{unit}",
            "[green]PASS[/]" if claim.holds else "[bold red]FAIL[/]",
        )
    console.print(table)
    busiest = max((t.foreign_cores or 0.0 for t in timings), default=0.0)
    if busiest > 0.15:
        console.print(
            f"[yellow]Other processes kept {busiest:.1f} cores busy: milliseconds are too high. "
            "Ratios are of interleaved rounds, but a quiet machine is better.[/]"
        )


def main() -> int:
    """Build, measure, print; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "speed", help="cache folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.15, help="time of a model in a round")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/reports/speed-DATE.json"
    )
    options = parser.parse_args()
    console = Console(width=110)
    data = prepare(options.build)
    bundles = {model: build(name, options.build, data) for model, name in RECIPES.items()}
    tree = ProcTree()
    before = machine_state(tree)
    timings: list[Timings] = []
    sizes: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="qdr-speed-") as scratch:
        for group in GROUPS:
            entries = [
                entry
                for model in group
                for entry in contenders(model, bundles[model], Path(scratch) / model)
            ]
            console.print(f"timing {', '.join(group)} …", style="dim")
            timings.append(measure(entries, options.threads, options.rounds, options.seconds))
            sizes |= _sizes(entries)
    results = claims(timings, sizes)
    show(timings, results, console)
    if options.save:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        path = ROOT / "benchmarks" / "reports" / f"speed-{day}.json"
        content = {
            "format": "qdr-speed",
            "schema_version": 1,
            "date": day,
            "threads": options.threads,
            "environment": environment(tree).to_dict(),
            "state": {"before": asdict(before), "after": asdict(machine_state(tree))},
            "claims": [{**asdict(claim), "holds": claim.holds} for claim in results],
            "median_ms": {k: t.median_ms(k) for t in timings for k in t.rounds_ns},
            "foreign_cores": [t.foreign_cores for t in timings],
            "round_median_ns": {
                k: round_medians(r).tolist() for t in timings for k, r in t.rounds_ns.items()
            },
        }
        atomic_write(path, json.dumps(content, indent=1) + "\n")
        console.print(f"saved {path}")
    return 0 if all(claim.holds for claim in results) else 1


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


def _speed_claim(what: str, ratio: Ratio, target: float) -> Claim:
    return Claim(what, ratio.value, target, True, ratio.low, ratio.high)


def _sizes(entries: Sequence[Contender]) -> dict[str, tuple[int, int]]:
    """Bytes of each artefact and of its float twin."""
    twin = {e.model: e.file.stat().st_size for e in entries if e.variant == "float"}
    return {
        f"{e.model}, {e.backend}": (e.file.stat().st_size, twin[e.model])
        for e in entries
        if e.variant == "int8"
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QdrError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)  # the command has said why
