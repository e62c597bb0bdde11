"""SingleStream: one image a query, the next is sent when the last has completed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qdr_bench import statistics
from qdr_bench.child import Child

NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Latency:
    """SingleStream latencies of one cell, by round, in nanoseconds."""

    rounds: tuple[tuple[int, ...], ...]

    @property
    def latency_ns(self) -> list[int]:
        """All raw latencies in the order they were measured."""
        return [value for latencies in self.rounds for value in latencies]

    @property
    def queries(self) -> int:
        """Queries measured; warm-up is not among them."""
        return sum(len(latencies) for latencies in self.rounds)

    @property
    def mean_ms(self) -> float:
        """Mean latency."""
        return sum(self.latency_ns) / self.queries / NS_PER_MS

    @property
    def images_per_second(self) -> float:
        """Throughput of one image at a time."""
        return 1000 / self.mean_ms

    @property
    def early_stopping_p90_ms(self) -> float | None:
        """The SingleStream score: what p90 is at most, at 99 % confidence."""
        estimate = statistics.early_stopping_ns(self.latency_ns, 0.9)
        return None if estimate is None else estimate / NS_PER_MS

    @property
    def round_variation(self) -> float:
        """Coefficient of variation of the round medians: did the machine hold still?"""
        return statistics.coefficient_of_variation(statistics.round_medians(self.rounds))

    def percentile_ms(self, percentile: float) -> float | None:
        """A percentile, or None where the sample cannot carry it."""
        value = statistics.percentile_ns(self.latency_ns, percentile)
        return None if value is None else value / NS_PER_MS

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: figures first, raw samples last."""
        raw = self.latency_ns
        return {
            "queries": self.queries,
            "mean_ms": self.mean_ms,
            "min_ms": min(raw) / NS_PER_MS,
            "max_ms": max(raw) / NS_PER_MS,
            "p50_ms": self.percentile_ms(0.5),
            "p90_ms": self.percentile_ms(0.9),
            "p95_ms": self.percentile_ms(0.95),
            "p99_ms": self.percentile_ms(0.99),
            "p999_ms": self.percentile_ms(0.999),
            "early_stopping_p90_ms": self.early_stopping_p90_ms,
            "images_per_second": self.images_per_second,
            "coefficient_of_variation": statistics.coefficient_of_variation(raw),
            "round_coefficient_of_variation": self.round_variation,
            "rounds_ns": [list(latencies) for latencies in self.rounds],
        }


@dataclass(frozen=True)
class Round:
    """What one turn of a cell brought.

    Args:
        latency_ns: Of every query.
        inconsistent: Queries whose logits differ from those of the same image untimed.
        cpu_s: Processor time of the child.
        wall_s: Time that passed.
    """

    latency_ns: tuple[int, ...]
    inconsistent: int
    cpu_s: float
    wall_s: float


def run_round(
    child: Child, *, seconds: float, queries: int, seed: int, samples: int = 1, same: bool = False
) -> Round:
    """Let a child answer queries until both limits are reached.

    Args:
        child: It has opened a model and filled its pool.
        seconds: Shortest duration.
        queries: Fewest queries.
        seed: Of the images drawn.
        samples: Images a query.
        same: Ask for one and the same image each time.

    Raises:
        BenchmarkError: The child failed.
    """
    answer = child.call(
        "round", seconds=seconds, queries=queries, seed=seed, samples=samples, same=same
    )
    return Round(
        tuple(answer["latency_ns"]),
        answer["inconsistent"],
        answer["cpu_ns"] / 1e9,
        answer["wall_ns"] / 1e9,
    )
