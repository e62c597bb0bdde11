"""The figures of a row, each with what says how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Figure = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Metric:
    """A kind of figure.

    Args:
        name: As tables call it.
        unit: Of its values.
        lower_is_better: Whether a smaller value is the better one.
        relative: Compared as a ratio; if not, as a difference.
        samples: From a row to equally likely values of the figure: resampled rounds or starts, or
            the one value where nothing says how sure it is; None where it was not measured.
    """

    name: str
    unit: str
    lower_is_better: bool
    relative: bool
    samples: Callable[[Mapping[str, Any], np.random.Generator], Figure | None]


def _of_rounds(
    scenario: str, rounds: str, statistic: Callable[[Figure], float]
) -> Callable[[Mapping[str, Any], np.random.Generator], Figure | None]:
    """A statistic of all queries; the rounds are resampled, for queries of one round are alike."""

    def samples(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
        result = row.get(scenario)
        if not result or not result.get(rounds):
            return None
        parts = [np.asarray(part, dtype=np.float64) for part in result[rounds]]
        picks = draw.integers(0, len(parts), size=(RESAMPLES, len(parts)))
        return np.array([statistic(np.concatenate([parts[i] for i in row])) for row in picks]) / 1e6

    return samples


def _offline(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
    result = row.get("offline")
    if not result:
        return None
    rates = np.asarray(result["rounds_images_per_second"])
    picks = draw.integers(0, len(rates), size=(RESAMPLES, len(rates)))
    return np.asarray(rates[picks].mean(axis=1))


def _cold_start(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
    result = row.get("cold_start")
    if not result:
        return None
    starts = np.asarray(result["samples_ns"]["total"]) / 1e6
    return np.median(starts[draw.integers(0, len(starts), size=(RESAMPLES, len(starts)))], axis=1)


def _energy(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
    result = row.get("energy")
    if not result:
        return None
    idle = result["idle_watts"]
    loops = np.array(
        [(part["watts"] - idle) * part["seconds"] / part["images"] for part in result["loops"]]
    )
    picks = draw.integers(0, len(loops), size=(RESAMPLES, len(loops)))
    return np.asarray(np.median(loops[picks], axis=1) * 1000)


def _map(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
    """mAP in points. Of both reports only intervals are known, so images are not paired: what is
    called different here would be so the more if they were."""
    found = (row.get("accuracy") or {}).get("map")
    if not found or found["value"] is None:
        return None
    if found["low"] is None:
        return np.array([100 * found["value"]])
    spread = (found["high"] - found["low"]) / (2 * 1.96)
    return 100 * draw.normal(found["value"], spread, RESAMPLES)


def _one(*path: str, scale: float = 1.0) -> Callable[..., Figure | None]:
    """A figure without samples: it is what it is."""

    def samples(row: Mapping[str, Any], draw: np.random.Generator) -> Figure | None:
        del draw
        value: Any = row
        for key in path:
            value = value.get(key) if value else None
        return None if value is None else np.array([value * scale])

    return samples


def _median(values: Figure) -> float:
    return float(np.median(values))


def _p90(values: Figure) -> float:
    return float(np.quantile(values, 0.9))


def _p99(values: Figure) -> float:
    return float(np.quantile(values, 0.99))


METRICS = (
    Metric("p50", "ms", True, True, _of_rounds("latency", "rounds_ns", _median)),
    Metric("p90", "ms", True, True, _of_rounds("latency", "rounds_ns", _p90)),
    Metric("MultiStream p99", "ms", True, True, _of_rounds("multi_stream", "rounds_ns", _p99)),
    Metric("Offline", "images/s", False, True, _offline),
    Metric("ColdStart", "ms", True, True, _cold_start),
    Metric("energy", "mJ", True, True, _energy),
    Metric("peak memory", "MB", True, True, _one("memory", "peak_rss_bytes", scale=1e-6)),
    Metric("size", "MB", True, True, _one("model_bytes", scale=1e-6)),
    Metric("mAP", "points", False, False, _map),
)  # fmt: skip
