"""libqdr beside ONNX Runtime and OpenVINO: ``python benchmarks/native.py``.

One int8 network, in turns in one process: from the artefact's bytes to the first logits, and the
latency of one image after that. Both sides are opened as a device opens them. Prints ratios of the
rounds' medians with 95 % intervals, against what was aimed at, and returns 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import RUN_HERE, build, prepare, run_script
from qdr_bench.machine.environment import environment
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import paired_ratio
from qdr_edge.bundle import read_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write
from qdr_edge.runtime import Session, open_model

RECIPES = ("student-latency", "resnet50-latency", "mobilenetv3-latency")
TARGETS = ("native", "ort-x86", "openvino")
# Largest ratio to ONNX Runtime's time that was aimed at: of opening, and of an image.
OPENING = 0.1
LATENCY = {
    ("student-latency", 1): 0.9,
    ("student-latency", 2): 0.9,
    ("resnet50-latency", 1): 1.05,
    ("resnet50-latency", 2): 1.10,
}


def opened(backend: str, model: bytes, threads: int, image: np.ndarray) -> tuple[Session, int]:
    """A session, and the time to its first logits, nanoseconds."""
    start = time.perf_counter_ns()
    session = open_model(backend, model, threads=threads)
    session.infer(image)
    return session, time.perf_counter_ns() - start


def image_ns(session: Session, image: np.ndarray, seconds: float) -> float:
    """The median latency of one image."""
    found: list[int] = []
    deadline = time.perf_counter() + seconds
    session.infer(image)
    while len(found) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter_ns()
        session.infer(image)
        found.append(time.perf_counter_ns() - start)
    return float(np.median(found))


def main() -> int:
    """Measure, print; return 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="cache folder")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each target in a round")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    folder = options.build.resolve()
    data = prepare(folder)
    bundle = read_bundle(build(options.recipe, folder, data, targets=RUN_HERE))
    artefacts = bundle.manifest.artefacts
    size = bundle.manifest.input.size
    image = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    opening: dict[str, list[float]] = {name: [] for name in TARGETS}
    latency: dict[str, list[float]] = {name: [] for name in TARGETS}
    for _ in range(options.rounds):
        for name in TARGETS:
            artefact = artefacts[name]
            model = bundle.entries[artefact.entry]
            session, first = opened(artefact.backend, model, options.threads, image)
            opening[name].append(first)
            latency[name].append(image_ns(session, image, options.seconds))
            session.close()
    table = Table(
        title=f"libqdr, {options.recipe}, {options.threads} threads", title_justify="left"
    )
    for column in ("", "native", "other", "native / other [95 %]", "aim", ""):
        table.add_column(column)
    missed, ratios = 0, []
    for what, figures, aim in (
        ("opened, first logits", opening, OPENING),
        ("one image", latency, LATENCY.get((options.recipe, options.threads))),
    ):
        for other in TARGETS[1:]:
            ratio = paired_ratio(figures["native"], figures[other], seed=0)
            if ratio is None:
                raise BenchmarkError("too few rounds", expected="--rounds 2 or more")
            limit = aim if other == "ort-x86" else None
            holds = limit is None or ratio.value <= limit
            missed += not holds
            ratios.append({"what": what, "other": other, **ratio.to_dict()})
            table.add_row(
                f"{what}, {other}",
                f"{np.median(figures['native']) / 1e6:.2f} ms",
                f"{np.median(figures[other]) / 1e6:.2f} ms",
                f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                "–" if limit is None else f"≤ {limit:g}",
                "" if limit is None else "PASS" if holds else "FAIL",
            )
    Console(width=120).print(table)
    if options.report:
        content = {
            "recipe": options.recipe, "threads": options.threads, "ratios": ratios,
            "opening_ns": opening, "latency_ns": latency,
            "environment": environment(ProcTree()).to_dict(),
        }  # fmt: skip
        atomic_write(options.report, json.dumps(content, indent=1))
    return int(missed > 0)


if __name__ == "__main__":
    run_script(main)
