"""The gate: what it stops, what it lets through, and how far it can be widened."""

from __future__ import annotations

import json
import os
from dataclasses import astuple, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from qdr_edge.decision import Outcome
from qdr_edge.errors import BundleError, CompatibilityError
from qdr_edge.files import canonical_json
from qdr_edge.gate import (
    FEATURES,
    GateFeatures,
    GateLimits,
    check,
    default_limits,
    fit_limits,
    judge,
    measure,
)
from qdr_edge.preprocess import PreprocessSpec, load_image, preprocess

RNG = np.random.default_rng(11)
SIZES = (96, 224)


def fundus(seed: int = 0, side: int = 480) -> NDArray[np.uint8]:
    """A disc of red ground with a bright spot, dark curves and mild texture, RGB."""
    rng = np.random.default_rng(seed)
    level = np.full((side, side), 130.0)
    level += cv2.GaussianBlur(rng.normal(0, 60, (side, side)), (0, 0), 6)
    picture = np.stack([level * 1.2, level * 0.65, level * 0.3], axis=2)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(14):
        start = rng.integers(0, side, 2)
        bend = np.cumsum(rng.normal(0, side / 14, (12, 2)), axis=0)
        cv2.polylines(picture, [(start + bend).astype(np.int32)], False, (90, 30, 15), 5)
    cv2.circle(picture, (side // 3, side // 2), side // 14, (250, 220, 150), -1)
    mask = np.zeros((side, side, 1), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), side // 2 - 8, 1, -1)
    return picture * mask


def oct_scan(seed: int = 0, height: int = 400, width: int = 512) -> NDArray[np.uint8]:
    """Bent bright layers on a dark ground with speckle, RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    depth = y - (150 + 25 * np.cos(x / width * 5 + seed))
    level = np.where(depth < 0, 12.0, 45 * np.exp(-np.maximum(depth - 110, 0) / 60))
    for top, bottom, value in ((0, 18, 150), (18, 60, 95), (60, 80, 60), (80, 110, 190)):
        level = np.where((depth >= top) & (depth < bottom), value, level)
    level = level * rng.gamma(3, 1 / 3, level.shape)
    gray = np.clip(level, 0, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def verdict(picture: NDArray[np.uint8], modality: str, size: int = 224) -> Outcome | None:
    image = preprocess(picture, PreprocessSpec(modality, size))
    result = check(image, modality, default_limits(modality))
    assert bool(result.reason) == (result.outcome is not None)
    return result.outcome


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_the_right_picture_passes(seed: int, size: int) -> None:
    assert verdict(fundus(seed), "fundus", size) is None
    assert verdict(oct_scan(seed), "oct", size) is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_the_other_modality_is_invalid(seed: int, size: int) -> None:
    assert verdict(oct_scan(seed), "fundus", size) is Outcome.INVALID_INPUT
    assert verdict(fundus(seed), "oct", size) is Outcome.INVALID_INPUT


def test_a_disc_cut_off_above_and_below_still_passes() -> None:
    assert verdict(fundus()[90:-90], "fundus") is None


def screenshot(ground: int, ink: int) -> NDArray[np.uint8]:
    picture = np.full((480, 640, 3), ground, np.uint8)
    for line in range(20):
        cv2.putText(
            picture, f"{line} the quick brown fox jumps over", (8, 24 * line + 18),
            cv2.FONT_HERSHEY_SIMPLEX, 0.8, (ink, ink, ink), 2,
        )  # fmt: skip
    return picture


STRANGERS = {
    "black": np.zeros((200, 200, 3), np.uint8),
    "gray": np.full((200, 200, 3), 128, np.uint8),
    "white": np.full((200, 200, 3), 255, np.uint8),
    "red": np.full((200, 200, 3), (200, 80, 40), np.uint8),
    "noise": RNG.integers(0, 256, (400, 400, 3), dtype=np.uint8),
    "gray-noise": np.repeat(RNG.integers(0, 256, (400, 400, 1), dtype=np.uint8), 3, axis=2),
    "text": screenshot(255, 0),
    "text-on-black": screenshot(0, 255),
    "checkerboard": np.kron(np.indices((8, 8)).sum(0) % 2, np.full((50, 50), 255))
    .astype(np.uint8)[:, :, None]
    .repeat(3, axis=2),
    "ramp": np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 256, 3)),
    "sky-over-grass": np.repeat(
        np.array([[[90, 150, 230]], [[60, 140, 50]]], np.uint8).repeat(300, axis=1), 150, axis=0
    ),
}


@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_retina_is_invalid(name: str, modality: str) -> None:
    assert verdict(STRANGERS[name], modality) is Outcome.INVALID_INPUT


def test_a_bad_photograph_is_ungradable() -> None:
    good = fundus()
    for exposure in (0.06, 0.12, 0.2):
        dark = (good * exposure).astype(np.uint8)
        assert verdict(dark, "fundus") is Outcome.UNGRADABLE
    disc = good.max(axis=2, keepdims=True) > 0
    blurred = cv2.GaussianBlur(fundus(), (0, 0), 25) * disc
    assert verdict(blurred, "fundus") is Outcome.UNGRADABLE
    bright = np.where(good.max(axis=2, keepdims=True) > 0, 150 + good // 3, 0)
    bright = np.minimum(bright.astype(int) * np.array([1.4, 1.35, 1.1]), 255).astype(np.uint8)
    assert verdict(bright, "fundus") is not None


def test_a_blurred_scan_is_refused() -> None:
    assert verdict(cv2.GaussianBlur(oct_scan(), (0, 0), 20), "oct") is not None


@pytest.mark.parametrize(
    ("feature", "value", "modality", "outcome", "said"),
    [
        ("structure", 0.0, "fundus", Outcome.INVALID_INPUT, "even picture"),
        ("grain", 9.0, "oct", Outcome.INVALID_INPUT, "noise"),
        ("redness", 0.0, "fundus", Outcome.INVALID_INPUT, "too little red for a fundus"),
        ("bands", 0.3, "oct", Outcome.INVALID_INPUT, "no horizontal layers"),
        ("brightness", 5.0, "fundus", Outcome.UNGRADABLE, "too dark"),
        ("brightness", 250.0, "fundus", Outcome.UNGRADABLE, "too bright"),
        ("contrast", 0.5, "fundus", Outcome.UNGRADABLE, "too little contrast"),
        ("detail", 0.1, "oct", Outcome.UNGRADABLE, "too blurred (detail 0.10, expected at least"),
        ("detail", float("nan"), "oct", Outcome.UNGRADABLE, "too blurred"),
    ],
)
def test_each_rule_says_what_it_found(
    feature: str, value: float, modality: str, outcome: Outcome, said: str
) -> None:
    limits = default_limits(modality)
    picture = fundus() if modality == "fundus" else oct_scan()
    good = measure(preprocess(picture, PreprocessSpec(modality, 224)), modality)
    assert judge(good, modality, limits).outcome is None
    result = judge(replace(good, **{feature: value}), modality, limits)
    assert result.outcome is outcome
    assert said in result.reason


def limit(limits: GateLimits, name: str) -> tuple[float, float]:
    return limits.low[FEATURES.index(name)], limits.high[FEATURES.index(name)]


def features(count: int, seed: int = 0, **spread: float) -> list[GateFeatures]:
    good = measure(preprocess(fundus(), PreprocessSpec("fundus", 96)), "fundus")
    rng = np.random.default_rng(seed)
    # In the middle of what cameras give, so that either end can be reached.
    good = replace(good, grain=0.6, detail=5.0, visible=1.0)

    def moved(name: str, by: float) -> float:
        value = abs(float(getattr(good, name)) + float(rng.normal(0, by)))
        return min(1.0, value) if name in ("corners", "fill") else value

    return [
        replace(good, **{name: moved(name, by) for name, by in spread.items()})
        for _ in range(count)
    ]


def test_limits_of_kind_are_never_narrower_than_the_defaults() -> None:
    default, fitted = default_limits("fundus"), fit_limits(features(200), "fundus")
    for name in ("structure", "redness", "warmth", "corners", "fill", "bands", "backdrop", "flat"):
        assert limit(fitted, name) == limit(default, name), name
    fitted = fit_limits(features(200, redness=0.1, corners=0.5), "fundus")
    assert limit(fitted, "redness")[0] < limit(default, "redness")[0]
    assert limit(fitted, "corners")[1] > limit(default, "corners")[1]


def test_limits_of_quality_follow_the_images() -> None:
    some = features(400, grain=0.1, detail=0.8)
    default, fitted = default_limits("fundus"), fit_limits(some, "fundus", 0.02)
    assert limit(fitted, "grain")[0] > limit(default, "grain")[0]
    assert limit(fitted, "detail")[0] > limit(default, "detail")[0]
    rejected = sum(judge(f, "fundus", fitted).outcome is not None for f in some)
    again = features(400, seed=1, grain=0.1, detail=0.8)
    of_the_next = sum(judge(f, "fundus", fitted).outcome is not None for f in again)
    assert 1 <= rejected <= 8
    assert 1 <= of_the_next <= 16


def test_no_limit_of_quality_gets_stricter_while_another_is_widened() -> None:
    # Many are too blurred for the default, none is too bright: only the first is of concern.
    some = [replace(f, grain=f.grain - 0.4) for f in features(400, grain=0.05, brightness=5.0)]
    default, fitted = default_limits("fundus"), fit_limits(some, "fundus", 0.02)
    assert limit(fitted, "grain")[0] < limit(default, "grain")[0]
    for name in ("brightness", "contrast", "detail", "visible"):
        assert limit(fitted, name) == limit(default, name), name


def test_a_few_images_make_nothing_stricter() -> None:
    assert fit_limits(features(99), "fundus") == default_limits("fundus")


def test_fitted_limits_keep_the_rejection_rate() -> None:
    many = features(300, corners=0.6, fill=0.3, backdrop=60.0, contrast=5.0)
    before = sum(judge(f, "fundus", default_limits("fundus")).outcome is not None for f in many)
    for rate in (0.01, 0.05):
        limits = fit_limits(many, "fundus", rate)
        after = sum(judge(f, "fundus", limits).outcome is not None for f in many)
        assert before > 30 > after
        assert after <= rate * 300


def test_no_data_can_teach_the_gate_to_pass_the_other_modality() -> None:
    scans = [
        measure(preprocess(oct_scan(seed), PreprocessSpec("fundus", 96)), "fundus")
        for seed in range(40)
    ]
    limits = fit_limits(scans, "fundus")
    assert all(judge(f, "fundus", limits).outcome is Outcome.INVALID_INPUT for f in scans)


def test_few_images_leave_the_defaults() -> None:
    assert fit_limits(features(29, corners=0.9), "fundus") == default_limits("fundus")
    assert fit_limits([], "oct") == default_limits("oct")


def test_limits_of_other_features_are_another_version() -> None:
    sealed = default_limits("oct").to_dict()
    first = {name: ends for name, ends in sealed.items() if name not in ("version", "layers")}
    for strange in (first, {**sealed, "version": ["3"]}):
        with pytest.raises(CompatibilityError, match=r"gate version [13].*version 2.*export"):
            GateLimits.from_dict(strange)


@pytest.mark.parametrize("modality", ["fundus", "oct"])
def test_limits_survive_json(modality: str) -> None:
    limits = default_limits(modality)
    assert GateLimits.from_dict(json.loads(canonical_json(limits.to_dict()))) == limits


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"redness": ["1", "0"]}, id="empty-interval"),
        pytest.param({"redness": ["nan", "1"]}, id="nan"),
        pytest.param({"redness": ["0"]}, id="one-end"),
        pytest.param({"redness": ["a", "b"]}, id="text"),
        pytest.param({"novel": ["0", "1"]}, id="unknown"),
    ],
)
def test_malformed_limits_are_a_bundle_error(change: dict[str, list[str]]) -> None:
    with pytest.raises(BundleError, match="gate limits"):
        GateLimits.from_dict({**default_limits("oct").to_dict(), **change})


def test_missing_features_are_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="gate limits"):
        GateLimits.from_dict({})


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="modality"):
        default_limits("xray")
    with pytest.raises(ValueError, match="uint8"):
        measure(np.zeros((64, 64, 3), np.uint8), "fundus")
    with pytest.raises(ValueError, match="rejection_rate"):
        fit_limits([], "fundus", 0.9)


def test_features_hardly_depend_on_the_networks_size() -> None:
    small, large = (
        astuple(measure(preprocess(fundus(), PreprocessSpec("fundus", size)), "fundus"))
        for size in (128, 448)
    )
    for name, a, b in zip(FEATURES, small, large, strict=True):
        assert a == pytest.approx(b, rel=0.5, abs=0.05), name


@pytest.mark.skipif("QDR_REAL_DATA" not in os.environ, reason="QDR_REAL_DATA is not set")
@pytest.mark.parametrize(("modality", "table"), [("fundus", "odir256.csv"), ("oct", "oct.csv")])
def test_nearly_all_real_images_pass_and_none_of_the_other_kind(modality: str, table: str) -> None:
    folder = Path(os.environ["QDR_REAL_DATA"])
    folder = folder / "real" if (folder / "real").is_dir() else folder
    names = [line.split(",")[0] for line in (folder / table).read_text().splitlines()[1:]]
    rejected = passed = 0
    other = "oct" if modality == "fundus" else "fundus"
    chosen = names[:: max(1, len(names) // 100)]
    for name in chosen:
        image = load_image(folder / name, PreprocessSpec(modality, 128))
        rejected += check(image, modality, default_limits(modality)).outcome is not None
        image = load_image(folder / name, PreprocessSpec(other, 128))
        passed += check(image, other, default_limits(other)).outcome is None
    assert rejected < 0.05 * len(chosen)
    assert passed == 0
