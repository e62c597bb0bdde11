"""ColdStart: a new process each time – imports, opening with self-test, the first decision."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdr_bench.child import Child

PARTS = ("import", "open", "first_decision", "total")


@dataclass(frozen=True)
class ColdStart:
    """Raw times of each part of a start, nanoseconds; one value a start.

    The file system's cache is warm: dropping it needs privileges that a benchmark should not ask
    for.

    Args:
        samples_ns: By part.
        cached: Whether the runtime found what it keeps of its own, as TensorRT its engine; None
            for a runtime that keeps nothing.
    """

    samples_ns: Mapping[str, Sequence[int]]
    cached: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: medians, then every start."""
        medians = {f"{part}_ms": statistics.median(self.samples_ns[part]) / 1e6 for part in PARTS}
        samples = {part: list(values) for part, values in self.samples_ns.items()}
        starts = len(self.samples_ns["total"])
        return {"starts": starts, **medians, "samples_ns": samples, "cached": self.cached}


def start_once(name: str, screening: Mapping[str, Any], image: str) -> dict[str, int]:
    """Start a process that opens a bundle and screens one image.

    Args:
        name: What to call it in messages.
        screening: bundle, target, threads and allow_unsigned.
        image: The file to screen.

    Raises:
        BenchmarkError: It failed.
    """
    child = Child(name)
    try:
        answer: dict[str, int] = child.call("cold_start", image=image, **screening)
    finally:
        child.close()
    return answer
