"""libqdr's pixels by themselves, compiled and called; and pictures that ask something of them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from qdr_edge.gate import FEATURES
from qdr_edge.preprocess import PreprocessSpec

FIRMWARE = Path(__file__).parents[1] / "export" / "firmware"
SOURCES = sorted((FIRMWARE / "src" / "pixels").glob("*.c"))
WARNINGS = [
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Wpedantic",
    "-Wstrict-prototypes",
    "-Wcast-qual",
]
MODALITIES = {"fundus": 1, "oct": 2}
Pixels = NDArray[np.uint8]


class Spec(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "modality",
            "version",
            "size",
            "window_low",
            "window_high",
            "clahe_clip_x100",
            "clahe_tiles",
            "median_kernel",
        )
    ]


class Image(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("stride", ctypes.c_size_t),
        ("channels", ctypes.c_uint32),
        ("orientation", ctypes.c_uint32),
    ]


Ends = ctypes.c_double * len(FEATURES)


class Limits(ctypes.Structure):
    _fields_ = [("low", Ends), ("high", Ends)]


class Result(ctypes.Structure):
    _fields_ = [
        ("outcome", ctypes.c_int),
        ("reason", ctypes.c_char_p),
        ("feature", ctypes.c_int),
        ("value", ctypes.c_double),
        ("bound", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("features", Ends),
    ]


class View(ctypes.Structure):
    """qdr_pixel_view of pixels_internal.h."""

    _fields_ = [
        ("origin", ctypes.c_void_p),
        ("row", ctypes.c_ssize_t),
        ("step", ctypes.c_ssize_t),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
    ]


class Box(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("top", "bottom", "left", "right")]


def compile_c(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: libqdr's pixels are not compared with Python's")
    command = [compiler, *arguments, f"-I{FIRMWARE / 'include'}", "-o", str(output), "-lm"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def build(output: Path, *flags: str) -> ctypes.CDLL:
    built = compile_c(output, *flags, "-fPIC", "-shared", *map(str, SOURCES))
    assert built.returncode == 0, built.stderr
    library = ctypes.CDLL(str(output))
    library.qdr_pixels_scratch_bytes.restype = ctypes.c_size_t
    library.qdr_gate_scratch_bytes.restype = ctypes.c_size_t
    library.qdr_white_frame.restype = Box
    return library


def compiled(folder: Path) -> ctypes.CDLL:
    """The library as the other tests of it take it: every warning an error."""
    return build(folder / "libpixels.so", *WARNINGS, "-O2", "-ffp-contract=off")


def native_spec(spec: PreprocessSpec) -> Spec:
    return Spec(
        MODALITIES[spec.modality],
        spec.version,
        spec.size,
        spec.window_low,
        spec.window_high,
        spec.clahe_clip_x100,
        spec.clahe_tiles,
        spec.median_kernel,
    )


def address(values: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def native_status(
    library: ctypes.CDLL, picture: Pixels, spec: PreprocessSpec
) -> tuple[int, Pixels]:
    picture = np.ascontiguousarray(picture)
    height, width = picture.shape[:2]
    channels = 1 if picture.ndim == 2 else 3
    image = Image(picture.ctypes.data, width, height, width * channels, channels, 1)
    contract = native_spec(spec)
    size = library.qdr_pixels_scratch_bytes(ctypes.byref(contract), width, height)
    scratch = np.full(size, 0xA5, np.uint8)
    out = np.full((3, spec.size, spec.size), 0x5A, np.uint8)
    status = library.qdr_pixels_prepare(
        ctypes.byref(contract),
        ctypes.byref(image),
        address(scratch),
        ctypes.c_size_t(size),
        address(out),
    )
    return status, out


def native(library: ctypes.CDLL, picture: Pixels, spec: PreprocessSpec) -> Pixels:
    status, out = native_status(library, picture, spec)
    assert status == 0
    return out


def disc(rng: np.random.Generator, height: int, width: int, noise: float) -> Pixels:
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, 2) * (height, width)
    radius = min(height, width) * rng.uniform(0.2, 0.6)
    picture = np.zeros((height, width, 3)) + rng.integers(0, 20)
    picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = rng.integers(20, 256, 3)
    picture += rng.normal(0, noise, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def draw(kind: str, seed: int, height: int, width: int) -> Pixels:
    """A picture that asks something of the code: edges, noise, frames, even tones."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "saturated":
        return rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    if kind == "even":
        return np.zeros((height, width, 3), np.uint8) + rng.integers(0, 256, 3, dtype=np.uint8)
    if kind == "gradient":
        y, x = np.mgrid[:height, :width]
        ramps = (x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width))
        return np.stack(ramps, axis=2).astype(np.uint8)
    picture = disc(rng, height, width, rng.uniform(0, 20))
    if kind == "framed":
        for side in range(4):
            line = np.rot90(picture, side)
            line[: rng.integers(0, height // 6 + 1)] = rng.integers(240, 256)
    if kind == "spots":
        for _ in range(6):
            y, x = rng.integers(0, height), rng.integers(0, width)
            picture[y : y + height // 8, x : x + width // 8] = rng.integers(0, 256, 3)
    return picture


KINDS = ("noise", "saturated", "even", "gradient", "disc", "framed", "spots")
SLOW = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
