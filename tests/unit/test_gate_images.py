"""The gate on drawn eyes in four grades, on the other modality and on pictures of no retina."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from qdr_bench.strangers import STRANGERS, stranger
from qdr_edge.gate import GateFeatures, check, default_limits, judge, measure
from qdr_edge.metrics import roc_auc
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import MODALITIES
from qdr_train.synth.dataset import render
from qdr_train.synth.patients import Shot, plan_patient
from qdr_train.synth.writer import encode_jpeg

SIZE = 128
SEED = 77
PATIENTS = 10


@dataclass(frozen=True)
class Eye:
    """A drawn image: its modality and grade, its features as what it is and as the other."""

    modality: str
    grade: int
    own: GateFeatures
    other: GateFeatures


@pytest.fixture(scope="module")
def eyes() -> list[Eye]:
    return [
        _drawn(patient, modality, grade)
        for patient in range(PATIENTS)
        for modality in MODALITIES
        for grade in (0, 2, 3)
    ]


def _drawn(patient: int, modality: str, grade: int) -> Eye:
    plan = plan_patient(SEED, patient).eyes[patient % 2]
    picture = render(SEED, patient, plan, Shot(modality, 1, grade), SIZE)
    pixels = picture.pixels
    source = encode_jpeg(pixels, picture.jpeg_quality, "x") if picture.jpeg_quality else pixels
    other = "oct" if modality == "fundus" else "fundus"
    own, strange = (
        measure(load_image(source, PreprocessSpec(kind, SIZE)), kind) for kind in (modality, other)
    )
    return Eye(modality, grade, own, strange)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_margin_tells_ungradable_images_from_gradable_ones(
    eyes: list[Eye], modality: str
) -> None:
    limits = default_limits(modality)
    graded = [eye for eye in eyes if eye.modality == modality]
    results = [judge(eye.own, modality, limits) for eye in graded]
    gradable = np.array([eye.grade < 3 for eye in graded])
    assert roc_auc(np.array([result.margin for result in results]), gradable) >= 0.97
    rejected = np.array([result.outcome is not None for result in results])
    assert np.array_equal(rejected, np.array([result.margin < 0 for result in results]))
    assert rejected[gradable].sum() <= 1
    assert rejected[~gradable].mean() >= 0.6


def test_no_image_is_decided_on_as_the_other_modality(eyes: list[Eye]) -> None:
    assert len(eyes) >= 60
    for eye in eyes:
        offered = "oct" if eye.modality == "fundus" else "fundus"
        assert judge(eye.other, offered, default_limits(offered)).outcome is not None


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", STRANGERS)
def test_no_stranger_is_decided_on(kind: str, modality: str) -> None:
    for seed in range(2):
        image = load_image(stranger(kind, seed), PreprocessSpec(modality, SIZE))
        assert check(image, modality, default_limits(modality)).outcome is not None
        assert np.array_equal(stranger(kind, seed), stranger(kind, seed))
