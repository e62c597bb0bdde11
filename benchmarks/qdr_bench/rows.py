"""From what was measured of a cell to its row of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_bench.accuracy import assess
from qdr_bench.child import Child
from qdr_bench.evaluation_data import EvaluationData
from qdr_bench.machine.environment import MachineState, changes
from qdr_bench.measurement import Cell, Memory, Row, Stages, Status
from qdr_bench.plan import Plan
from qdr_bench.scenarios import Scenario
from qdr_bench.scenarios.cold_start import PARTS, ColdStart
from qdr_bench.scenarios.multi_stream import MultiStream
from qdr_bench.scenarios.offline import Offline, Pass
from qdr_bench.scenarios.single_stream import Latency, Round
from qdr_bench.scenarios.soak import Slice, Soak
from qdr_bench.subject import Subject
from qdr_bench.verdict import PASSED, Evidence, judge
from qdr_edge.target import available_cores


@dataclass(eq=False)
class Running:
    """A cell being measured; what could be measured so far."""

    cell: Cell
    subject: Subject
    data: EvaluationData | None
    child: Child | None = None
    failure: str = ""
    opened: Mapping[str, Any] = field(default_factory=dict)
    logits: NDArray[np.float32] | None = None
    self_test: str = "not run"
    rounds: list[Round] = field(default_factory=list)
    repeated: Round | None = None
    multi_rounds: list[Round] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    starts: list[Mapping[str, int]] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    foreign: list[tuple[float, float]] = field(default_factory=list)
    stages: Stages | None = None
    energy: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] | None = None
    before: MachineState | None = None
    after: MachineState | None = None

    @property
    def size(self) -> int:
        """Side of the network's input, pixels."""
        return self.subject.bundle.manifest.input.size

    @property
    def is_artefact(self) -> bool:
        """Whether it comes from the bundle itself, not from the file beside it."""
        return self.cell.target in self.subject.bundle.manifest.artefacts


def make_row(
    running: Running,
    twins: Mapping[tuple[str, str], NDArray[np.float32] | None],
    baselines: Mapping[str, int],
    plan: Plan,
    interrupted: bool,
) -> Row:
    """Draw a cell's figures and verdict from what was measured of it.

    Args:
        running: The cell.
        twins: Logits of the float twins by subject and backend.
        baselines: Peak memory of a process that only imports a backend.
        plan: How it was measured.
        interrupted: Whether Ctrl-C ended it.
    """
    cell = running.cell
    if cell.unavailable:
        return Row(cell, Status.UNAVAILABLE, (cell.unavailable,))
    accuracy = None
    if running.logits is not None and running.data is not None:
        twin = twins.get((running.subject.name, cell.backend)) if cell.target != "float" else None
        accuracy = assess(running.logits, running.data.truth, twin)
    latency = _latency(running.rounds)
    multi = MultiStream(_values(running.multi_rounds)) if running.multi_rounds else None
    soak = Soak(plan.soak_images_per_second, tuple(running.slices)) if running.slices else None
    seconds = sum(wall for _, wall in running.foreign)
    # Own CPU time has a finer grain than the kernel's ticks: the difference may fall below 0.
    foreign = max(0.0, sum(busy for busy, _ in running.foreign) / seconds) if seconds else None
    threads = int(running.opened.get("threads", plan.threads))
    failure = cell.failed or running.failure
    asked = Scenario.SINGLE_STREAM in plan.scenarios
    if failure:
        status, reasons = Status.FAILED, [failure]
    elif (latency is None and asked) or not running.opened:
        status, reasons = Status.FAILED, ["interrupted before it was measured"]
    else:
        rounds = [*running.rounds, *running.multi_rounds]
        seen = Evidence(
            latency,
            threads,
            available_cores(),
            accuracy,
            repeated=_latency([running.repeated] if running.repeated else []),
            multi_stream=multi,
            soak=soak,
            foreign_cores=foreign,
            self_test=running.self_test if running.is_artefact else PASSED,
            inconsistent=sum(found.inconsistent for found in rounds),
            machine=changes(running.before, running.after)
            if running.before and running.after
            else (),
            unfinished=_unfinished(running, plan) if interrupted else "",
        )
        reasons = judge(seen, plan.limits)
        status = Status.INVALID if reasons else Status.VALID
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
        multi_stream=multi,
        offline=Offline(cell.batch, tuple(running.passes)) if running.passes else None,
        cold_start=_cold_start(running.starts, running.engine is not None),
        soak=soak,
        energy=running.energy,
        engine=running.engine,
        before=asdict(running.before) if running.before else None,
        after=asdict(running.after) if running.after else None,
    )


def _values(rounds: Sequence[Round]) -> tuple[tuple[int, ...], ...]:
    return tuple(found.latency_ns for found in rounds)


def _latency(rounds: Sequence[Round]) -> Latency | None:
    return Latency(_values(rounds)) if rounds else None


def _cold_start(starts: Sequence[Mapping[str, int]], has_cache: bool) -> ColdStart | None:
    if not starts:
        return None
    samples = {part: [start[part] for start in starts] for part in PARTS}
    return ColdStart(samples, cached=True if has_cache else None)


def _unfinished(running: Running, plan: Plan) -> str:
    """What an interrupt kept from being done."""
    rounds: dict[Scenario, Sized] = {
        Scenario.SINGLE_STREAM: running.rounds,
        Scenario.MULTI_STREAM: running.multi_rounds,
        Scenario.OFFLINE: running.passes,
    }
    for scenario, done in rounds.items():
        if scenario in plan.scenarios and len(done) < plan.rounds:
            return f"interrupted after {len(done)} of {plan.rounds} rounds of {scenario}"
    return ""
