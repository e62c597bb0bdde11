"""What a benchmark holds: frozen values with raw latencies, from which figures are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from qdr_bench import statistics

NS_PER_MS = 1_000_000


class Status(StrEnum):
    """What a row of the report is worth."""

    VALID = "VALID"
    INVALID = "INVALID"
    FAILED = "FAILED"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Cell:
    """One model file on one runtime: what one child process measures.

    Args:
        bundle: Name of the bundle it belongs to (file name without suffix).
        target: The bundle's target, or "float" for the float twin.
        variant: "int8" or "float".
        backend: Runtime that opens it.
        model: The ONNX file, as the child opens it.
        model_bytes: Its size.
        model_sha256: Its hash, checked by the child.
        options: Runtime options the artefact asks for.
        unavailable: Why it cannot run here and what would help; empty if it can.
        failed: Why it must not be measured at all; empty if nothing is wrong.
    """

    bundle: str
    target: str
    variant: str
    backend: str
    model: Path
    model_bytes: int
    model_sha256: str
    options: Mapping[str, str] = field(default_factory=dict)
    unavailable: str = ""
    failed: str = ""

    @property
    def id(self) -> str:
        """Name of the cell, unique in a report."""
        where = self.backend if self.variant == "float" else self.target
        return f"{self.bundle}/{self.variant}/{where}"

    @property
    def runnable(self) -> bool:
        """Whether a child process is worth starting."""
        return not (self.unavailable or self.failed)


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
class Memory:
    """Peak resident memory of a child, and of a child that only imports the backend."""

    peak_rss_bytes: int
    baseline_rss_bytes: int

    @property
    def model_bytes(self) -> int:
        """What opening and running the model added."""
        return max(0, self.peak_rss_bytes - self.baseline_rss_bytes)

    def to_dict(self) -> dict[str, int]:
        """The JSON form."""
        return {**asdict(self), "model_bytes": self.model_bytes}


@dataclass(frozen=True)
class Stages:
    """Raw times of each stage from file to decision, nanoseconds.

    Only images that went all the way are timed: what a gate stops is faster than a screening.
    `outcomes` counts what the Screener said about every image tried.
    """

    decode_preprocess_ns: tuple[int, ...]
    infer_ns: tuple[int, ...]
    postprocess_ns: tuple[int, ...]
    end_to_end_ns: tuple[int, ...]
    outcomes: Mapping[str, int]
    screen_peak_rss_bytes: int

    @property
    def median_ms(self) -> dict[str, float]:
        """Median of each stage."""
        raw = {
            "decode_preprocess": self.decode_preprocess_ns,
            "infer": self.infer_ns,
            "postprocess": self.postprocess_ns,
            "end_to_end": self.end_to_end_ns,
        }
        return {
            name: float(statistics.round_medians([values])[0]) / NS_PER_MS
            for name, values in raw.items()
            if values
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        raw = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return {"samples": len(self.end_to_end_ns), "median_ms": self.median_ms, **raw}


@dataclass(frozen=True)
class Row:
    """One row of the report: a cell with whatever could be measured of it.

    `accuracy` is `accuracy.assess`'s JSON object; `foreign_cores` is the mean number of cores that
    other processes kept busy while this cell was timed.
    """

    cell: Cell
    status: Status
    reasons: tuple[str, ...]
    runtime_version: str = ""
    threads: int = 0
    open_ms: float | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    stages: Stages | None = None
    accuracy: Mapping[str, Any] | None = None
    self_test: str = ""
    foreign_cores: float | None = None

    @property
    def is_result(self) -> bool:
        """Whether its latency may be printed: a latency without accuracy is no result."""
        return self.latency is not None and self.accuracy is not None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        cell = self.cell
        return {
            "id": cell.id,
            "bundle": cell.bundle,
            "target": cell.target,
            "variant": cell.variant,
            "backend": cell.backend,
            "backend_version": self.runtime_version,
            "options": dict(cell.options),
            "threads": self.threads,
            "status": self.status.value,
            "reasons": list(self.reasons),
            "model_bytes": cell.model_bytes,
            "model_sha256": cell.model_sha256,
            "open_ms": self.open_ms,
            "self_test": self.self_test,
            "foreign_cores": self.foreign_cores,
            "accuracy": dict(self.accuracy) if self.accuracy is not None else None,
            "memory": self.memory.to_dict() if self.memory else None,
            "stages": self.stages.to_dict() if self.stages else None,
            "latency": self.latency.to_dict() if self.latency else None,
        }
