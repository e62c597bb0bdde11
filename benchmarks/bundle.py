"""What a bundle costs to open and to seal: ``python benchmarks/bundle.py``.

Opening verifies the signature and what will be used, opens the model and runs the power-on
self-test. It is compared with what nobody can do without: an ONNX Runtime session made from the
same artefact bytes. Both take turns, in this process (warm) and each in a process of its own
(cold); what a cold process pays for imports is told apart. Sealing is an export of a finished run
without the time its proof images take to run through every form.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import build, prepare, run_script
from qdr_bench.machine.environment import environment, machine_state
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import paired_ratio
from qdr_edge.bundle import read_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write

RECIPES = ("student-latency", "resnet50-latency")
TARGET = "ort-x86"
OPEN_TARGET = 1.3
SEAL_TARGET_S = 20.0
PROOF_STEP = "running every form"


@dataclass(frozen=True)
class Claim:
    """A figure and, unless it is only told, the most it may be."""

    what: str
    value: float
    unit: str
    target: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the figure itself, not its interval, reaches the target."""
        return self.target is None or self.value <= self.target


def open_verified(bundle: Path, model: Path, threads: int) -> dict[str, int]:
    """Nanoseconds of importing this library and of `qdr_edge.load`."""
    start = time.perf_counter_ns()
    # load imports these three late: told as imports, too.
    import cv2  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image  # noqa: F401

    from qdr_edge.screener import load

    imported = time.perf_counter_ns()
    screener = load(bundle, target=TARGET, threads=threads)
    done = time.perf_counter_ns()
    screener.close()
    return {"import": imported - start, "open": done - imported}


def open_bare(bundle: Path, model: Path, threads: int) -> dict[str, int]:
    """Nanoseconds of importing ONNX Runtime and of a session from the artefact's bytes."""
    start = time.perf_counter_ns()
    import onnxruntime

    imported = time.perf_counter_ns()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    onnxruntime.InferenceSession(model.read_bytes(), settings, ["CPUExecutionProvider"])
    return {"import": imported - start, "open": time.perf_counter_ns() - imported}


WAYS: Mapping[str, Callable[[Path, Path, int], dict[str, int]]] = {
    "qdr_edge.load": open_verified,
    "bare session": open_bare,
}


def open_cold(way: str, bundle: Path, model: Path, threads: int) -> dict[str, int]:
    """The same in a process of its own.

    Raises:
        BenchmarkError: The process failed.
    """
    command = [sys.executable, __file__, "--child", way, str(bundle), str(model), str(threads)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        raise BenchmarkError(f"{way} failed in a process of its own: {lines[-1] if lines else ''}")
    found: dict[str, int] = json.loads(child.stdout)
    return found


def interleave(
    turn: Callable[[str], dict[str, int]], rounds: int
) -> dict[str, dict[str, list[int]]]:
    """Time both ways in every round, each first in every other; a first round is not counted."""
    found: dict[str, dict[str, list[int]]] = {way: {"import": [], "open": []} for way in WAYS}
    for number in range(-1, rounds):
        names = list(WAYS) if number % 2 else list(reversed(list(WAYS)))
        for way in names:
            for part, took in turn(way).items():
                if number >= 0:
                    found[way][part].append(took)
    return found


def opening_claims(kind: str, found: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Claim]:
    """Compare opening a bundle with making a bare session."""
    ours, bare = (found[way]["open"] for way in WAYS)
    ratio = paired_ratio(ours, bare)
    assert ratio is not None, "both were measured in the same rounds"
    what = f"{kind}: load / bare session"
    claims = [Claim(what, ratio.value, "×", OPEN_TARGET, ratio.low, ratio.high)]
    for way in WAYS:
        claims.append(Claim(f"{kind}: {way}", float(np.median(found[way]["open"])) / 1e6, "ms"))
    return claims


def seal_times(run: Path, recipe: str) -> dict[str, float]:
    """Seconds of each step of an export of a finished run."""
    from qdr_edge.keys import development_key
    from qdr_export.pipeline import Progress, export_student
    from qdr_export.profiles import DEFAULT_TARGETS, load_profile
    from qdr_export.run_folder import find_students

    starts: list[tuple[str, float]] = []
    student = find_students(run)[1][0]
    with tempfile.TemporaryDirectory(prefix="qdr-seal-") as out:
        export_student(
            student,
            [load_profile(name) for name in DEFAULT_TARGETS],
            name=recipe,
            out=Path(out),
            key=development_key().key,
            force=True,
            progress=Progress(lambda step: starts.append((step, time.perf_counter()))),
        )
        starts.append(("", time.perf_counter()))
    return {step: later - start for (step, start), (_, later) in itertools.pairwise(starts)}


def seal_claims(steps: Mapping[str, float]) -> list[Claim]:
    """The time of sealing without the proof images, and of each step."""
    sealing = sum(took for step, took in steps.items() if step != PROOF_STEP)
    claims = [Claim("seal: export without running the proof images", sealing, "s", SEAL_TARGET_S)]
    return claims + [Claim(f"seal: {step}", took, "s") for step, took in steps.items()]


def show(claims: Sequence[Claim], recipe: str, console: Console) -> None:
    """Print every figure and whether it reaches its target."""
    table = Table(title=f"Opening and sealing {recipe}", title_justify="left")
    for column in ("", "value", "95 % interval", "target"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    table.add_column("")
    for claim in claims:
        told = claim.target is None
        low, high = claim.low, claim.high
        table.add_row(
            claim.what,
            f"{claim.value:.2f} {claim.unit}",
            "" if low is None or high is None else f"{low:.2f} – {high:.2f}",
            "" if told else f"≤ {claim.target:g} {claim.unit}",
            "" if told else "[green]PASS[/]" if claim.holds else "[bold red]FAIL[/]",
            style="dim" if told else "",
        )
    console.print(table)


def main() -> int:
    """Build, measure, print; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/bundle"), help="cache folder")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="which network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="few rounds, no verdict: does it run?")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    data = prepare(options.build.resolve())
    bundle = build(options.recipe, options.build.resolve(), data)
    console, tree = Console(width=118), ProcTree()
    before = machine_state(tree)
    opened = read_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="qdr-open-") as scratch:
        model = Path(scratch) / "model.onnx"
        model.write_bytes(opened.entries[opened.manifest.artefacts[TARGET].entry])
        common = (bundle, model, options.threads)
        timings = {
            "cold": interleave(lambda way: open_cold(way, *common), rounds),
            "warm": interleave(lambda way: WAYS[way](*common), rounds),
        }
    claims = [claim for kind, found in timings.items() for claim in opening_claims(kind, found)]
    for way in WAYS:
        imports = float(np.median(timings["cold"][way]["import"])) / 1e6
        claims.append(Claim(f"cold: imports of {way}", imports, "ms"))
    steps = seal_times(bundle.parent.parent, options.recipe)
    claims += seal_claims(steps)
    if options.quick:
        claims = [replace(claim, target=None) for claim in claims]
    show(claims, options.recipe, console)
    if options.report:
        content = {
            "format": "qdr-bundle-speed",
            "schema_version": 1,
            "threads": options.threads,
            "quick": options.quick,
            "environment": environment(tree).to_dict(),
            "state": {"before": asdict(before), "after": asdict(machine_state(tree))},
            "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
            "timings_ns": timings,
            "seal_s": steps,
        }
        atomic_write(options.report, json.dumps(content, indent=1) + "\n")
        console.print(f"saved {options.report}")
    return 0 if all(claim.holds for claim in claims) else 1


def child(way: str, bundle: str, model: str, threads: str) -> None:
    """Print what one opening in this process took, as JSON."""
    print(json.dumps(WAYS[way](Path(bundle), Path(model), int(threads))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        run_script(main)
