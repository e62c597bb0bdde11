"""From a camera's JPEG to the network's input: ``python benchmarks/jpeg_path.py``.

Ours, in C, is what `examples/screen` does before the network: libjpeg decodes at the smallest DCT
scale that leaves both sides `decode_margin` (2) times the network's (2000 px: 1/4 for 224, 1/2
for 448); then `qdr_pixels_prepare`: white frame, field of view, area resize to S x S, and there
CLAHE on L of LAB (fundus) or gray and a median of 3 x 3 (OCT). It gives uint8 [3, S, S].

The other is the usual order of work, as published with the method, by OpenCV: decode in full
(`imdecode`), BGR to RGB, filter in full size (CLAHE on L of LAB, or a median of 3 x 3), float32 in
0..1, resize to S x S (bilinear), normalise to -1..1. It gives float32 [3, S, S]. It looks neither
for the field of view nor for a frame. Beside it the same without the filter, for who has filtered
the files beforehand; that row has no aim.

JPEG of 2000 x 2000 px, quality 90, 4:2:0 (OCT: gray), from the synthetic eyes. One thread on both
sides, in turns in one process, no process start and no reading of files inside. The time is the
thread's own processor time: a busy machine disturbs it little.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from input_pipeline import CAMERA_SIDE, photographs
from qdr_bench.built import run_script
from qdr_bench.machine.environment import environment
from qdr_bench.machine.tree import ProcTree
from qdr_bench.statistics import paired_ratio
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write
from qdr_edge.preprocess import PreprocessSpec, load_image

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parent / "export" / "firmware"
AIM = 3.0
MODALITIES = {"fundus": 1, "oct": 2}
OURS, OTHERS = "libqdr", ("whole order", "files filtered before")


class Decoded(ctypes.Structure):
    """`decoded` of examples/decode.h: room that stays from picture to picture, as in a device."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


def build(folder: Path) -> ctypes.CDLL:
    """The examples' decoder and libqdr's preprocessing, with the flags of CMakeLists.txt."""
    flags = ["-std=c11", "-ffp-contract=off", "-fPIC", "-w"]
    include = [f"-I{FIRMWARE / name}" for name in ("include", "src", "examples")]
    pixels = [FIRMWARE / "src" / "status.c", *sorted((FIRMWARE / "src" / "pixels").glob("*.c"))]
    parts = {"-O2": [HERE / "jpeg_path.c", FIRMWARE / "examples" / "decode.c"], "-O3": pixels}
    objects = []
    target = folder / "jpeg_path.so"
    try:
        for level, sources in parts.items():
            for source in sources:
                objects.append(folder / f"{source.stem}.o")
                command = ["cc", *flags, level, *include, "-c", source, "-o", objects[-1]]
                subprocess.run(command, check=True)
        command = ["cc", "-shared", *objects, "-ljpeg", "-lpng", "-lm", "-o", target]
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(
            "libqdr's JPEG path cannot be compiled", expected="a C compiler, libjpeg and libpng",
            fix="apt install gcc libjpeg-dev libpng-dev",
        ) from error  # fmt: skip
    library = ctypes.CDLL(str(target))
    library.qdr_pixels_scratch_bytes.restype = ctypes.c_size_t
    return library


def ours(library: ctypes.CDLL, spec: PreprocessSpec) -> Callable[[bytes], NDArray[np.uint8]]:
    """A call that prepares one JPEG in memory that was taken beforehand."""
    numbers = (
        MODALITIES[spec.modality], spec.version, spec.size, spec.window_low, spec.window_high,
        spec.clahe_clip_x100, spec.clahe_tiles, spec.median_kernel,
    )  # fmt: skip
    contract = (ctypes.c_uint32 * len(numbers))(*numbers)
    needed = library.qdr_pixels_scratch_bytes(contract, CAMERA_SIDE, CAMERA_SIDE)
    scratch = np.zeros(needed, np.uint8)
    pixels = np.zeros((3, spec.size, spec.size), np.uint8)
    room = Decoded()

    def prepare(content: bytes) -> NDArray[np.uint8]:
        status = library.jpeg_path(
            ctypes.byref(room), contract, spec.decode_margin, content,
            ctypes.c_size_t(len(content)), ctypes.c_void_p(scratch.ctypes.data),
            ctypes.c_size_t(needed), ctypes.c_void_p(pixels.ctypes.data),
        )  # fmt: skip
        if status:
            raise BenchmarkError(f"libqdr answers status {status}", expected="0")
        return pixels

    return prepare


def usual(spec: PreprocessSpec, *, filtered: bool) -> Callable[[bytes], NDArray[np.float32]]:
    """The other order; `filtered` leaves the filter out."""
    clahe = cv2.createCLAHE(2.0, (8, 8))

    def prepare(content: bytes) -> NDArray[np.float32]:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        if not filtered and spec.modality == "fundus":
            lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
            lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
            rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        elif not filtered:
            rgb = cv2.medianBlur(rgb, 3)
        image = rgb.astype(np.float32)
        image *= 1 / 255
        image = cv2.resize(image, (spec.size, spec.size), interpolation=cv2.INTER_LINEAR)
        image -= 0.5
        image /= 0.5
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    return prepare


def spent(prepare: Callable[[bytes], object], contents: list[bytes]) -> float:
    """Processor time of one picture, ns: the mean over all."""
    start = time.thread_time_ns()
    for content in contents:
        prepare(content)
    return (time.thread_time_ns() - start) / len(contents)


def compared(
    library: ctypes.CDLL, contents: list[bytes], spec: PreprocessSpec, rounds: int
) -> dict[str, list[float]]:
    """Processor time of one picture of each round, ns, of each side; in turns, whoever begins."""
    sides: dict[str, Callable[[bytes], object]] = {
        OURS: ours(library, spec),
        OTHERS[0]: usual(spec, filtered=False),
        OTHERS[1]: usual(spec, filtered=True),
    }
    for prepare in sides.values():
        spent(prepare, contents)  # warm-up
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side in [*list(sides)[turn:], *list(sides)[:turn]]:
            times[side].append(spent(sides[side], contents))
    return times


def main() -> int:
    """Measure, print; return 1 if the aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4, help="of each modality")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    table = Table(title=f"a JPEG of {CAMERA_SIDE} px, 1 thread", title_justify="left")
    for column in ("", "libqdr", "OpenCV, float", "times faster [95 %]", "aim", ""):
        table.add_column(column)
    missed, is_equal, rows = 0, True, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build(folder)
        for modality in MODALITIES:
            samples = photographs(folder, modality, options.pictures)
            contents = [sample.file.read_bytes() for sample in samples]
            for size in (224, 448):
                spec = PreprocessSpec(modality, size)
                prepare = ours(library, spec)
                for content in contents:
                    is_equal &= np.array_equal(prepare(content), load_image(content, spec))
                times = compared(library, contents, spec, options.rounds)
                for other in OTHERS:
                    ratio = paired_ratio(times[other], times[OURS])
                    if ratio is None:
                        raise BenchmarkError("no rounds", expected="--rounds 1 or more")
                    has_aim, holds = other == OTHERS[0], ratio.value >= AIM
                    missed += has_aim and not holds
                    rows.append(
                        {"modality": modality, "size": size, "other": other,
                         **ratio.to_dict(), "times_ns": [times[OURS], times[other]]}
                    )  # fmt: skip
                    table.add_row(
                        f"{modality}, {size} px, {other}",
                        f"{np.median(times[OURS]) / 1e6:.1f} ms",
                        f"{np.median(times[other]) / 1e6:.1f} ms",
                        f"{ratio.value:.1f} [{ratio.low:.1f}, {ratio.high:.1f}]",
                        f"≥ {AIM:g}" if has_aim else "–",
                        ("PASS" if holds else "FAIL") if has_aim else "",
                    )
    Console(width=120).print(table)
    print(f"libqdr's bytes {'equal' if is_equal else 'DIFFER FROM'} those of qdr-edge's Python")
    if options.report:
        report = {
            "rows": rows, "equal_to_python": is_equal,
            "environment": environment(ProcTree()).to_dict(),
        }  # fmt: skip
        atomic_write(options.report, json.dumps(report, indent=1))
    return int(missed > 0 or not is_equal)


if __name__ == "__main__":
    run_script(main)
