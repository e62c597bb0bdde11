"""libqdr's preprocessing in C gives the bytes of Python's."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdr_edge.preprocess import PreprocessSpec, field_of_view, load_image, preprocess, white_frame
from tests.native_pixels import (
    KINDS,
    MODALITIES,
    SLOW,
    View,
    address,
    compiled,
    draw,
    native,
    native_spec,
)

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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("libqdr"))


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
