"""Does the harness agree with others' tools? ``python benchmarks/agreement.py``.

One int8 student, one thread count, all in turns:

* on ONNX Runtime: the harness's SingleStream mean against a bare loop around `session.run`;
* on OpenVINO: against OpenVINO's own `benchmark_app` with the latency hint, as many threads, one
  request – a program in C++ and Python that shares no line with ours.

The means of neighbouring turns are compared; each ratio must be within 3 % of 1. Of `benchmark_app`
that is its duration by its count: what its loop waits for an answer. The latency that it prints is
taken inside OpenVINO, without the call from Python; it is told beside, and is always less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import build, prepare, run_script
from qdr_bench.child import Child
from qdr_bench.machine.environment import environment
from qdr_bench.machine.tree import ProcTree
from qdr_bench.scenarios.single_stream import run_round
from qdr_bench.statistics import paired_ratio
from qdr_edge.bundle import read_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write, sha256_file
from qdr_edge.runtime.onnxruntime import default_options

RECIPES = ("student-latency", "resnet50-latency")
MOST = 0.03


@dataclass(frozen=True)
class Mean:
    """What a tool took for an inference on average, nanoseconds.

    Args:
        waited: Duration by count.
        printed: The mean latency that it says itself, if its clock stands elsewhere.
    """

    waited: float
    printed: float | None = None


@dataclass
class Pair:
    """The harness and another tool on one runtime: mean latencies of each turn, nanoseconds."""

    runtime: str
    other: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    printed: list[float] = field(default_factory=list)
    """The mean latency that the other tool says itself, where it is another one."""

    def take_turn(self, other: Callable[[float], Mean], seconds: float) -> None:
        """Run the other tool once."""
        found = other(seconds)
        self.theirs.append(found.waited)
        if found.printed is not None:
            self.printed.append(found.printed)


def harness(backend: str, model: Path, options: dict[str, str], threads: int, size: int) -> Child:
    """A worker that has opened the model, as `qdr-edge bench` starts it."""
    child = Child(f"harness {backend}")
    child.call(
        "open",
        model=str(model),
        sha256=sha256_file(model),
        backend=backend,
        threads=threads,
        options=options,
        size=size,
    )
    child.call("pool", tensors="", indices=[], random=8, size=size)
    return child


def our_mean(child: Child, seconds: float, seed: int) -> float:
    """The mean latency of one SingleStream round."""
    return float(np.mean(run_round(child, seconds=seconds, queries=10, seed=seed).latency_ns))


def bare_loop(model: Path, threads: int) -> Callable[[float], Mean]:
    """A loop around `session.run` with nothing of ours in it; gives the mean latency."""
    import onnxruntime

    content = model.read_bytes()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    for name, value in default_options(content).items():
        settings.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(content, settings, ["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    size = image.shape[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)

    def mean(seconds: float) -> Mean:
        for _ in range(3):
            session.run(None, {image.name: pixels})
        queries, start = 0, time.perf_counter_ns()
        while time.perf_counter_ns() < start + seconds * 1e9:
            session.run(None, {image.name: pixels})
            queries += 1
        return Mean((time.perf_counter_ns() - start) / queries)

    return mean


def benchmark_app(model: Path, threads: int) -> Callable[[float], Mean]:
    """OpenVINO's own tool; gives its duration by its count, and the mean latency it prints."""
    program = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    if program is None:
        raise BenchmarkError(
            "benchmark_app is not here",
            expected="the program that the openvino package brings",
            fix="pip install openvino",
        )

    def mean(seconds: float) -> Mean:
        with tempfile.TemporaryDirectory() as folder:
            # Its options refuse a thread count beside a hint; a configuration file may have both.
            config = Path(folder, "config")
            config.write_text(json.dumps({"CPU": {"INFERENCE_NUM_THREADS": threads}}))
            command = [program, "-m", str(model), "-d", "CPU", "-hint", "latency", "-api", "sync",
                       "-nireq", "1", "-infer_precision", "f32", "-load_config", str(config),
                       "-t", str(max(1, round(seconds))), "-report_type", "no_counters",
                       "-json_stats", "-report_folder", folder]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = list(Path(folder).glob("*.json"))
            if done.returncode or not found:
                raise BenchmarkError(
                    "benchmark_app failed", where=(done.stderr or done.stdout)[-300:]
                )
            results = json.loads(found[0].read_text())["execution_results"]
            waited = 1e9 / float(results["throughput"])
            return Mean(waited, float(results["avg latency"]) * 1e6)

    return mean


def main() -> int:
    """Measure, print; return 1 if a ratio is beyond the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/agreement"), help="cache folder")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each tool in a round")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    data = prepare(options.build.resolve())
    bundle = read_bundle(build(options.recipe, options.build.resolve(), data))
    pairs = []
    with tempfile.TemporaryDirectory(prefix="qdr-agreement-") as scratch:
        for target, other, make in (
            ("ort-x86", "loop around session.run", bare_loop),
            ("openvino", "benchmark_app", benchmark_app),
        ):
            artefact = bundle.artefact(target)
            model = Path(scratch, f"{target}.onnx")
            model.write_bytes(bundle.entries[artefact.entry])
            child = harness(
                artefact.backend,
                model,
                dict(artefact.options),
                options.threads,
                bundle.manifest.input.size,
            )
            theirs, pair = make(model, options.threads), Pair(artefact.backend, other)
            for number in range(options.rounds):
                # Each is first in every other round.
                if number % 2:
                    pair.take_turn(theirs, options.seconds)
                pair.ours.append(our_mean(child, options.seconds, number))
                if not number % 2:
                    pair.take_turn(theirs, options.seconds)
            child.close()
            pairs.append(pair)
    table = Table(title=f"The harness beside other tools, {options.recipe}", title_justify="left")
    for column in (
        "runtime",
        "harness",
        "other tool",
        "",
        "harness / other [95 %]",
        f"± {MOST:.0%}",
    ):
        table.add_column(column)
    holds = True
    for pair in pairs:
        ratio = paired_ratio(pair.ours, pair.theirs)
        assert ratio is not None, "both took turns"
        fits = abs(ratio.value - 1) <= MOST
        holds = holds and fits
        table.add_row(
            pair.runtime,
            f"{np.median(pair.ours) / 1e6:.3f} ms",
            f"{np.median(pair.theirs) / 1e6:.3f} ms",
            pair.other,
            f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
            "[green]PASS[/]" if fits else "[bold red]FAIL[/]",
        )
    console = Console(width=118)
    console.print(table)
    for pair in pairs:
        if pair.printed:
            inside = np.median(np.subtract(pair.theirs, pair.printed)) / 1e3
            console.print(
                f"{pair.other} prints {np.median(pair.printed) / 1e6:.3f} ms: its clock leaves out "
                f"{inside:.0f} µs a call, which its own loop waits for too."
            )
    if options.report:
        content = {
            "format": "qdr-agreement",
            "schema_version": 1,
            "recipe": options.recipe,
            "threads": options.threads,
            "environment": environment(ProcTree()).to_dict(),
            "pairs": [asdict(pair) for pair in pairs],
        }
        atomic_write(options.report, json.dumps(content, indent=1) + os.linesep)
    return 0 if holds else 1


if __name__ == "__main__":
    run_script(main)
