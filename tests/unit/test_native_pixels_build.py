"""libqdr's own test of its pixels in C, and the builds that it refuses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qdr_edge.preprocess import PreprocessSpec, preprocess
from tests.native_pixels import (
    FIRMWARE,
    SOURCES,
    WARNINGS,
    Pixels,
    build,
    compile_c,
    draw,
    native,
    native_status,
)


def ellipse(width: int, height: int, seed: int) -> Pixels:
    """The picture that `draw` of test_pixels.c draws."""
    powers = np.cumprod(np.full(width * height * 3, 1664525, np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([[1], powers[:-1]]).astype(np.uint32), dtype=np.uint32)
    state = powers * np.uint32(seed) + sums * np.uint32(1013904223)
    noise = (state >> 27).astype(np.int64).reshape(height, width, 3)
    y, x = np.mgrid[:height, :width]
    across, down = 2 * x + 1 - width, 2 * y + 1 - height
    weighed = across**2 * height**2 + down**2 * width**2
    inside = 10 * weighed < 9 * height**2 * width**2
    ground = 160 - 50 * np.arange(3) + (60 * x // width)[..., None]
    return np.where(inside[..., None], ground + noise, noise // 8).astype(np.uint8)


def fnv_1a(content: bytes) -> int:
    state = 2166136261
    for byte in content:
        state = (state ^ byte) * 16777619 & 0xFFFFFFFF
    return state


def golden_hashes() -> list[tuple[int, ...]]:
    text = (FIRMWARE / "tests" / "pixels" / "test_pixels.c").read_text()
    table = text[text.index("/* golden hashes */") : text.index("/* end */")]
    rows = re.findall(r"\{(\d), (\d+), (\d+), (\d+), (0x\w+)u\}", table)
    return [tuple(int(word, 0) for word in row) for row in rows]


@pytest.mark.parametrize("row", golden_hashes(), ids=lambda row: "-".join(map(str, row[:4])))
def test_the_hashes_in_the_test_in_c_are_those_of_python(row: tuple[int, ...]) -> None:
    is_oct, size, width, height, expected = row
    spec = PreprocessSpec("oct" if is_oct else "fundus", size)
    content = preprocess(ellipse(width, height, size), spec).tobytes()
    assert f"{fnv_1a(content):#010x}" == f"{expected:#010x}"


@pytest.mark.full
def test_the_test_in_c_passes_without_optimization(tmp_path: Path) -> None:
    program = tmp_path / "test_pixels"
    sources = [FIRMWARE / "tests" / "pixels" / "test_pixels.c", *SOURCES]
    built = compile_c(program, *WARNINGS, "-O0", *map(str, sources))
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_build_with_fast_arithmetic_is_refused(tmp_path: Path) -> None:
    built = compile_c(tmp_path / "fast.o", "-O2", "-ffast-math", "-c", str(SOURCES[0]))
    assert built.returncode != 0
    assert "-ffast-math" in built.stderr


def _has_fma() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and " fma " in info.read_text()


@pytest.mark.full
@pytest.mark.skipif(not _has_fma(), reason="no x86 processor with FMA")
def test_a_build_that_fuses_products_and_sums_refuses_to_run(tmp_path: Path) -> None:
    spec, picture = PreprocessSpec("oct", 64), draw("noise", 1, 200, 210)
    fused = build(tmp_path / "fused.so", "-O2", "-mfma", "-ffp-contract=fast")
    assert native_status(fused, picture, spec)[0] == 5  # QDR_UNSUPPORTED
    apart = build(tmp_path / "apart.so", "-O2", "-mfma", "-ffp-contract=off")
    assert np.array_equal(native(apart, picture, spec), preprocess(picture, spec))
