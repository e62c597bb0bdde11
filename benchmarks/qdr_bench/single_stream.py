"""SingleStream, quick form: all cells alive, one active at a time, in interleaved rounds A B A B …

Accuracy comes before timing, so that an interrupt never leaves a latency without its accuracy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_bench.accuracy import assess
from qdr_bench.child import Child
from qdr_bench.environment import ProcTree
from qdr_bench.evaluation_data import EvaluationData
from qdr_bench.measurement import Cell, Latency, Memory, Row, Stages, Status
from qdr_bench.subject import Subject
from qdr_bench.verdict import PASSED, Limits, judge
from qdr_edge.errors import BenchmarkError
from qdr_edge.target import available_cores

NOISE_IMAGES = 8
MAX_WARM_UP_S = 0.5
OnStep = Callable[[str, float], None]
"""Called with what is being done and the share of the work that is finished, 0..1."""


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Args:
        seconds: Time measured for each cell, warm-up not counted.
        rounds: Interleaved rounds the time is divided into.
        threads: Threads of one inference, the same for every cell.
        pool_images: Images drawn from, at most.
        stage_images: Images each stage is timed on.
        seed: Seed of everything drawn.
        allow_unsigned: Measure bundles without a signature.
        limits: Beyond which a measurement is INVALID.
    """

    seconds: float = 5.0
    rounds: int = 10
    threads: int = 2
    pool_images: int = 64
    stage_images: int = 24
    seed: int = 0
    allow_unsigned: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def queries_per_round(self) -> int:
        """Fewest queries of a round, so that all rounds together carry the estimate."""
        return math.ceil(self.limits.queries / self.rounds)


@dataclass(eq=False)
class _Running:
    """A cell being measured; what could be measured so far."""

    cell: Cell
    subject: Subject
    data: EvaluationData | None
    child: Child | None = None
    failure: str = ""
    opened: Mapping[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None
    self_test: str = "not run"
    rounds: list[tuple[int, ...]] = field(default_factory=list)
    inconsistent: int = 0
    foreign: list[tuple[float, float]] = field(default_factory=list)
    stages: Stages | None = None

    @property
    def is_artefact(self) -> bool:
        """Whether it comes from the bundle itself, not from the file beside it."""
        return self.cell.target in self.subject.bundle.manifest.artefacts


@dataclass(frozen=True, eq=False)
class Measured:
    """The rows in the order of the cells, and whether all was measured that should be."""

    rows: tuple[Row, ...]
    interrupted: bool


def measure(
    subjects: Sequence[Subject],
    data: Mapping[str, EvaluationData],
    plan: Plan,
    on_step: OnStep = lambda _what, _share: None,
) -> Measured:
    """Measure every cell of every subject.

    Args:
        subjects: The bundles.
        data: Evaluation data by subject name; a subject without it gets no accuracy.
        plan: How to measure.
        on_step: Told of the progress.

    Returns:
        One row a cell. A cell that fails is a row "FAILED: why", and the rest go on; after
        Ctrl-C the rows hold what was measured until then.
    """
    cells = [
        _Running(cell, subject, data.get(subject.name))
        for subject in subjects
        for cell in subject.cells
    ]
    interrupted = False
    baselines: dict[str, int] = {}
    try:
        _run(cells, baselines, plan, on_step)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for running in cells:
            if running.child is not None:
                running.child.close()
    twins = {
        (running.subject.name, running.cell.backend): running.logits
        for running in cells
        if running.cell.target == "float"
    }
    return Measured(
        tuple(_row(running, twins, baselines, plan, interrupted) for running in cells), interrupted
    )


def _run(cells: list[_Running], baselines: dict[str, int], plan: Plan, on_step: OnStep) -> None:
    alive = [running for running in cells if running.cell.runnable]
    # Units of progress: opening, accuracy, warm-up and stages weigh one round each.
    total = max(1, len(alive) * (plan.rounds + 4))
    done = 0

    def each(what: str, step: Callable[[_Running], None]) -> None:
        nonlocal done
        for running in alive:
            if not running.failure:
                on_step(f"{what} {running.cell.id}", done / total)
                _guarded(running, step)
            done += 1

    for backend in sorted({running.cell.backend for running in alive}):
        child = Child(f"baseline {backend}")
        try:
            baselines[backend] = child.call("baseline", backend=backend)["peak_rss_bytes"]
        except BenchmarkError:
            continue  # the cells of this backend will say why themselves
        finally:
            child.close()

    each("opening", partial(_open, plan=plan))
    each("evaluating", _evaluate)
    each("warming up", partial(_fill_pool, plan=plan))
    for number in range(plan.rounds):
        seed = plan.seed + number
        each(f"round {number + 1}:", partial(_round, plan=plan, seed=seed))
    each("screening with", partial(_screen, plan=plan))
    on_step("done", 1.0)


def _guarded(running: _Running, step: Callable[[_Running], None]) -> None:
    if running.failure:
        return
    try:
        step(running)
    except BenchmarkError as error:
        running.failure = str(error)


def _open(running: _Running, plan: Plan) -> None:
    cell = running.cell
    running.child = Child(cell.id)
    running.opened = running.child.call(
        "open",
        model=str(cell.model),
        sha256=cell.model_sha256,
        backend=cell.backend,
        threads=plan.threads,
        options=dict(cell.options),
    )


def _evaluate(running: _Running) -> None:
    if running.data is None:
        return
    answer = _child(running).call("accuracy", tensors=str(running.data.tensors))
    logits = np.array(answer["logits"], dtype=np.float32)
    if not np.isfinite(logits).all():
        raise BenchmarkError("a logit is not a finite number", where=running.cell.id)
    running.logits = logits


def _fill_pool(running: _Running, plan: Plan) -> None:
    images = len(running.data.files) if running.data else 0
    draw = np.random.default_rng(plan.seed)
    indices = draw.permutation(images)[: plan.pool_images].tolist()
    child = _child(running)
    child.call(
        "pool",
        tensors=str(running.data.tensors) if running.data else "",
        indices=indices,
        random=NOISE_IMAGES,
        size=running.opened["size"],
    )
    child.call("warm_up", seconds=min(MAX_WARM_UP_S, plan.seconds / 10))


def _round(running: _Running, plan: Plan, seed: int) -> None:
    tree = ProcTree()
    before = tree.busy_cores_ticks()
    answer = _child(running).call(
        "round", seconds=plan.seconds / plan.rounds, queries=plan.queries_per_round, seed=seed
    )
    after = tree.busy_cores_ticks()
    running.rounds.append(tuple(answer["latency_ns"]))
    running.inconsistent += answer["inconsistent"]
    if before is not None and after is not None:
        busy_s = (after[0] - before[0]) / os.sysconf("SC_CLK_TCK")
        running.foreign.append((busy_s - answer["cpu_ns"] / 1e9, answer["wall_ns"] / 1e9))


def _screen(running: _Running, plan: Plan) -> None:
    """Run the bundle's self-test, then time every stage of screening with it."""
    if not running.is_artefact:
        return
    # After the rounds: the timed process held nothing but the model until then.
    failure = _child(running).call("self_test", **_screening(running, plan))["failure"]
    running.self_test = failure or PASSED
    if failure or running.data is None:
        return
    draw = np.random.default_rng(plan.seed)
    count = min(plan.stage_images, len(running.data.files))
    chosen = draw.permutation(len(running.data.files))[:count].tolist()
    answer = _child(running).call(
        "stages",
        files=[str(running.data.files[index]) for index in chosen],
        **_screening(running, plan),
    )
    running.stages = Stages(
        decode_preprocess_ns=tuple(answer["decode_preprocess_ns"]),
        infer_ns=tuple(answer["infer_ns"]),
        postprocess_ns=tuple(answer["postprocess_ns"]),
        end_to_end_ns=tuple(answer["end_to_end_ns"]),
        outcomes=answer["outcomes"],
        screen_peak_rss_bytes=answer["screen_peak_rss_bytes"],
    )


def _screening(running: _Running, plan: Plan) -> dict[str, Any]:
    return {
        "bundle": str(running.subject.path),
        "target": running.cell.target,
        "threads": plan.threads,
        "allow_unsigned": plan.allow_unsigned,
    }


def _child(running: _Running) -> Child:
    if running.child is None:
        raise BenchmarkError("it was never opened", where=running.cell.id)
    return running.child


def _row(
    running: _Running,
    twins: Mapping[tuple[str, str], NDArray[np.float32] | None],
    baselines: Mapping[str, int],
    plan: Plan,
    interrupted: bool,
) -> Row:
    cell = running.cell
    if cell.unavailable:
        return Row(cell, Status.UNAVAILABLE, (cell.unavailable,))
    accuracy = None
    if running.logits is not None and running.data is not None:
        twin = twins.get((running.subject.name, cell.backend)) if cell.target != "float" else None
        accuracy = assess(running.logits, running.data.truth, twin)
    latency = Latency(tuple(running.rounds)) if running.rounds else None
    seconds = sum(wall for _, wall in running.foreign)
    # Own CPU time has a finer grain than the kernel's ticks: the difference may fall below 0.
    foreign = max(0.0, sum(busy for busy, _ in running.foreign) / seconds) if seconds else None
    threads = int(running.opened.get("threads", plan.threads))
    failure = cell.failed or running.failure
    if failure:
        status, reasons = Status.FAILED, [failure]
    elif latency is None:
        status, reasons = Status.FAILED, ["interrupted before it was measured"]
    else:
        status, reasons = judge(
            latency,
            plan.limits,
            threads=threads,
            cores=available_cores(),
            foreign_cores=foreign,
            self_test=running.self_test if running.is_artefact else PASSED,
            inconsistent=running.inconsistent,
            accuracy=accuracy,
        )
        if interrupted and len(running.rounds) < plan.rounds:
            status = Status.INVALID
            reasons.append(f"interrupted after {len(running.rounds)} of {plan.rounds} rounds")
    memory = None
    if "peak_rss_bytes" in running.opened and cell.backend in baselines:
        memory = Memory(running.opened["peak_rss_bytes"], baselines[cell.backend])
    return Row(
        cell=cell,
        status=status,
        reasons=tuple(reasons),
        runtime_version=str(running.opened.get("version", "")),
        threads=threads,
        open_ms=running.opened["open_ns"] / 1e6 if running.opened else None,
        latency=latency,
        memory=memory,
        stages=running.stages,
        accuracy=accuracy,
        self_test=running.self_test if running.is_artefact else "",
        foreign_cores=foreign,
    )
