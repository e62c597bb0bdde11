"""The preprocessing contract: crops, geometry, colour, and the spec."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from qdr_edge.errors import RecipeError
from qdr_edge.files import canonical_json
from qdr_edge.preprocess import PreprocessSpec, field_of_view, load_image, preprocess, white_frame

FUNDUS = PreprocessSpec("fundus", 64)
OCT = PreprocessSpec("oct", 64)


def disc(
    height: int = 300, width: int = 400, radius: int = 120, level: int = 120, dark: int = 0
) -> NDArray[np.uint8]:
    """A reddish disc in the middle of a dark picture."""
    picture = np.full((height, width, 3), dark, np.uint8)
    colour = (level, level // 2, level // 4)
    cv2.circle(picture, (width // 2, height // 2), radius, colour, -1)
    return picture


def near(box: tuple[int, int, int, int], expected: tuple[int, int, int, int]) -> bool:
    return all(abs(a - b) <= 6 for a, b in zip(box, expected, strict=True))


DISC_BOX = (30, 271, 80, 321)


@pytest.mark.parametrize(
    ("level", "dark"),
    [(200, 0), (120, 0), (30, 0), (18, 3), (150, 25)],
    ids=["bright", "usual", "dark", "very-dark", "gray-border"],
)
def test_the_field_of_view_is_found_at_any_exposure(level: int, dark: int) -> None:
    assert near(field_of_view(disc(level=level, dark=dark)), DISC_BOX)


def test_noise_and_text_outside_the_disc_are_left_out() -> None:
    picture = disc().astype(int) + np.random.default_rng(0).integers(-8, 9, (300, 400, 3))
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    cv2.putText(picture, "12.03.2019 OD", (5, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 1)
    cv2.line(picture, (0, 150), (90, 150), (255, 255, 255), 2)
    assert near(field_of_view(picture), DISC_BOX)


def test_a_disc_cut_off_above_and_below_keeps_its_full_width() -> None:
    picture = disc()[80:220]
    assert near(field_of_view(picture), (0, 140, 80, 321))
    image = preprocess(picture, FUNDUS)
    lit = np.flatnonzero(image.max(axis=0).max(axis=1) > 40)
    assert 34 <= lit.size <= 40  # 140 of 241 px of height, in a square of 64


@pytest.mark.parametrize("level", [0, 1, 90, 255])
def test_a_constant_picture_stays_whole_and_constant(level: int) -> None:
    picture = np.full((100, 100, 3), level, np.uint8)
    assert field_of_view(picture) == (0, 100, 0, 100)
    for spec in (FUNDUS, OCT):
        assert np.unique(preprocess(picture, spec)[0]).size == 1


def test_a_picture_without_a_dark_border_stays_whole() -> None:
    picture = np.full((200, 300, 3), (160, 80, 40), np.uint8)
    picture[60:90, 60:90] = (60, 20, 10)
    assert field_of_view(picture) == (0, 200, 0, 300)


def test_a_spot_of_light_is_not_a_field_of_view() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[100:110, 100:110] = 255
    assert field_of_view(picture) == (0, 256, 0, 256)


def test_a_white_frame_with_a_scale_bar_in_it_is_cut() -> None:
    gray = np.full((300, 400), 255, np.uint8)
    gray[20:280, 50:390] = 30
    gray[290:292, 100:105] = 0
    assert white_frame(gray) == (20, 280, 50, 390)


def test_a_wedge_of_white_is_not_a_frame() -> None:
    gray = np.full((100, 100), 30, np.uint8)
    gray[:10, :50] = 255
    assert white_frame(gray) == (0, 100, 0, 100)


def test_an_all_white_picture_stays_whole() -> None:
    assert white_frame(np.full((50, 60), 255, np.uint8)) == (0, 50, 0, 60)


@pytest.mark.parametrize(
    ("height", "width", "rows"), [(100, 200, 32), (200, 200, 64), (50, 100, 32), (33, 6000, 1)]
)
def test_an_oct_scan_is_padded_to_a_square(height: int, width: int, rows: int) -> None:
    for picture in (
        np.full((height, width, 3), 100, np.uint8),
        np.full((width, height, 3), 100, np.uint8).transpose(1, 0, 2),
    ):
        image = preprocess(np.ascontiguousarray(picture), PreprocessSpec("oct", 64))
        top = (64 - rows) // 2
        assert not image[:, :top].any()
        assert not image[:, top + rows :].any()
        if rows > 4:  # the median takes a lone row for noise
            assert (image[:, top + 1 : top + rows - 1, 1:-1] == 100).all()


def test_the_median_takes_out_single_pixels() -> None:
    picture = np.full((64, 64, 3), 50, np.uint8)
    picture[20, 30] = 255
    assert (preprocess(picture, OCT)[0] == 50).all()


def test_a_coloured_oct_becomes_gray() -> None:
    picture = np.full((80, 80, 3), (200, 120, 40), np.uint8)
    image = preprocess(picture, OCT)
    assert (image == image[:1]).all()
    assert image[0, 32, 32] == round(0.299 * 200 + 0.587 * 120 + 0.114 * 40)


def test_clahe_raises_local_contrast_and_keeps_the_colour_red() -> None:
    y, x = np.mgrid[:256, :256]
    level = (100 + 8 * ((x // 8 + y // 8) % 2)).astype(np.uint8)
    picture = np.stack([level, level // 2, level // 4], axis=2)
    image = preprocess(picture, PreprocessSpec("fundus", 128))
    assert image[0].std() > 1.2 * level.std()
    assert (image[0] > image[2]).all()


def test_clahe_comes_after_the_resize() -> None:
    # The order is part of the contract: the other one gives other bytes.
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), (0, 0), 3)
    small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0].copy())
    expected = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).transpose(2, 0, 1)
    assert np.array_equal(preprocess(picture, FUNDUS), expected)


def test_loading_is_decoding_and_preprocessing() -> None:
    picture = disc()
    assert np.array_equal(load_image(picture, FUNDUS), preprocess(picture, FUNDUS))


def test_a_spec_survives_json_and_has_one_fingerprint() -> None:
    spec = PreprocessSpec("oct", 448, window_high=4095, median_kernel=5)
    again = PreprocessSpec.from_dict(json.loads(canonical_json(spec.to_dict())))
    assert again == spec
    assert again.sha256 == spec.sha256
    assert all(type(value) in (int, str) for value in spec.to_dict().values())


def test_every_field_changes_the_fingerprint() -> None:
    changes: dict[str, object] = {
        "modality": "oct", "size": 128, "decode_margin": 3, "window_low": 1, "window_high": 9,
        "clahe_clip_x100": 300, "clahe_tiles": 4, "median_kernel": 5,
    }  # fmt: skip
    assert set(changes) | {"version"} == set(FUNDUS.to_dict())
    prints = {
        PreprocessSpec.from_dict({**FUNDUS.to_dict(), key: value}).sha256
        for key, value in changes.items()
    }
    assert len(prints | {FUNDUS.sha256}) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"size": 225}, "multiple of 8", id="size-does-not-fit"),
        pytest.param({"size": 16}, "32..1024", id="too-small"),
        pytest.param({"size": 4096}, "32..1024", id="too-large"),
        pytest.param({"size": 224.0}, "whole number", id="float"),
        pytest.param({"size": True}, "whole number", id="bool"),
        pytest.param({"size": "224"}, "whole number", id="text"),
        pytest.param({"modality": "xray"}, "fundus or oct", id="modality"),
        pytest.param({"modality": None}, "fundus or oct", id="no-modality"),
        pytest.param({"version": 2}, "this software implements", id="version"),
        pytest.param({"median_kernel": 4}, "3 or 5", id="median"),
        pytest.param({"clahe_tiles": 0}, "1..32", id="tiles"),
        pytest.param({"window_low": 9, "window_high": 9}, "window_high - 1", id="window"),
        pytest.param({"clahe_clip": 2}, "only clahe_clip_x100", id="unknown-key"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        PreprocessSpec.from_dict({**FUNDUS.to_dict(), **change})


def test_a_spec_names_what_is_missing() -> None:
    with pytest.raises(RecipeError, match="size is None"):
        PreprocessSpec.from_dict({"modality": "oct", "version": 1})


def test_importing_loads_no_image_library() -> None:
    code = (
        "import sys, qdr_edge.preprocess, qdr_edge.decode, qdr_edge.decision, qdr_edge.gate, "
        "qdr_edge.samples; print([m for m in ('cv2', 'PIL', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
