"""The runner: all cells alive, one active at a time, in interleaved rounds A B A B …

Accuracy comes before timing, so that an interrupt never leaves a latency without its accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qdr_bench import engine
from qdr_bench.child import Child
from qdr_bench.evaluation_data import EvaluationData
from qdr_bench.machine.environment import machine_state
from qdr_bench.machine.power import find_sensor, measure_energy
from qdr_bench.machine.tree import ProcTree
from qdr_bench.measurement import Row, Stages
from qdr_bench.plan import Plan
from qdr_bench.rows import Running, make_row
from qdr_bench.scenarios import Scenario
from qdr_bench.scenarios.cold_start import start_once
from qdr_bench.scenarios.multi_stream import FEWEST_QUERIES, SAMPLES_PER_QUERY
from qdr_bench.scenarios.offline import run_pass
from qdr_bench.scenarios.single_stream import Round, run_round
from qdr_bench.scenarios.soak import run_soak
from qdr_bench.subject import Subject
from qdr_bench.verdict import PASSED
from qdr_edge.errors import BenchmarkError

NOISE_IMAGES = 8
MAX_WARM_UP_S = 0.5
OnStep = Callable[[str, float], None]
"""Called with what is being done and the share of the work that is finished, 0..1."""


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
        Running(cell, subject, data.get(subject.name))
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
        tuple(make_row(running, twins, baselines, plan, interrupted) for running in cells),
        interrupted,
    )


def _run(cells: list[Running], baselines: dict[str, int], plan: Plan, on_step: OnStep) -> None:
    alive = [running for running in cells if running.cell.runnable]
    steps = _steps(plan)
    total = max(1, len(alive) * len(steps))
    for backend in sorted({running.cell.backend for running in alive}):
        child = Child(f"baseline {backend}")
        try:
            baselines[backend] = child.call("baseline", backend=backend)["peak_rss_bytes"]
        except BenchmarkError:
            continue  # the cells of this backend will say why themselves
        finally:
            child.close()
    for running in alive:
        if running.cell.backend == engine.BACKEND:
            on_step(f"building the engine of {running.cell.id}", 0.0)
            _guarded(running, _build)
    done = 0
    for what, step in steps:
        for running in alive:
            if not running.failure:
                on_step(f"{what} {running.cell.id}", done / total)
                _guarded(running, step)
            done += 1
    on_step("done", 1.0)


def _steps(plan: Plan) -> list[tuple[str, Callable[[Running], None]]]:
    """All that is done with each cell in turn, in this order."""
    steps: list[tuple[str, Callable[[Running], None]]] = [
        ("opening", partial(_open, plan=plan)),
        ("evaluating", _evaluate),
        ("warming up", partial(_fill_pool, plan=plan)),
    ]
    timed = {
        Scenario.SINGLE_STREAM: _single_round,
        Scenario.MULTI_STREAM: _multi_round,
        Scenario.OFFLINE: _offline_pass,
    }
    for scenario, step in timed.items():
        if scenario in plan.scenarios:
            steps += [
                (
                    f"{scenario} round {number + 1}:",
                    partial(step, plan=plan, seed=plan.seed + number),
                )
                for number in range(plan.rounds)
            ]
        if scenario is Scenario.SINGLE_STREAM in plan.scenarios:
            steps.append(("repeating one image with", partial(_repeat, plan=plan)))
    if plan.energy:
        steps.append(("reading power of", partial(_energy, plan=plan)))
    steps.append(("screening with", partial(_screen, plan=plan)))
    if Scenario.COLD_START in plan.scenarios:
        steps += [("starting", partial(_start, plan=plan)) for _ in range(plan.starts)]
    if Scenario.SOAK in plan.scenarios:
        steps.append(("soaking", partial(_soak, plan=plan)))
    return steps


def _guarded(running: Running, step: Callable[[Running], None]) -> None:
    try:
        step(running)
    except BenchmarkError as error:
        running.failure = str(error)


def _build(running: Running) -> None:
    cell = running.cell
    child = Child(f"{cell.id}: engine", timeout_s=engine.LONGEST_BUILD_S)
    try:
        running.engine = child.call("engine", model=str(cell.model), options=dict(cell.options))
    finally:
        child.close()


def _open(running: Running, plan: Plan) -> None:
    cell = running.cell
    running.child = Child(cell.id)
    running.opened = running.child.call(
        "open",
        model=str(cell.model),
        sha256=cell.model_sha256,
        backend=cell.backend,
        threads=plan.threads,
        options=dict(cell.options),
        size=running.size,
    )


def _evaluate(running: Running) -> None:
    if running.data is None:
        return
    answer = _child(running).call("accuracy", tensors=str(running.data.tensors))
    logits = np.array(answer["logits"], dtype=np.float32)
    if not np.isfinite(logits).all():
        raise BenchmarkError("a logit is not a finite number", where=running.cell.id)
    running.logits = logits


def _fill_pool(running: Running, plan: Plan) -> None:
    images = len(running.data.files) if running.data else 0
    draw = np.random.default_rng(plan.seed)
    indices = draw.permutation(images)[: plan.pool_images].tolist()
    child = _child(running)
    child.call(
        "pool",
        tensors=str(running.data.tensors) if running.data else "",
        indices=indices,
        random=NOISE_IMAGES,
        size=running.size,
    )
    child.call("warm_up", seconds=min(MAX_WARM_UP_S, plan.seconds / 10))


def _single_round(running: Running, plan: Plan, seed: int) -> None:
    running.rounds.append(
        _round(running, plan, queries=plan.queries_per_round(plan.limits.queries), seed=seed)
    )


def _multi_round(running: Running, plan: Plan, seed: int) -> None:
    queries = plan.queries_per_round(FEWEST_QUERIES)
    running.multi_rounds.append(
        _round(running, plan, queries=queries, seed=seed, samples=SAMPLES_PER_QUERY)
    )


def _repeat(running: Running, plan: Plan) -> None:
    """One image again and again: not faster, unless somebody keeps results."""
    queries = plan.queries_per_round(plan.limits.queries)
    running.repeated = _round(running, plan, queries=queries, seed=plan.seed, same=True)


def _round(running: Running, plan: Plan, **query: Any) -> Round:
    tree = ProcTree()
    before = tree.busy_cores_ticks()
    found = run_round(_child(running), seconds=plan.seconds / plan.rounds, **query)
    after = tree.busy_cores_ticks()
    if before is not None and after is not None:
        busy_s = (after[0] - before[0]) / os.sysconf("SC_CLK_TCK")
        running.foreign.append((busy_s - found.cpu_s, found.wall_s))
    # Both looks are taken under load: an idle clock says nothing about a busy one.
    running.after = machine_state(tree)
    running.before = running.before or running.after
    return found


def _offline_pass(running: Running, plan: Plan, seed: int) -> None:
    del seed  # the whole pool, in its order
    running.passes.append(run_pass(_child(running), plan.seconds / plan.rounds))


def _energy(running: Running, plan: Plan) -> None:
    sensor = find_sensor(ProcTree())
    if sensor is None:
        return
    child = _child(running)
    running.energy = measure_energy(
        sensor,
        lambda seconds: run_pass(child, seconds).images,
        idle_s=plan.energy_loop_s,
        loop_s=plan.energy_loop_s,
    ).to_dict()


def _start(running: Running, plan: Plan) -> None:
    if not running.is_artefact or running.data is None:
        return
    image = str(running.data.files[plan.seed % len(running.data.files)])
    name = f"{running.cell.id}: cold start"
    running.starts.append(start_once(name, _screening(running, plan), image))


def _soak(running: Running, plan: Plan) -> None:
    if not running.is_artefact or running.data is None:
        return
    # A process of its own: what the timed one has filled must not hide what a soak fills.
    child = Child(f"{running.cell.id}: soak")
    tree = ProcTree()
    try:
        run_soak(
            child,
            _screening(running, plan),
            [str(file) for file in running.data.files],
            seconds=plan.soak_s,
            images_per_second=plan.soak_images_per_second,
            seed=plan.seed,
            keep=running.slices.append,
            temperature=lambda: machine_state(tree).hottest_c,
        )
    finally:
        child.close()


def _screen(running: Running, plan: Plan) -> None:
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
        times_ns=answer["times_ns"],
        outcomes=answer["outcomes"],
        screen_peak_rss_bytes=answer["screen_peak_rss_bytes"],
    )


def _screening(running: Running, plan: Plan) -> dict[str, Any]:
    return {
        "bundle": str(running.subject.path),
        "target": running.cell.target,
        "threads": plan.threads,
        "allow_unsigned": plan.allow_unsigned,
    }


def _child(running: Running) -> Child:
    if running.child is None:
        raise BenchmarkError("it was never opened", where=running.cell.id)
    return running.child
