"""Preprocessing never fails on pixels, and keeps its promises whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from qdr_edge.decode import decode
from qdr_edge.errors import ImageError
from qdr_edge.gate import FEATURES, check, default_limits, measure
from qdr_edge.preprocess import PreprocessSpec, field_of_view, preprocess, white_frame

MODALITIES = st.sampled_from(["fundus", "oct"])


@st.composite
def pictures(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Blocks of flat colour with some noise: what breaks crops and statistics."""
    height, width = draw(st.integers(32, 120)), draw(st.integers(32, 120))
    blocks = draw(arrays.arrays(np.uint8, (draw(st.integers(1, 4)), draw(st.integers(1, 4)), 3)))
    rows = np.arange(height) * len(blocks) // height
    columns = np.arange(width) * blocks.shape[1] // width
    picture = blocks[rows][:, columns].astype(int)
    amplitude = draw(st.sampled_from([0, 0, 3, 60]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    picture += rng.integers(-amplitude, amplitude + 1, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(pictures(), MODALITIES, st.sampled_from([32, 64, 96]))
def test_any_picture_becomes_an_input_and_can_be_judged(
    picture: NDArray[np.uint8], modality: str, size: int
) -> None:
    spec = PreprocessSpec(modality, size)
    before = picture.copy()
    image = preprocess(picture, spec)
    assert image.shape == (3, size, size)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(picture, before), "the caller's pixels were changed"
    assert np.array_equal(preprocess(picture, spec), image)
    if modality == "oct":
        assert np.array_equal(image[0], image[1])
        assert np.array_equal(image[0], image[2])
    features = measure(image, modality)
    assert all(np.isfinite(getattr(features, name)) for name in FEATURES)
    check(image, modality, default_limits(modality))


@settings(max_examples=60, deadline=None)
@given(pictures())
def test_crops_are_boxes_inside_the_picture(picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    for box in (field_of_view(picture), white_frame(picture.max(axis=2))):
        top, bottom, left, right = box
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_a_white_frame_of_any_widths_is_cut_off_exactly(
    top: int, bottom: int, left: int, right: int
) -> None:
    inner = np.full((40, 50), 100, dtype=np.uint8)
    framed = np.pad(inner, ((top, bottom), (left, right)), constant_values=255)
    assert white_frame(framed) == (top, top + 40, left, left + 50)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM"]),
    st.binary(max_size=200),
)
def test_bytes_that_are_no_image_are_an_image_error(start: bytes, rest: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(start + rest, PreprocessSpec("fundus", 64))
    assert "\n" not in str(caught.value)
