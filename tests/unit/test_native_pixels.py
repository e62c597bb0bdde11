"""libqdr's preprocessing and gate in C give the bytes and the figures of Python's."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qdr_edge.decision import Outcome
from qdr_edge.gate import FEATURES, GateLimits, GateResult, check, default_limits, measure
from qdr_edge.preprocess import PreprocessSpec, field_of_view, load_image, preprocess, white_frame

FIRMWARE = Path(__file__).parents[2] / "export" / "firmware"
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
OUTCOMES = {None: 0, Outcome.INVALID_INPUT: 1, Outcome.UNGRADABLE: 2}
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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("libqdr")
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
SPECS = st.builds(
    lambda modality, tiles, size, clip, kernel: PreprocessSpec(
        modality,
        max(-(-32 // tiles), size // tiles) * tiles,
        clahe_clip_x100=clip,
        clahe_tiles=tiles,
        median_kernel=kernel,
    ),
    modality=st.sampled_from(("fundus", "oct")),
    tiles=st.sampled_from((8, 8, 1, 3, 7, 16, 32)),
    size=st.sampled_from((32, 75, 96, 128, 224, 300, 448)),
    clip=st.sampled_from((200, 1, 57, 333, 10_000)),
    kernel=st.sampled_from((3, 5)),
)
SIDES = st.integers(32, 420) | st.sampled_from((32, 64, 96, 192, 224, 256, 257, 448, 512))
SLOW = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOW
@given(SPECS, st.sampled_from(KINDS), st.integers(0, 2**32 - 1), SIDES, SIDES, st.booleans())
def test_every_picture_becomes_the_same_bytes(
    library: ctypes.CDLL,
    spec: PreprocessSpec,
    kind: str,
    seed: int,
    height: int,
    width: int,
    is_gray: bool,
) -> None:
    picture = draw(kind, seed, height, width)
    if is_gray:
        picture = np.ascontiguousarray(picture[..., 0])
    assert np.array_equal(native(library, picture, spec), load_image(picture, spec))


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("height", [*range(32, 40), 448, 449, 672, 1100])
def test_whole_and_odd_ratios_become_the_same_bytes(
    library: ctypes.CDLL, modality: str, size: int, height: int
) -> None:
    # A ratio that is whole up to a rounding error goes another way than a whole one.
    spec = PreprocessSpec(modality, size)
    for width in (height, 2 * height, height * 49 // 48, 1400):
        picture = draw("disc", height, height, width)
        assert np.array_equal(native(library, picture, spec), preprocess(picture, spec))


def test_long_thin_pictures_become_the_same_bytes(library: ctypes.CDLL) -> None:
    for modality in MODALITIES:
        spec = PreprocessSpec(modality, 64)
        for shape in ((32, 6000), (6000, 32), (33, 257)):
            picture = draw("noise", 1, *shape)
            assert np.array_equal(native(library, picture, spec), preprocess(picture, spec))


@pytest.mark.parametrize("name", ["qdr_rgb_to_lab", "qdr_lab_to_rgb"])
def test_all_colours_convert_to_the_same_bytes(library: ctypes.CDLL, name: str) -> None:
    code = cv2.COLOR_RGB2LAB if name == "qdr_rgb_to_lab" else cv2.COLOR_LAB2RGB
    low = np.arange(1 << 16)
    for high in range(256):
        colours = np.stack([low & 255, low >> 8, np.full_like(low, high)]).astype(np.uint8)
        expected = cv2.cvtColor(np.ascontiguousarray(colours.T[None]), code)[0].T
        planes = [np.ascontiguousarray(plane) for plane in colours]
        getattr(library, name)(*map(address, planes), ctypes.c_size_t(low.size))
        assert np.array_equal(np.stack(planes), expected)


@SLOW
@given(st.integers(0, 2**32 - 1), st.integers(32, 150), st.integers(32, 150))
def test_white_frames_are_cut_at_the_same_lines(
    library: ctypes.CDLL, seed: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    gray = rng.integers(0, 256, (height, width), dtype=np.uint8)
    for _ in range(rng.integers(1, 8)):
        # Nested and broken frames: cutting rows makes columns white all along, and the reverse.
        top, left = rng.integers(0, height), rng.integers(0, width)
        value = rng.choice((244, 245, 255))
        if rng.random() < 0.5:
            gray[:top, left // 3 :] = value
        else:
            gray[top // 3 :, :left] = value
        gray = np.ascontiguousarray(np.rot90(gray, rng.integers(0, 4)))
    height, width = gray.shape
    box = library.qdr_white_frame(ctypes.byref(View(gray.ctypes.data, width, 1, width, height, 1)))
    assert (box.top, box.bottom, box.left, box.right) == white_frame(gray)


def test_means_that_end_in_a_half_are_rounded_alike(library: ctypes.CDLL) -> None:
    # 1 / (1 / 98) is not 98: such blocks are added up in single precision, others are not.
    for ratio in (2, 3, 96, 98):
        levels = np.random.default_rng(ratio).integers(0, 240, (32, 32))
        picture = np.repeat(np.repeat(levels, ratio, axis=0), ratio, axis=1)
        picture = (picture + np.arange(32 * ratio)[:, None] % 2).astype(np.uint8)
        spec = PreprocessSpec("oct", 32)
        assert np.array_equal(native(library, picture, spec), load_image(picture, spec))


@pytest.mark.parametrize(("side", "size"), [(36, 1024), (34, 512), (60, 1024)])
def test_weights_that_end_in_a_half_are_rounded_alike(
    library: ctypes.CDLL, side: int, size: int
) -> None:
    picture, spec = draw("noise", size, side, side), PreprocessSpec("oct", size)
    assert np.array_equal(native(library, picture, spec), preprocess(picture, spec))


@pytest.mark.parametrize("first", ["upper", "left"])
def test_of_equal_regions_the_same_one_counts(library: ctypes.CDLL, first: str) -> None:
    picture = np.zeros((240, 240, 3), np.uint8)
    picture[40:100, 130:190], picture[120:180, 40:100] = 200, 120
    if first == "left":
        picture = np.ascontiguousarray(picture.transpose(1, 0, 2))
    spec = PreprocessSpec("fundus", 64)
    assert field_of_view(picture) != (0, 240, 0, 240)
    assert np.array_equal(native(library, picture, spec), preprocess(picture, spec))


def test_discs_hardly_brighter_than_their_border_are_cut_alike(library: ctypes.CDLL) -> None:
    spec = PreprocessSpec("fundus", 64)
    for level in range(16):
        for dark in (0, 2):
            picture = np.full((200, 300, 3), dark, np.uint8)
            cv2.circle(picture, (140, 90), 60, (level + dark,) * 3, -1)
            assert np.array_equal(native(library, picture, spec), preprocess(picture, spec))


def test_the_windows_are_those_of_the_decoder(library: ctypes.CDLL) -> None:
    from qdr_edge.decode import _window

    values = np.arange(65536, dtype=np.uint16)
    for low, high in ((0, 65535), (0, 1), (100, 4095), (65534, 65535), (1000, 1999)):
        spec = PreprocessSpec("oct", 64, window_low=low, window_high=high)
        out = np.zeros(values.size, np.uint8)
        contract = native_spec(spec)
        status = library.qdr_pixels_window_u16(
            ctypes.byref(contract), address(values), ctypes.c_size_t(values.size), address(out)
        )
        assert status == 0
        assert np.array_equal(out, _window(values[None], spec, "")[0])


def scan(rng: np.random.Generator, side: int) -> Pixels:
    """Layers with speckle, perhaps with white wedges, perhaps cut off."""
    y, x = np.mgrid[:side, :side]
    level = rng.normal(0, rng.uniform(0, 20), (side, side))
    for _ in range(rng.integers(1, 7)):
        centre = side * (rng.uniform(0.2, 0.8) + 0.05 * np.sin(x / side * rng.uniform(0, 6)))
        level += rng.uniform(20, 150) * np.exp(-(((y - centre) / (side * 0.04)) ** 2))
    wedge = side * rng.uniform(-0.3, 0.3)
    level[y < wedge - x * rng.uniform(-0.5, 0.5)] = 255
    level[y > side - wedge + x * rng.uniform(-0.5, 0.5)] = 255
    level[: max(0, int(side * rng.uniform(-0.4, 0.4)))] = 0
    return np.repeat(np.clip(level, 0, 255).astype(np.uint8)[None], 3, axis=0)


def gate(library: ctypes.CDLL, pixels: Pixels, modality: str, of: GateLimits) -> Result:
    size = pixels.shape[1]
    needed = library.qdr_gate_scratch_bytes(size)
    scratch = np.full(needed, 0xA5, np.uint8)
    limits, result = Limits(Ends(*of.low), Ends(*of.high)), Result()
    kind = MODALITIES[modality]
    status = library.qdr_gate_check(
        kind,
        ctypes.byref(limits),
        address(pixels),
        size,
        address(scratch),
        ctypes.c_size_t(needed),
        ctypes.byref(result),
    )
    assert status == 0
    return result


@SLOW
@given(
    st.sampled_from(("fundus", "oct")),
    st.sampled_from(("scan", *KINDS)),
    st.integers(0, 2**32 - 1),
    st.sampled_from((32, 33, 75, 127, 128, 129, 224, 256, 300, 448, 1024)),
)
def test_the_gate_finds_the_same_figures_and_verdict(
    library: ctypes.CDLL, modality: str, kind: str, seed: int, size: int
) -> None:
    if kind == "scan":
        pixels = scan(np.random.default_rng(seed), size)
    else:
        pixels = np.ascontiguousarray(draw(kind, seed, size, size).transpose(2, 0, 1))
    limits = default_limits(modality)
    expected = check(pixels, modality, limits)
    result = gate(library, pixels, modality, limits)
    for name, value, found in zip(
        FEATURES, astuple(measure(pixels, modality)), result.features, strict=True
    ):
        assert value == found, name
    assert_same_verdict(result, expected)


def assert_same_verdict(result: Result, expected: GateResult) -> None:
    assert result.outcome == OUTCOMES[expected.outcome]
    assert math.isclose(result.margin, expected.margin, rel_tol=1e-12)
    reason = result.reason.decode()
    if result.outcome:
        sign = "at least" if result.value < result.bound else "at most"
        name = FEATURES[result.feature]
        reason += f" ({name} {result.value:.2f}, expected {sign} {result.bound:.2f})"
    assert reason == expected.reason


@pytest.mark.parametrize("modality", MODALITIES)
def test_each_end_of_each_interval_rejects_in_the_same_words(
    library: ctypes.CDLL, modality: str
) -> None:
    pixels = scan(np.random.default_rng(5), 128)
    values = astuple(measure(pixels, modality))
    for index, value in enumerate(values):
        for end in ("low", "high", "both"):
            low, high = [-math.inf] * len(values), [math.inf] * len(values)
            if end != "high":
                low[index] = value + 1
            else:
                high[index] = value - 1
            if end == "both" and index:  # two ends reject: the order of the rules decides
                high[index - 1] = values[index - 1] - 1
            limits = GateLimits(tuple(low), tuple(high))
            result = gate(library, pixels, modality, limits)
            assert_same_verdict(result, check(pixels, modality, limits))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_default_limits_are_the_same(library: ctypes.CDLL, modality: str) -> None:
    limits = Limits()
    assert library.qdr_gate_default_limits(MODALITIES[modality], ctypes.byref(limits)) == 0
    assert tuple(limits.low) == default_limits(modality).low
    assert tuple(limits.high) == default_limits(modality).high


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
