"""Figures drawn from raw latencies: percentiles a sample can carry, and ratios with intervals.

The early-stopping estimate follows the method MLPerf Inference uses for SingleStream (inference
rules, "early stopping"): a reported latency is only as low as a one-sided test at 99 % confidence
allows. The method is borrowed; no MLPerf result is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.99
"""One-sided confidence of the early-stopping estimate."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster (> 1) or slower (< 1) than the baseline, with a 95 % interval."""

    value: float
    low: float
    high: float
    rounds: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the JSON form."""
        return {"value": self.value, "low": self.low, "high": self.high, "rounds": self.rounds}


def allowed_over_latency(
    queries: int, percentile: float, confidence: float = CONFIDENCE
) -> int | None:
    """Return how many of ``queries`` may exceed the true percentile and still support it.

    If the true share of queries at or below a latency were smaller than ``percentile``, then
    seeing at most ``t`` slower ones has probability ``binom.cdf(t, queries, 1 - percentile)``.
    The largest ``t`` for which that stays within ``1 - confidence`` is returned.

    Args:
        queries: number of queries measured, >= 0.
        percentile: share in (0, 1), e.g. 0.9.
        confidence: one-sided confidence in (0, 1).

    Returns:
        The count ``t`` >= 0, or None if the sample is too small for even ``t = 0``.
    """
    if queries <= 0 or special.bdtr(0, queries, 1.0 - percentile) > 1.0 - confidence:
        return None
    low, high = 0, queries  # invariant: cdf(low) passes, cdf(high) = 1 does not
    while high - low > 1:
        middle = (low + high) // 2
        if special.bdtr(middle, queries, 1.0 - percentile) <= 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


@lru_cache(maxsize=64)
def minimum_queries(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Return the smallest sample that allows one over-latency query (64 for p90, 662 for p99)."""
    low, high = 0, 1
    while (allowed_over_latency(high, percentile, confidence) or 0) < 1:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if (allowed_over_latency(middle, percentile, confidence) or 0) < 1:
            low = middle
        else:
            high = middle
    return high


def early_stopping_ns(
    latency_ns: Sequence[int] | NDArray[np.int64], percentile: float = 0.9
) -> int | None:
    """Return the early-stopping estimate of a latency percentile (confidence 0.99, tolerance 0).

    With ``q`` queries the largest allowed over-latency count ``t`` is found, the ``t - 1`` slowest
    queries are discarded and the largest of the rest is reported.

    Args:
        latency_ns: raw latencies, one a query, nanoseconds.
        percentile: share in (0, 1).

    Returns:
        The estimate in nanoseconds, or None where the sample is too small.
        Source: MLPerf Inference rules, early stopping for SingleStream.
    """
    ordered = np.sort(np.asarray(latency_ns, dtype=np.int64))
    allowed = allowed_over_latency(len(ordered), percentile)
    if allowed is None or allowed < 1:
        return None
    return int(ordered[len(ordered) - allowed])


def percentile_ns(latency_ns: Sequence[int] | NDArray[np.int64], percentile: float) -> float | None:
    """Return a latency percentile, or None where the sample is too small to carry it."""
    if len(latency_ns) < minimum_queries(percentile):
        return None
    return float(np.quantile(np.asarray(latency_ns, dtype=np.float64), percentile))


def coefficient_of_variation(values: ArrayLike) -> float:
    """Return standard deviation over mean (0 for fewer than two values)."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return 0.0
    return float(sample.std(ddof=1) / sample.mean())


def round_medians(rounds: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the median latency of each round, in the unit given."""
    return np.array([float(np.median(latencies)) for latencies in rounds])


def paired_ratio(
    baseline: Sequence[float] | NDArray[np.float64],
    candidate: Sequence[float] | NDArray[np.float64],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratio | None:
    """Return how many times faster ``candidate`` is than ``baseline``.

    Both were measured in interleaved rounds, so round ``i`` of one met the same machine as round
    ``i`` of the other: the ratio is taken within each round, and rounds are resampled as pairs.

    Args:
        baseline: median latency of each round, any unit.
        candidate: the same rounds of the other cell, same unit.
        resamples: bootstrap repetitions.
        seed: bootstrap seed.

    Returns:
        Median of the per-round ratios with a 95 % bootstrap interval; None without common rounds.
    """
    rounds = min(len(baseline), len(candidate))
    if rounds == 0:
        return None
    ratios = np.asarray(baseline[:rounds], dtype=np.float64) / np.asarray(
        candidate[:rounds], dtype=np.float64
    )
    picks = np.random.default_rng(seed).integers(0, rounds, size=(resamples, rounds))
    medians = np.median(ratios[picks], axis=1)  # [resamples]
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high), rounds)


def exact_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share, which holds for any n and any share.

    Args:
        count: how often it happened, 0 .. n.
        n: how often it could have happened, > 0.
        confidence: two-sided.

    Returns:
        Lower and upper end, 0 .. 1. Source: Clopper & Pearson 1934.
    """
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else float(special.betaincinv(count, n - count + 1, tail))
    high = 1.0 if count == n else float(special.betaincinv(count + 1, n - count, 1.0 - tail))
    return low, high
