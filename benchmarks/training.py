"""What training claims of its speed, by one command: ``python benchmarks/training.py``.

Three parts, each of them ours against something else in ONE process and in interleaved rounds, so
that a change of the machine meets both sides:

    loss    CPM + CSA, forward and backward, against Python loops over classes and images
    mutual  a mutual-distillation QAT step of ResNet-50 against the published way (reference_way.py)
    qat     a QAT step of the default student against its float step

Ours is the trainer's own step, augmentation of the student's images and optimizer included; the
published one is given images that are ready. One direction is timed: the other is the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qdr_bench.machine.environment import environment, machine_state
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import Ratio, paired_ratio
from qdr_edge.errors import QdrError
from qdr_edge.files import atomic_write
from qdr_edge.labels import LabelSet
from qdr_train.data.images import Images, network_input
from qdr_train.distill.guide import alignment
from qdr_train.distill.losses import DistillationWeights, distillation
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.learner import Learner, Trainee
from qdr_train.engine.loop import train_epoch
from qdr_train.engine.networks import new_network
from qdr_train.engine.precision import Precision
from qdr_train.engine.tutors import tutor_of
from qdr_train.quant import qat
from qdr_train.recipe import Recipe, Stage, StudentStage
from qdr_train.recipe.files import load_recipe, shipped_recipes
from reference_way import ReferenceStep, loop_loss

LOSS_TARGET, MUTUAL_TARGET, QAT_TARGET = 5.0, 0.70, 1.6
LABELS = LabelSet.named("TOPCON-MM")
SHARE_OF_POSITIVES = 0.15  # about as many labels an eye as in TOPCON-MM
SEED = 7
Step = Callable[[], object]


@dataclass(frozen=True)
class Claim:
    """A ratio, what it has to reach (None: told, not claimed), and whether it does."""

    what: str
    ratio: Ratio
    target: float | None
    at_least: bool

    @property
    def holds(self) -> bool:
        """Whether the figure itself, not its interval, reaches the target."""
        if self.target is None:
            return True
        return (self.ratio.value - self.target) * (1 if self.at_least else -1) >= 0


@dataclass
class Timings:
    """Median time of a step by contender and round, and how busy the machine was otherwise."""

    rounds_ns: dict[str, list[float]]
    foreign_cores: float | None = None
    notes: list[str] = field(default_factory=list)

    def ratio(self, first: str, second: str) -> Ratio:
        """How many times longer the first takes."""
        found = paired_ratio(self.rounds_ns[first], self.rounds_ns[second])
        assert found is not None, "both were measured in the same rounds"
        return found


def interleave(
    steps: Mapping[str, Step], rounds: int, repeats: int, options: argparse.Namespace
) -> Timings:
    """Time all contenders one after the other in every round, after one step each to warm up."""
    tree, timings = ProcTree(), Timings({name: [] for name in steps})
    clock = time.process_time_ns if options.cpu_time else time.perf_counter_ns

    def taken(step: Step) -> int:
        before = clock()
        step()
        if options.device.type == "cuda":
            torch.cuda.synchronize(options.device)
        return clock() - before

    for step in steps.values():
        taken(step)
    before, cpu, wall = tree.busy_cores_ticks(), time.process_time(), time.perf_counter()
    for number in range(rounds):
        # Each round starts with another contender, so that none is always the one after a pause.
        turn = number % len(steps)
        names = list(steps)
        for name in [*names[turn:], *names[:turn]]:
            found = [taken(steps[name]) for _ in range(repeats)]
            timings.rounds_ns[name].append(float(np.median(found)))
    after, wall = tree.busy_cores_ticks(), time.perf_counter() - wall
    if before and after:
        busy = (after[0] - before[0]) / os.sysconf("SC_CLK_TCK")
        timings.foreign_cores = max(0.0, (busy - (time.process_time() - cpu)) / wall)
    return timings


def measure_loss(options: argparse.Namespace) -> tuple[Timings, list[Claim]]:
    """The distillation loss at batch 64, 11 classes, 1000 features."""
    batch = _loss_batch(torch.float32, options.device)
    worst = 0.0
    exact = [
        _backward(loss, _loss_batch(torch.float64, options.device)) for loss in (_ours, _loops)
    ]
    for ours, loops in zip(*exact, strict=True):
        # A race of two different losses would say nothing.
        torch.testing.assert_close(ours, loops, rtol=1e-6, atol=1e-12)
        worst = max(worst, float((ours - loops).abs().max() / loops.abs().max()))
    timings = interleave(
        {"loops": lambda: _backward(_loops, batch), "ours": lambda: _backward(_ours, batch)},
        5 if options.quick else 40,
        5,
        options,
    )
    timings.notes.append(f"value and gradients of both losses agree to {worst:.0e} of their size")
    return timings, [Claim("loss: loops / ours", timings.ratio("loops", "ours"), LOSS_TARGET, True)]


def _loops(batch: Sequence[Tensor]) -> Tensor:
    return loop_loss(*batch)


def _ours(batch: Sequence[Tensor]) -> Tensor:
    cpm, csa = distillation(*batch, DistillationWeights())  # type: ignore[call-arg, arg-type]
    return cpm + csa


def _backward(loss: Callable[[Sequence[Tensor]], Tensor], batch: Sequence[Tensor]) -> list[Tensor]:
    """The loss and its gradients."""
    value = loss(batch)
    return [value.detach(), *torch.autograd.grad(value, batch[:2])]


def _loss_batch(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """What `distillation` takes: a student's features, logits and targets, and a teacher's."""
    generator = torch.Generator().manual_seed(SEED)
    found: list[Tensor] = []
    for _ in range(2):
        features, logits, chances = (
            spread(64, width, generator=generator, dtype=torch.float64)
            for spread, width in ((torch.randn, 1000), (torch.randn, 11), (torch.rand, 11))
        )
        found += [features, logits, chances < SHARE_OF_POSITIVES]
    found = [part.to(device, dtype) for part in found]
    return [*(part.requires_grad_() for part in found[:2]), *found[2:]]


def measure_mutual(options: argparse.Namespace) -> tuple[Timings, list[Claim]]:
    """One direction of the mutual step of ResNet-50: the published way, and ours by teacher."""
    size, batch, device = 64 if options.quick else options.size, options.batch, options.device
    teachers = {
        "frozen teacher, answers kept": "teacher_learns: frozen, teacher_views: fixed",
        "frozen teacher, new views": "teacher_learns: frozen, teacher_views: augmented",
        "teacher trained along": "teacher_learns: along, teacher_views: augmented",
    }
    steps: dict[str, Step] = {}
    for name, settings in teachers.items():
        overrides = [f"student.distill={{{settings}}}", f"student.batch={batch}"]
        recipe = load_recipe(shipped_recipes()["paper"], overrides=overrides, size=size)
        steps[name] = student_step(recipe, "student-oct", device, quantized=True)
    torch.manual_seed(SEED)
    reference = ReferenceStep(
        new_network(recipe.stages["student-oct"], recipe, LABELS),
        new_network(recipe.stages["teacher-fundus"], recipe, LABELS),
        device,
    )
    halves = [_random_images(batch, size, seed) for seed in (1, 2)]
    ready = []
    for half in halves:
        pixels = half.take(torch.arange(batch))
        ready += [network_input(pixels).to(device), half.targets.to(device)]
    steps["published way"] = lambda: reference(*ready)
    timings = interleave(steps, 2 if options.quick else options.rounds, 1, options)
    what = f"mutual QAT step, ResNet-50, {size} px, batch {batch}"
    claims = [
        Claim(
            f"{what}: {name} / published",
            timings.ratio(name, "published way"),
            MUTUAL_TARGET if name.endswith("kept") else None,
            False,
        )
        for name in teachers
    ]
    return timings, claims


def measure_qat(options: argparse.Namespace) -> tuple[Timings, list[Claim]]:
    """A QAT step of the default student against its float step, both phases of QAT."""
    size, batch = (64, 8) if options.quick else (224, 32)
    overrides = [f"student.batch={batch}", "student.teachers=[]", "student.distill.soft_labels=0"]
    recipe = load_recipe(shipped_recipes()["demo"], overrides=overrides, size=size)
    name = next(n for n, s in recipe.stages.items() if isinstance(s, StudentStage))
    device = options.device
    steps = {
        "float": student_step(recipe, name, device, quantized=False),
        "qat": student_step(recipe, name, device, quantized=True),
        "qat, frozen": student_step(recipe, name, device, quantized=True, frozen=True),
    }
    timings = interleave(steps, 3 if options.quick else 4 * options.rounds, 1, options)
    what = f"{recipe.stages[name].model.name}, {size} px, batch {batch}"
    return timings, [
        Claim(f"{what}: QAT / float step", timings.ratio("qat", "float"), QAT_TARGET, False),
        Claim(
            f"{what}: the same with observers and BatchNorm frozen",
            timings.ratio("qat, frozen", "float"),
            QAT_TARGET,
            False,
        ),
    ]


def student_step(
    recipe: Recipe, name: str, device: torch.device, *, quantized: bool, frozen: bool = False
) -> Step:
    """The trainer's own step of a recipe's student, on a data set of one batch.

    Args:
        recipe: Says everything about the step.
        name: Of the student's stage.
        device: Where to compute.
        quantized: In the QAT phase, else in the float one.
        frozen: With observers and BatchNorm frozen.
    """
    stage = recipe.stages[name]
    assert isinstance(stage, StudentStage)
    torch.manual_seed(SEED)
    images = _random_images(stage.batch, recipe.size, 1)
    theirs = _random_images(stage.batch, recipe.size, 2)
    tutors = []
    for teacher in stage.teachers:
        network = new_network(recipe.stages[teacher], recipe, LABELS).to(device)
        their_stage: Stage = recipe.stages[teacher]
        tutors.append(
            tutor_of(network, their_stage, stage, theirs, images, exclusive=False, device=device)
        )
    network = new_network(stage, recipe, LABELS).to(device)
    aligns = nn.ModuleList(
        alignment(network.feature_dim, tutor.guide.feature_dim) for tutor in tutors
    ).to(device)
    settings = stage.qat_optimizer if quantized else stage.optimizer
    if quantized:
        network = qat.prepare_qat(network, recipe.quant_scheme(), stage.quantization).to(device)
    trainee = Trainee(
        Learner(network, settings, beside=list(aligns)),
        LabelLoss(stage.loss),
        tuple(tutor.guide for tutor in tutors),
        aligns,
        tuple(Learner(t.learner, settings) for t in tutors if t.learner is not None),
        Precision("float32", device),
        device,
    )
    network.train()
    if quantized:
        qat.set_phase(network, observers=True, bn_frozen=False)
    generator = torch.Generator().manual_seed(SEED)

    def step() -> None:
        train_epoch(
            trainee,
            images,
            stage,
            learning_rate=lambda _: settings.lr,
            generator=generator,
            progress=lambda _done, _steps: None,
        )

    if frozen:
        step()  # scales must have seen data
        qat.set_phase(network, observers=False, bn_frozen=True)
    return step


def _random_images(count: int, size: int, seed: int) -> Images:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, size // 32, size // 32), dtype=np.uint8)
    pixels = coarse.repeat(32, 2).repeat(32, 3)
    targets = random.random((count, len(LABELS))) < SHARE_OF_POSITIVES
    patients = tuple(f"p{row}" for row in range(count))
    return Images(pixels, np.arange(count), torch.from_numpy(targets.astype(np.float32)), patients)


PARTS: Mapping[str, Callable[[argparse.Namespace], tuple[Timings, list[Claim]]]] = {
    "loss": measure_loss,
    "mutual": measure_mutual,
    "qat": measure_qat,
}


def show(name: str, timings: Timings, claims: Sequence[Claim], console: Console) -> None:
    """Print the medians, then the ratios."""
    table = Table(title=name, title_justify="left")
    for column in ("", "value", "95 % interval", "target"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    table.add_column("")
    for contender, rounds in timings.rounds_ns.items():
        table.add_row(contender, f"{np.median(rounds) / 1e6:.1f} ms", "", "", "", style="dim")
    for claim in claims:
        ratio, target = claim.ratio, ""
        verdict = ""
        if claim.target is not None:
            target = f"{'≥' if claim.at_least else '≤'} {claim.target:g} ×"
            verdict = "[green]PASS[/]" if claim.holds else "[bold red]FAIL[/]"
        interval = f"{ratio.low:.2f} – {ratio.high:.2f}"
        table.add_row(claim.what, f"{ratio.value:.2f} ×", interval, target, verdict)
    console.print(table)
    for note in timings.notes:
        console.print(note)
    if (timings.foreign_cores or 0.0) > 0.15:
        console.print(
            f"[yellow]Other processes kept {timings.foreign_cores:.1f} cores busy: milliseconds "
            "are too high. Ratios are of interleaved rounds, but a quiet machine is better.[/]"
        )


def main() -> int:
    """Measure, print; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default all")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of the mutual step; others take more"
    )
    parser.add_argument("--size", type=int, default=448, help="image side of the mutual step")
    parser.add_argument("--batch", type=int, default=8, help="of the mutual step")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="this process's processor time, not the clock's; with --threads 1, if others are busy",
    )
    parser.add_argument(
        "--quick", action="store_true", help="64 px, few rounds, no verdict: does it run?"
    )
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; expected {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    console, tree = Console(width=118), ProcTree()
    before = machine_state(tree)
    results = {}
    for name in options.parts or PARTS:
        timings, claims = PARTS[name](options)
        if options.quick:
            claims = [replace(claim, target=None) for claim in claims]
        show(name, timings, claims, console)
        results[name] = (timings, claims)
    every = [claim for _, claims in results.values() for claim in claims]
    if options.report:
        content = {
            "format": "qdr-training-speed",
            "schema_version": 1,
            "threads": options.threads,
            "device": str(options.device),
            "cpu_time": options.cpu_time,
            "quick": options.quick,
            "environment": environment(tree).to_dict(),
            "state": {"before": asdict(before), "after": asdict(machine_state(tree))},
            "claims": [{**asdict(claim), "holds": claim.holds} for claim in every],
            "timings": {name: asdict(timings) for name, (timings, _) in results.items()},
        }
        atomic_write(options.report, json.dumps(content, indent=1) + "\n")
        console.print(f"saved {options.report}")
    return 0 if all(claim.holds for claim in every) else 1


if __name__ == "__main__":
    # torch announces in every process that it will remove torch.ao.quantization (qat.py knows).
    warnings.filterwarnings("ignore", message=r"torch\.ao\.quantization is deprecated")
    try:
        sys.exit(main())
    except QdrError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
