"""One bundle on many processors: ``python benchmarks/isa_certificate.py``.

libqdr computes the logits of a bundle's golden images as every processor that an emulator here can
be; ONNX Runtime does the same where it runs. Each is held against the integer reference: identical,
or how many steps from it. A step is the largest reference logit / 127. Under `exact` weights are
narrow, so that no processor's products saturate; under `exact-wide` they are not. Returns 1 if
libqdr differs anywhere.

Emulators: QEMU's user mode; Bochs for AVX-512 and AVX-VNNI, which QEMU has not. What is missing
here is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, build, prepare, run_script
from qdr_edge.bundle import Bundle, read_bundle
from qdr_edge.files import atomic_write
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_export.reference import Reference
from qdr_export.sealing.seal import CANONICAL_ENTRY

FIRMWARE = ROOT / "export" / "firmware"
PROGRAMS = ROOT / "benchmarks" / "isa"
HARNESS = FIRMWARE / "tests" / "bochs"
SCHEMES = ("exact", "exact-wide")
# The test's own writer of what it reads.
packed = runpy.run_path(str(HARNESS / "cases.py"))["packed"]
TARGETS = ("native", "ort-x86", "ort-arm64")
X86 = ("Nehalem", "Haswell", "Skylake-Server", "EPYC", "max")
ARM = {
    "cortex-a53": "armv8-a",
    "cortex-a72": "armv8-a",
    "cortex-a76": "armv8.2-a+dotprod",
    "neoverse-n1": "armv8.2-a+dotprod",
    "max": "armv8.2-a+dotprod+i8mm",
}
BOCHS = {"tigerlake": "AVX-512 VNNI", "arrow_lake": "AVX-VNNI"}
EXACT = ("session.x64quantprecision", "1")
ARM_CC = "aarch64-linux-gnu-gcc"
LIMIT_S = 400


@dataclass(frozen=True)
class Cell:
    """One program on one processor."""

    scheme: str
    processor: str
    emulator: str
    program: str
    kernels: str = ""
    images: int = 0
    equal: int = 0
    steps: float = 0.0
    problem: str = ""

    @property
    def text(self) -> str:
        """What the table says."""
        if self.problem:
            return self.problem
        same = self.equal == self.images
        return "identical" if same else f"{self.equal} of {self.images}, {self.steps:.2f} steps"


@dataclass(frozen=True)
class Given:
    """What every program is asked, as files, and what it must answer."""

    folder: Path
    scheme: str
    bundle: Bundle
    pixels: NDArray[np.uint8]
    expected: NDArray[np.float32]

    def artefact(self, target: str) -> Path:
        """A target's artefact as a file."""
        path = self.folder / target
        path.write_bytes(self.bundle.entries[self.bundle.manifest.artefacts[target].entry])
        return path

    def compared(self, logits: bytes, processor: str, emulator: str, program: str,
                 kernels: str = "") -> Cell:  # fmt: skip
        """The logits of a run beside the reference's."""
        found = np.frombuffer(logits, np.float32)
        if found.size != self.expected.size:
            problem = f"{found.size} logits, not {self.expected.size}"
            return Cell(self.scheme, processor, emulator, program, kernels, problem=problem)
        found = found.reshape(self.expected.shape)
        step = float(np.abs(self.expected).max()) / 127
        steps = float(np.abs(found - self.expected).max()) / step if step else 0.0
        equal = int((found == self.expected).all(axis=1).sum())
        return Cell(self.scheme, processor, emulator, program, kernels, len(found), equal, steps)


def main() -> int:
    """Build, run, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "isa", help="cache folder")
    parser.add_argument("--recipe", default="student-latency")
    parser.add_argument("--quick", action="store_true", help="the same network at 64 px")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--images", type=int, default=4, help="golden images at most")
    parser.add_argument("--qemu-x86", default="qemu-x86_64")
    parser.add_argument("--qemu-arm", default="qemu-aarch64", help="7.2 ends in ONNX Runtime")
    parser.add_argument("--bochs", nargs="*", default=["bochs"], help="one or more versions")
    parser.add_argument("--header", type=Path, default=FIRMWARE / "vendor" / "onnxruntime",
                        help="folder of onnxruntime_c_api.h")  # fmt: skip
    parser.add_argument("--ort-arm", type=Path, help="libonnxruntime.so of an aarch64 wheel")
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    folder = options.build.resolve()
    data = prepare(folder)
    size = ("size=64",) if options.quick else ()
    cells = []
    for scheme in options.schemes:
        name = f"{'quick' if options.quick else options.recipe}-{scheme}"
        path = build(options.recipe, folder, data, name=name,
                     settings=(*size, f"scheme={scheme}"), targets=TARGETS)  # fmt: skip
        with tempfile.TemporaryDirectory() as temporary:
            given = _given(Path(temporary), scheme, read_bundle(path), options.images)
            for cell in _cells(given, options):
                print(f"{scheme}, {cell.processor} ({cell.emulator}), {cell.program}: {cell.text}",
                      flush=True)  # fmt: skip
                cells.append(cell)
    show(cells, Console(width=120))
    if options.report:
        document = {"recipe": options.recipe, "size": int(given.pixels.shape[-1]),
                    "cells": [{**asdict(cell), "text": cell.text} for cell in cells]}  # fmt: skip
        atomic_write(options.report, json.dumps(document, indent=1) + "\n")
        print(f"saved {options.report}")
    ran = [cell for cell in cells if cell.program == "libqdr" and cell.images]
    return 0 if ran and all(cell.equal == cell.images for cell in ran) else 1


def _given(folder: Path, scheme: str, bundle: Bundle, images: int) -> Given:
    manifest = bundle.manifest
    spec = PreprocessSpec.from_dict(dict(manifest.preprocess.spec))
    known = [vector for vector in manifest.golden if vector.logits][:images]
    stacked = np.stack([load_image(bundle.entries[vector.image], spec) for vector in known])
    (folder / "pixels").write_bytes(stacked.tobytes())
    expected = Reference(bundle.entries[CANONICAL_ENTRY]).infer(stacked).astype(np.float32)
    return Given(folder, scheme, bundle, stacked, expected)


def _cells(given: Given, options: argparse.Namespace) -> Iterator[Cell]:
    """Every processor and program in turn."""
    header = options.header if (options.header / "onnxruntime_c_api.h").is_file() else None
    native = _native(given.folder / "native-x86", "cc", [])
    ort = _ort(given.folder / "ort-x86-program", "cc", header)
    library = _installed_library()
    plan = given.artefact("native")
    model = given.artefact("ort-x86")
    for cpu in ("", *X86):
        run = [options.qemu_x86, "-cpu", cpu] if cpu else []
        where = (cpu or "this machine", _version(options.qemu_x86) if cpu else "none")
        yield _run(given, where, "libqdr", [*run, native, plan, given.folder / "pixels"])
        for program, entries in (("ONNX Runtime", ()), ("ONNX Runtime, exact", EXACT)):
            yield _run_ort(given, where, program, run, ort, library, model, entries)
    for cpu, march in ARM.items():
        where = (cpu, _version(options.qemu_arm))
        if shutil.which(ARM_CC) is None or shutil.which(options.qemu_arm) is None:
            yield Cell(
                given.scheme, *where, "libqdr", problem=f"not run: {ARM_CC} or QEMU is missing"
            )
            continue
        run = [options.qemu_arm, "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu]
        native = _native(given.folder / f"native-{cpu}", ARM_CC, [f"-march={march}"])
        yield _run(given, where, "libqdr", [*run, native, plan, given.folder / "pixels"])
        arm = _ort(given.folder / "ort-arm-program", ARM_CC, header)
        model = given.artefact("ort-arm64")
        yield _run_ort(given, where, "ONNX Runtime", run, arm, options.ort_arm, model, ())
    for cpu, kernels in BOCHS.items():
        yield _bochs(given, cpu, kernels, options.bochs)


def _native(program: Path, compiler: str, flags: Sequence[str]) -> Path:
    """libqdr's network runner, compiled for a processor."""
    source = FIRMWARE / "src"
    sources = [*source.glob("plan/*.c"), *source.glob("kernels/*.c"), source / "status.c"]
    command = [compiler, "-std=c11", "-O2", "-static", "-ffp-contract=off", *flags,
               "-I", FIRMWARE / "include", "-I", source,
               PROGRAMS / "native_logits.c", *sources, "-o", program]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True)
    return program


def _ort(program: Path, compiler: str, header: Path | None) -> Path | None:
    """ONNX Runtime's runner; None without its header."""
    if header is None:
        return None
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-I", header,
               PROGRAMS / "ort_logits.c", "-o", program, "-ldl"]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True)
    return program


def _installed_library() -> Path | None:
    """The library inside the installed onnxruntime package."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so*"))), None)


def _run_ort(given: Given, where: tuple[str, str], program: str, run: Sequence[object],
             binary: Path | None, library: Path | None, model: Path,
             entries: Sequence[str]) -> Cell:  # fmt: skip
    if binary is None or library is None:
        missing = "onnxruntime_c_api.h" if binary is None else "libonnxruntime.so"
        return Cell(given.scheme, *where, program, problem=f"not run: no {missing}")
    side = given.pixels.shape[-1]
    command = [*run, binary, library, model, given.folder / "pixels", side, *entries]
    return _run(given, where, program, command)


def _run(given: Given, where: tuple[str, str], program: str, command: Sequence[object]) -> Cell:
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, timeout=LIMIT_S, check=False
        )
    except FileNotFoundError:
        return Cell(given.scheme, *where, program, problem=f"not run: no {command[0]}")
    except subprocess.TimeoutExpired:
        return Cell(given.scheme, *where, program, problem=f"no answer in {LIMIT_S} s")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        why = f"signal {-done.returncode}" if done.returncode < 0 else said[-1] if said else "?"
        return Cell(given.scheme, *where, program, problem=f"crashed: {why}")
    kernels = said[-1] if program == "libqdr" and said else ""
    return given.compared(done.stdout, *where, program, kernels)


def _bochs(given: Given, cpu: str, kernels: str, versions: Sequence[str]) -> Cell:
    """libqdr without an operating system: it compares by itself and says so."""
    for version in versions:
        if shutil.which(version) is None:
            continue
        known = subprocess.run([version, "--help", "cpu"], capture_output=True, check=False)
        about = (known.stdout + known.stderr).decode(errors="replace")
        if cpu not in about.split():
            continue
        emulator = next((line.strip() for line in about.splitlines() if "Emulator" in line), "?")
        emulator = emulator.replace(" x86 Emulator", "")
        plan = given.bundle.entries[given.bundle.manifest.artefacts["native"].entry]
        cases = given.folder / "cases.bin"
        # One image: Bochs takes minutes for each, and plain C's tensors are computed there too.
        one = (plan, given.pixels[:1].tobytes(), given.expected[:1].tobytes())
        cases.write_bytes(packed([one]))
        done = subprocess.run(
            ["make", "-s", "-C", str(HARNESS), "run", f"CPU={cpu}", f"BOCHS={version}",
             f"OUT={given.folder / cpu}", f"CASES={cases}", f"LIMIT={LIMIT_S}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if f"{kernels}: equal, cases 1, images 1" in done.stdout.splitlines():
            return Cell(given.scheme, cpu, emulator, "libqdr", kernels, 1, 1)
        said = (done.stdout or done.stderr).strip().splitlines()[-1:]
        return Cell(given.scheme, cpu, emulator, "libqdr", kernels, problem=f"not finished: {said}")
    return Cell(
        given.scheme, cpu, "Bochs", "libqdr", kernels, problem="not run: no Bochs that has it"
    )


def _version(emulator: str) -> str:
    found = shutil.which(emulator)
    if found is None:
        return emulator
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    words = said.split()
    return f"QEMU {words[2]}" if len(words) > 2 else emulator


def show(cells: Sequence[Cell], console: Console) -> None:
    """Print one line a processor."""
    programs = ("libqdr", "ONNX Runtime", "ONNX Runtime, exact")
    table = Table(title="Against the integer reference", title_justify="left")
    for title in ("scheme", "processor", "emulator", "libqdr's kernels", *programs):
        table.add_column(title)
    rows: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        row = rows.setdefault((cell.scheme, cell.processor, cell.emulator), {})
        row[cell.program] = cell
    for where, row in rows.items():
        kernels = next((cell.kernels for cell in row.values() if cell.kernels), "")
        texts = [row[name].text if name in row else "-" for name in programs]
        table.add_row(*where, kernels, *texts)
    console.print(table)


if __name__ == "__main__":
    run_script(main)
