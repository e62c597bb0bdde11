"""What a benchmark holds: frozen values with raw latencies, from which figures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from qdr_bench import statistics
from qdr_bench.scenarios.cold_start import ColdStart
from qdr_bench.scenarios.multi_stream import MultiStream
from qdr_bench.scenarios.offline import Offline
from qdr_bench.scenarios.single_stream import NS_PER_MS, Latency
from qdr_bench.scenarios.soak import Soak


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
        target: The bundle's target, "float" for the float twin, "peer" for what another tool made.
        variant: "int8" or "float".
        backend: Runtime that opens it.
        model: The ONNX file, as the child opens it.
        model_bytes: Its size.
        model_sha256: Its hash, checked by the child.
        options: Runtime options the artefact asks for.
        form: How it is run where that is not said by `variant`, e.g. "channels_last".
        device: "cpu", "cuda", "gpu" or "npu".
        batch: Images an inference.
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
    form: str = ""
    device: str = "cpu"
    batch: int = 1

    @property
    def id(self) -> str:
        """Name of the cell, unique among those measured with as many threads."""
        where = self.backend if self.target in ("float", "peer") else self.target
        return f"{self.bundle}/{self.form or self.variant}/{where}"

    @property
    def runnable(self) -> bool:
        """Whether a child process is worth starting."""
        return not (self.unavailable or self.failed)


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
    """Raw times of each stage from file to decision, nanoseconds, and "end_to_end".

    A device with a memory of its own has "h2d" and "d2h", the copies around "infer".

    Only images that went all the way are timed: what a gate stops is faster than a screening.
    `outcomes` counts what the Screener said about every image tried.
    """

    times_ns: Mapping[str, Sequence[int]]
    outcomes: Mapping[str, int]
    screen_peak_rss_bytes: int

    @property
    def median_ms(self) -> dict[str, float]:
        """Median of each stage."""
        return {
            name: float(statistics.round_medians([values])[0]) / NS_PER_MS
            for name, values in self.times_ns.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        samples = len(self.times_ns.get("end_to_end", ()))
        return {"samples": samples, "median_ms": self.median_ms, **vars(self)}


@dataclass(frozen=True)
class Row:
    """One row of the report: a cell with whatever could be measured of it.

    `accuracy` is `accuracy.assess`'s JSON object; `foreign_cores` is the mean number of cores that
    other processes kept busy while this cell was timed; `engine` is what `engine.build` answered.
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
    multi_stream: MultiStream | None = None
    offline: Offline | None = None
    cold_start: ColdStart | None = None
    soak: Soak | None = None
    energy: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

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
            "form": cell.form or cell.variant,
            "device": cell.device,
            "batch": cell.batch,
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
            "multi_stream": self.multi_stream.to_dict() if self.multi_stream else None,
            "offline": self.offline.to_dict() if self.offline else None,
            "cold_start": self.cold_start.to_dict() if self.cold_start else None,
            "soak": self.soak.to_dict() if self.soak else None,
            "energy": dict(self.energy) if self.energy else None,
            "engine": dict(self.engine) if self.engine else None,
            "machine": {"before": self.before, "after": self.after},
        }
