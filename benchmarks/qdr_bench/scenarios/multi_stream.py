"""MultiStream: eight images a query; what counts is when the last of them is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qdr_bench import statistics
from qdr_bench.scenarios.single_stream import NS_PER_MS, Latency

SAMPLES_PER_QUERY = 8
PERCENTILE = 0.99
FEWEST_QUERIES = statistics.minimum_queries(PERCENTILE)


@dataclass(frozen=True)
class MultiStream:
    """Latencies of queries of eight images, by round, in nanoseconds."""

    rounds: tuple[tuple[int, ...], ...]

    @property
    def early_stopping_p99_ms(self) -> float | None:
        """The MultiStream score: what p99 is at most, at 99 % confidence; None if too few."""
        estimate = statistics.early_stopping_ns(self.latency.latency_ns, PERCENTILE)
        return None if estimate is None else estimate / NS_PER_MS

    @property
    def latency(self) -> Latency:
        """The same as plain latencies."""
        return Latency(self.rounds)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        latency = self.latency
        return {
            "samples_per_query": SAMPLES_PER_QUERY,
            "queries": latency.queries,
            "mean_ms": latency.mean_ms,
            "p50_ms": latency.percentile_ms(0.5),
            "p99_ms": latency.percentile_ms(PERCENTILE),
            "early_stopping_p99_ms": self.early_stopping_p99_ms,
            "rounds_ns": [list(values) for values in self.rounds],
        }
