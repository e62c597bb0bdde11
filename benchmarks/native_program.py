"""A C program on libqdr beside the same on ONNX Runtime: ``python benchmarks/native_program.py``.

Builds `export/firmware/examples/measure.c` and runs it again and again, a process for each target
in turn: the same program, network and photograph, once by libqdr's own kernels and once by ONNX
Runtime's and OpenVINO's C libraries. Each is given a bundle that carries its target alone, as a
device is; all are cut from one export. Prints ratios of paired runs with 95 % intervals against
what was aimed at, and returns 1 if one is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, RUN_HERE, build, prepare, run_script
from qdr_bench.machine.environment import environment
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import paired_ratio
from qdr_edge.bundle import Bundle, read_bundle, write_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write
from qdr_edge.keys import SigningKey, development_key, trust

RECIPES = ("student-latency", "resnet50-latency")
BASELINE = "ort-x86"
TARGETS = ("native", BASELINE, "openvino")
# Where the engines' Python packages keep their C libraries: package, file, variable.
LIBRARIES = (
    ("onnxruntime", "capi/libonnxruntime.so.*", "QDR_ONNXRUNTIME_LIBRARY"),
    ("openvino", "libs/libopenvino_c.so*", "QDR_OPENVINO_LIBRARY"),
)
# What is compared, the unit, and the largest ratio to ONNX Runtime's that was aimed at.
FIGURES: Mapping[str, tuple[str, str, float | None]] = {
    "start": ("process start to first decision", "ms", None),
    "first": ("open to first decision*", "ms", 0.1),
    "open": ("… of that: opening the artefact", "ms", None),
    "peak": ("peak RSS", "MB", 0.45),
    "infer": ("one inference", "ms", None),
}
LATENCY = {"student-latency": 0.9, "resnet50-latency": 1.05}


def main() -> int:
    """Measure, print; return 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="cache folder")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--inferences", type=int, default=50, help="in each process")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    folder = options.build.resolve()
    data = prepare(folder)
    whole = read_bundle(build(options.recipe, folder, data, targets=RUN_HERE))
    libraries = vendors()
    targets = [t for t in TARGETS if t != "openvino" or "QDR_OPENVINO_LIBRARY" in libraries]
    program = compiled(folder / "measure", with_openvino="openvino" in targets)
    image = photograph(data)
    signing = development_key().key
    key = trust(signing.public)
    paths = {target: alone(whole, target, folder, signing) for target in targets}
    runs: dict[str, list[dict[str, float]]] = {target: [] for target in targets}
    for _ in range(options.rounds):
        for target in targets:
            command = (program, paths[target], key, image, target)
            words = [*map(str, command), str(options.inferences)]
            runs[target].append(measured(words, libraries))
    ratios = shown(options.recipe, runs)
    if options.report:
        content = {
            "recipe": options.recipe, "ratios": ratios, "runs": runs,
            "environment": environment(ProcTree()).to_dict(),
        }  # fmt: skip
        atomic_write(options.report, json.dumps(content, indent=1))
    return int(any(ratio["verdict"] == "MISS" for ratio in ratios))


def measured(command: list[str], libraries: Mapping[str, str]) -> dict[str, float]:
    """One process: milliseconds, and MB."""
    start = time.monotonic_ns()  # the clock that the program prints
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **libraries}
    )
    if done.returncode != 0:
        raise BenchmarkError(
            f"the program failed: {done.stderr.strip()}",
            where=" ".join(command),
            expected="a decision and a self-test that holds",
            fix="run the command by itself",
        )
    seen = json.loads(done.stdout)
    return {
        "start": (seen["decided_ns"] - start) / 1e6,
        "first": (seen["open_ns"] + seen["first_ns"]) / 1e6,
        "open": seen["open_ns"] / 1e6,
        "peak": seen["peak_kb"] / 1024,
        "infer": float(np.median(seen["infer_ns"])) / 1e6,
    }


def shown(recipe: str, runs: Mapping[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    """Print the table; return its ratios."""
    table = Table(title=f"{recipe}, one program, 1 thread", title_justify="left")
    for column in ("", "native", "other", "native / other [95 %]", "aim", ""):
        table.add_column(column)
    ratios: list[dict[str, object]] = []
    for figure, (words, unit, limit) in FIGURES.items():
        values = {t: [run[figure] for run in each] for t, each in runs.items()}
        for other in list(runs)[1:]:
            ratio = paired_ratio(values["native"], values[other], seed=0)
            if ratio is None:
                raise BenchmarkError("too few rounds", expected="--rounds 2 or more")
            aim = LATENCY[recipe] if figure == "infer" else limit
            aim = aim if other == BASELINE else None
            verdict = "" if aim is None else "PASS" if ratio.value <= aim else "MISS"
            ratios.append(
                {"what": figure, "other": other, "aim": aim, "verdict": verdict, **ratio.to_dict()}
            )
            table.add_row(
                f"{words}, {other}",
                f"{np.median(values['native']):.2f} {unit}",
                f"{np.median(values[other]):.2f} {unit}",
                f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
                "–" if aim is None else f"≤ {aim:g}",
                verdict,
            )
    console = Console(width=120)
    console.print(table)
    console.print("* from a verified bundle, a loaded runtime and a decoded photograph")
    return ratios


def vendors() -> dict[str, str]:
    """The runtimes' C libraries, by the variable that names them to an engine."""
    found = {}
    for package, pattern, variable in LIBRARIES:
        spec = importlib.util.find_spec(package)
        files = sorted(Path(spec.origin or "").parent.glob(pattern)) if spec is not None else []
        if files:
            found[variable] = str(files[0])
    if "QDR_ONNXRUNTIME_LIBRARY" not in found:
        raise BenchmarkError(
            "ONNX Runtime's C library is not here",
            expected="libonnxruntime.so in the package onnxruntime",
            fix="pip install onnxruntime",
        )
    return found


def compiled(folder: Path, *, with_openvino: bool) -> Path:
    """The program, built as firmware would be."""
    if shutil.which("cmake") is None or shutil.which("cc") is None:
        raise BenchmarkError(
            "cmake or a C compiler is missing", expected="both", fix="apt install cmake gcc"
        )
    spec = importlib.util.find_spec("openvino") if with_openvino else None
    headers = Path(spec.origin or "").parent / "include" if spec is not None else None
    settings = [] if headers is None else [f"-DQDR_OPENVINO_INCLUDE={headers}"]
    for command in (
        ["cmake", "-S", str(ROOT / "export" / "firmware"), "-B", str(folder),
         "-DBUILD_TESTING=OFF", f"-DQDR_OPENVINO={'ON' if headers else 'OFF'}", *settings],
        ["cmake", "--build", str(folder)],
    ):  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    program = folder / "examples" / "measure"
    if not program.is_file():
        raise BenchmarkError(
            "the examples were not built",
            expected="libjpeg and libpng with their headers",
            fix="apt install libjpeg-dev libpng-dev",
        )
    return program


def photograph(data: Path) -> Path:
    """One of the photographs that the bundle was proven on: the gate accepts it."""
    return sorted((data.parent / "fundus").glob("*.jpg"))[0]


def alone(whole: Bundle, target: str, folder: Path, key: SigningKey) -> Path:
    """A bundle of one of another's targets."""
    manifest = whole.manifest
    artefact = manifest.artefacts[target]
    others = {each.entry for each in manifest.artefacts.values()} - {artefact.entry}
    golden = tuple(
        vector.model_copy(
            update={"logits": {t: v for t, v in vector.logits.items() if t == target}}
        )
        for vector in manifest.golden
    )
    changed = manifest.model_copy(update={"artefacts": {target: artefact}, "golden": golden})
    path = folder / f"measure-{target}.qdr"
    kept = {name: raw for name, raw in whole.entries.items() if name not in others}
    write_bundle(path, changed, kept, key)
    return path


if __name__ == "__main__":
    run_script(main)
