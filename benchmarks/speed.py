"""The speed and size claims of the README, measured by one command: ``python benchmarks/speed.py``.

Networks with random weights are trained for nought epochs, calibrated and exported by the project's
own commands, then timed in ONE process in interleaved rounds: every model runs in every round, so
that a change of the machine meets all of them. Latency does not depend on what was learnt; accuracy
does, and is measured by ``qdr-edge bench``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, build, prepare, run_script
from qdr_bench.contest import (
    BACKENDS,
    Claim,
    Contender,
    Timings,
    contenders,
    measure,
    speed_claim,
)
from qdr_bench.machine.environment import environment, machine_state
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import round_medians
from qdr_edge.files import atomic_write

RECIPES = {
    "student": "student-latency",
    "mobilenetv3": "mobilenetv3-latency",
    "resnet50": "resnet50-latency",
}
GROUPS = (("student", "mobilenetv3"), ("resnet50",))
STUDENT_SPEED_UP = 2.0
RESNET_SPEED_UP = 3.2
SIZE_SHARE = 0.27


def claims(timings: Sequence[Timings], sizes: Mapping[str, tuple[int, int]]) -> list[Claim]:
    """Compare what was measured with what is claimed."""
    student, resnet = timings
    found = []
    for backend in BACKENDS:
        speed_up = student.ratio(f"student/float/{backend}", f"student/int8/{backend}")
        found.append(speed_claim(f"student 224 px, int8 against float, {backend}", speed_up,
                                  STUDENT_SPEED_UP))  # fmt: skip
    for backend in BACKENDS:
        rivals = [f"mobilenetv3/{variant}/{backend}" for variant in ("float", "int8")]
        fastest = min(rivals, key=student.median_ms)
        lead = student.ratio(fastest, f"student/int8/{backend}")
        name = " ".join(fastest.split("/")[:2])
        found.append(speed_claim(f"student int8 against {name}, {backend}", lead, 1.0))
    for backend in BACKENDS:
        speed_up = resnet.ratio(f"resnet50/float/{backend}", f"resnet50/int8/{backend}")
        found.append(speed_claim(f"ResNet-50 448 px, int8 against float, {backend}", speed_up,
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


def _sizes(entries: Sequence[Contender]) -> dict[str, tuple[int, int]]:
    """Bytes of each artefact and of its float twin."""
    twin = {e.model: e.file.stat().st_size for e in entries if e.variant == "float"}
    return {
        f"{e.model}, {e.backend}": (e.file.stat().st_size, twin[e.model])
        for e in entries
        if e.variant == "int8"
    }


if __name__ == "__main__":
    run_script(main)
