"""The ungradable and the invalid golden vector are drawn, whatever gate was fitted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qdr_edge.decision import DecisionRule, Outcome
from qdr_edge.gate import GateLimits, default_limits
from qdr_edge.gate.features import FEATURES
from qdr_edge.gate.limits import SPANS
from qdr_edge.preprocess import PreprocessSpec
from qdr_export.golden import Pixels, _drawn, _invalid, _Pipeline, _ungradable
from tests.bundles import LABELS


def _limits(modality: str) -> Iterator[GateLimits]:
    """The gate before any fit, and as far as a fit can move it either way."""
    yield default_limits(modality)
    for end in ("widest", "strictest"):
        spans = [SPANS[modality][name] for name in FEATURES]
        yield GateLimits(
            tuple(getattr(span.low, end) for span in spans),
            tuple(getattr(span.high, end) for span in spans),
        )


def _never(_images: Pixels) -> np.ndarray:
    raise AssertionError("the network sees no rejected picture")


@pytest.mark.parametrize("modality", ["fundus", "oct"])
@pytest.mark.parametrize("size", [64, 96, 224])
def test_no_patients_image_is_needed(modality: str, size: int) -> None:
    rule = DecisionRule(LABELS, 1.0, (0.0,) * len(LABELS))
    for limits in _limits(modality):
        look = _Pipeline(PreprocessSpec(modality=modality, size=size), rule, limits, _never)
        seen = _ungradable([], look)
        assert seen.decision.outcome is Outcome.UNGRADABLE
        assert seen.tensor is not None
        invalid = _invalid(look)
        assert invalid.decision.outcome is Outcome.INVALID_INPUT
        assert invalid.tensor is None


def test_the_drawing_is_the_same_every_time() -> None:
    first, second = (list(_drawn(64)) for _ in range(2))
    assert len(first) > 50
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
