"""libqdr's gate in C gives the figures and the verdict of Python's."""

from __future__ import annotations

import ctypes
import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdr_edge.decision import Outcome
from qdr_edge.gate import FEATURES, GateLimits, GateResult, check, default_limits, measure
from tests.native_pixels import (
    KINDS,
    MODALITIES,
    SLOW,
    Ends,
    Limits,
    Pixels,
    Result,
    address,
    compiled,
    draw,
)

OUTCOMES = {None: 0, Outcome.INVALID_INPUT: 1, Outcome.UNGRADABLE: 2}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("libqdr"))


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
