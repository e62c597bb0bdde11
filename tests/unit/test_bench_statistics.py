"""Figures from latencies, against brute force over the binomial distribution and known values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdr_bench.measurement import Latency
from qdr_bench.statistics import (
    allowed_over_latency,
    coefficient_of_variation,
    early_stopping_ns,
    exact_interval,
    minimum_queries,
    paired_ratio,
    percentile_ns,
    round_medians,
)


def binomial_cdf(n: int, p: float) -> list[float]:
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return list(itertools.accumulate(terms))


@pytest.mark.parametrize(("percentile", "queries"), [(0.9, 64), (0.99, 662)])
def test_the_smallest_samples_are_those_of_the_rules(percentile: float, queries: int) -> None:
    assert minimum_queries(percentile) == queries
    assert early_stopping_ns(range(queries - 1), percentile) is None
    # One query may be over: nothing is discarded, the slowest is reported.
    assert early_stopping_ns(range(queries), percentile) == queries - 1


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 500), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_allowed_count_is_the_largest_that_the_test_accepts(
    queries: int, percentile: float
) -> None:
    allowed = allowed_over_latency(queries, percentile)
    chances = binomial_cdf(queries, 1 - percentile)
    accepted = [t for t in range(queries) if chances[t] <= 0.01]
    assert allowed == (max(accepted) if accepted else None)


def test_the_estimate_discards_all_but_one_of_the_allowed_slow_queries() -> None:
    latencies = list(range(1000, 2000))
    allowed = allowed_over_latency(1000, 0.9)
    assert allowed is not None
    assert allowed > 50
    slowest_kept = sorted(latencies)[: 1000 - (allowed - 1)][-1]
    shuffled = np.random.default_rng(0).permutation(latencies)
    assert early_stopping_ns(shuffled, 0.9) == slowest_kept


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=400))
def test_the_estimate_is_never_below_the_plain_percentile(latencies: list[int]) -> None:
    estimate, plain = early_stopping_ns(latencies, 0.9), percentile_ns(latencies, 0.9)
    assert estimate is not None
    assert plain is not None
    assert estimate >= plain or math.isclose(estimate, plain)


def test_a_percentile_is_given_only_where_the_sample_carries_it() -> None:
    latency = Latency((tuple(range(1, 101)),))
    figures = latency.to_dict()
    assert figures["p50_ms"] == pytest.approx(50.5e-6)
    assert figures["p90_ms"] == pytest.approx(90.1e-6)
    assert figures["p95_ms"] is None
    assert figures["p99_ms"] is None
    assert figures["queries"] == 100
    assert figures["rounds_ns"] == [list(range(1, 101))]


def test_a_ratio_within_rounds_cancels_what_both_sides_met() -> None:
    random = np.random.default_rng(3)
    weather = random.uniform(1, 5, 20)
    baseline, candidate = 30 * weather, 10 * weather * random.normal(1, 0.01, 20)
    ratio = paired_ratio(baseline, candidate)
    assert ratio is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(3, rel=0.02)
    assert ratio.high - ratio.low < 0.1
    # The weather alone varies by more than a factor of two.
    assert coefficient_of_variation(baseline) > 0.3


def test_a_ratio_of_equal_cells_holds_one() -> None:
    random = np.random.default_rng(5)
    ratio = paired_ratio(random.normal(10, 1, 30), random.normal(10, 1, 30))
    assert ratio is not None
    assert ratio.low < 1 < ratio.high


def test_a_ratio_is_repeatable_and_uses_common_rounds_only() -> None:
    long, short = [4.0, 6.0, 8.0, 100.0], [2.0, 3.0, 4.0]
    assert paired_ratio(long, short) == paired_ratio(long, short)
    ratio = paired_ratio(long, short)
    assert ratio is not None
    assert (ratio.value, ratio.rounds) == (2.0, 3)
    assert paired_ratio([], short) is None


def test_round_medians_and_variation() -> None:
    assert round_medians([[1, 2, 30], [4, 4]]).tolist() == [2.0, 4.0]
    assert coefficient_of_variation([5]) == 0
    assert coefficient_of_variation([9, 11]) == pytest.approx(math.sqrt(2) / 10)


@pytest.mark.parametrize(("count", "n"), [(0, 1000), (3, 40), (20, 40), (40, 40)])
def test_the_exact_interval_is_clopper_and_pearsons(count: int, n: int) -> None:
    from scipy import stats

    expected = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    assert exact_interval(count, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
