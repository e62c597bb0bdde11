"""Each label leaves its sign in each modality, and nothing but its sign."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qdr_train.synth.anatomy import sample_eye
from qdr_train.synth.dataset import render
from qdr_train.synth.patients import CODES, EyePlan, Shot
from qdr_train.synth.streams import EyeStreams

SIZE = 96
FINDINGS = [code for code in CODES if code != "NOR"]
Pixels = NDArray[np.float64]


def _image(modality: str, findings: dict[str, float], patient: int = 7, side: str = "R") -> Pixels:
    plan = EyePlan(side, findings, ())
    return render(2, patient, plan, Shot(modality, 1, 0), SIZE).pixels.astype(float)


@pytest.fixture(scope="module")
def healthy() -> dict[str, Pixels]:
    return {modality: _image(modality, {}) for modality in ("fundus", "oct")}


@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("code", FINDINGS)
def test_a_sign_changes_the_same_eye(code: str, modality: str, healthy: dict[str, Pixels]) -> None:
    changed = np.abs(_image(modality, {code: 0.9}) - healthy[modality]) > 2
    share = float(changed.mean())
    assert share > 0.002, (code, modality, share)
    if modality == "fundus":  # the rest of the eye stays as it was
        assert share < 0.65, (code, modality, share)


@pytest.mark.parametrize("code", ["FLD", "PED", "CSC"])
def test_fluid_is_plain_in_oct_and_faint_in_fundus(code: str, healthy: dict[str, Pixels]) -> None:
    contrast = {m: _contrast(_image(m, {code: 1.0}), healthy[m]) for m in ("fundus", "oct")}
    assert contrast["oct"] > 4 * contrast["fundus"], contrast


@pytest.mark.parametrize("code", ["EXU", "RVO", "DR"])
def test_blood_and_lipid_are_plain_in_fundus(code: str, healthy: dict[str, Pixels]) -> None:
    faint = max(
        _contrast(_image("fundus", {other: 1.0}), healthy["fundus"])
        for other in ("FLD", "PED", "CSC")
    )
    assert _contrast(_image("fundus", {code: 1.0}), healthy["fundus"]) > 3 * faint


def _contrast(image: Pixels, healthy: Pixels) -> float:
    # The strongest of the change: small plain lesions count, a faint veil does not.
    return float(np.percentile(np.abs(image - healthy), 99.6))


@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("code", ["AMD", "RVO"])
def test_severity_grades_the_sign(code: str, modality: str, healthy: dict[str, Pixels]) -> None:
    early = np.abs(_image(modality, {code: 0.3}) - healthy[modality]).mean()
    late = np.abs(_image(modality, {code: 1.0}) - healthy[modality]).mean()
    assert late > early


def test_a_left_eye_has_its_disc_on_the_left() -> None:
    for patient in range(3):
        for side in "RL":
            bright = _image("fundus", {}, patient, side).mean(axis=2)
            columns = np.sort(bright, axis=0)[-8:].mean(axis=0)
            assert (int(np.argmax(columns)) > SIZE // 2) == (side == "R")


def test_fundus_is_round_on_black_and_coloured() -> None:
    image = _image("fundus", {})
    assert image[:6, :6].max() < 12
    middle = image[SIZE // 2 - 10 : SIZE // 2 + 10, SIZE // 2 - 10 : SIZE // 2 + 10]
    red, green, blue = middle.reshape(-1, 3).mean(axis=0)
    assert red > green > blue * 0.8


def test_oct_has_dark_vitreous_and_a_bright_band() -> None:
    rows = _image("oct", {}).mean(axis=1)
    assert rows[: SIZE // 8].mean() < 60
    assert rows.max() > 2 * rows[: SIZE // 8].mean()
    assert rows[-SIZE // 16 :].mean() < 0.6 * rows.max()


@pytest.mark.parametrize("modality", ["fundus", "oct"])
def test_an_ungradable_image_shows_less_of_the_eye(modality: str) -> None:
    def detail(quality: int) -> float:
        total = 0.0
        for patient in range(12):
            plan = EyePlan("R", {}, ())
            image = render(1, patient, plan, Shot(modality, 1, quality), 128).pixels.astype(float)
            grey = image.mean(axis=2) if image.ndim == 3 else image
            middle = grey[40:88, 40:88]  # away from the border of the field of view
            block = middle.reshape(12, 4, 12, 4).mean(axis=(1, 3))
            total += float(np.abs(np.diff(block, axis=1)).mean())
        return total

    assert detail(3) < 0.7 * detail(0)


@pytest.mark.parametrize("size", [64, 97, 448])
@pytest.mark.parametrize("modality", ["fundus", "oct"])
def test_any_size(modality: str, size: int) -> None:
    findings = dict.fromkeys(FINDINGS, 1.0)
    image = render(0, 1, EyePlan("L", findings, ()), Shot(modality, 2, 2), size).pixels
    assert image.dtype == np.uint8
    assert image.shape == ((size, size, 3) if modality == "fundus" else (size, round(1.5 * size)))


def test_no_vessel_crosses_the_fovea_and_the_disc_is_nasal() -> None:
    for patient in range(10):
        eye = sample_eye(EyeStreams(0, patient, "R"))
        assert eye.disc[0] > 12
        nearest = min(float(np.hypot(*vessel.points.T).min()) for vessel in eye.vessels)
        assert nearest > 1.0
