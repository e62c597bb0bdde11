"""Scheme exact against the runtimes' own quantizers: ``python benchmarks/backends.py``.

ResNet-50 at 448 px with random weights, which cost the same as trained ones. The rivals are the
float twin of the very same network after ``quantize_static`` (QDQ, uint8 activations, int8 weights
by channel at full range) on ONNX Runtime, and after NNCF on OpenVINO. All take turns in a process.
NNCF is not a dependency: ``pip install nncf`` adds it, and without it its row is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, build, prepare, run_script
from qdr_bench.contest import BACKENDS, Claim, Contender, contenders, measure
from qdr_bench.machine.environment import environment, machine_state
from qdr_bench.machine.tree import ProcTree
from qdr_bench.peers import nncf_ptq, ort_ptq
from qdr_edge.files import atomic_write
from qdr_export.proof.readback import read_back

MOST = 1.05
INT8_SHARE = 0.9
CALIBRATION_IMAGES = 8
OWN_TOOL = "own-tool"


def rivals(entries: list[Contender], folder: Path) -> list[Contender]:
    """The float twin quantized by each runtime's own tool."""
    twin = next(e for e in entries if e.variant == "float")
    random = np.random.default_rng(0)
    shape = (CALIBRATION_IMAGES, 3, twin.size_px, twin.size_px)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    ort, ir = folder / "ptq.onnx", folder / "nncf.ir"
    ort_ptq.quantize(twin.file, ort, images)
    found = [
        replace(twin, variant=OWN_TOOL, backend="onnxruntime", file=ort, options=ort_ptq.OPTIONS)
    ]
    if nncf_ptq.is_installed():
        nncf_ptq.quantize(twin.file, ir, images)
        found.append(
            replace(twin, variant=OWN_TOOL, backend="openvino", file=ir, options=nncf_ptq.OPTIONS)
        )
    return found


def main() -> int:
    """Build, measure, print; return 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "backends", help="cache")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5, help="time of a model in a round")
    parser.add_argument("--quick", action="store_true", help="3 rounds, no verdict: does it run?")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    console, tree = Console(width=118), ProcTree()
    folder = options.build.resolve()
    bundle = build("resnet50-latency", folder, prepare(folder))
    before = machine_state(tree)
    with tempfile.TemporaryDirectory(prefix="qdr-backends-") as scratch:
        entries = contenders("resnet50", bundle, Path(scratch) / "resnet50")
        entries += rivals(entries, Path(scratch))
        rounds = 3 if options.quick else options.rounds
        timings = measure(entries, options.threads, rounds, options.seconds)
        claims = []
        for backend in BACKENDS:
            if (rival := f"resnet50/{OWN_TOOL}/{backend}") in timings.rounds_ns:
                ratio = timings.ratio(f"resnet50/int8/{backend}", rival)
                what = f"ResNet-50 448 px, {backend}: scheme exact / its own tool"
                claims.append(Claim(what, ratio.value, MOST, False, ratio.low, ratio.high))
            else:
                console.print("[yellow]NNCF is not installed: `pip install nncf` adds it[/]")
            ours = next(e for e in entries if (e.variant, e.backend) == ("int8", backend))
            share = read_back(backend, ours.file.read_bytes()).int8_share
            claims.append(Claim(f"{backend}: share of MACs in int8", share, INT8_SHARE, True))
    table = Table(title="Scheme exact beside the runtime's own tool", title_justify="left")
    for column in ("", "value", "95 % interval", "target", "verdict"):
        table.add_column(column, justify="right" if column else "left")
    for key in timings.rounds_ns:
        table.add_row(key, f"{timings.median_ms(key):.2f} ms", "", "", "", style="dim")
    for claim in claims:
        low, high = claim.low, claim.high
        interval = "" if low is None or high is None else f"{low:.3f} – {high:.3f}"
        target = f"{'≥' if claim.at_least else '≤'} {claim.target:g}"
        verdict = "" if options.quick else "PASS" if claim.holds else "FAIL"
        table.add_row(claim.what, f"{claim.value:.3f}", interval, target, verdict)
    console.print(table)
    if options.report:
        content = {
            "format": "qdr-backends",
            "schema_version": 1,
            "threads": options.threads,
            "quick": options.quick,
            "environment": environment(tree).to_dict(),
            "state": {"before": asdict(before), "after": asdict(machine_state(tree))},
            "claims": [{**asdict(claim), "holds": claim.holds} for claim in claims],
            "timings": asdict(timings),
        }
        atomic_write(options.report, json.dumps(content, indent=1) + "\n")
        console.print(f"saved {options.report}")
    return 0 if options.quick or all(claim.holds for claim in claims) else 1


if __name__ == "__main__":
    run_script(main)
