"""VALID or INVALID: whether the machine was fit to measure and the artefact fit to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdr_bench.measurement import Latency, Status
from qdr_bench.statistics import minimum_queries

PASSED = "passed"


@dataclass(frozen=True)
class Limits:
    """Beyond which a measurement is INVALID.

    Args:
        queries: Fewest queries; 64 carry an early-stopping p90.
        round_variation: Largest coefficient of variation of the round medians.
        missing_cores: Largest share of a thread's core that other processes may have taken.
        duration_s: Shortest time measured.
    """

    queries: int = minimum_queries(0.9)
    round_variation: float = 0.10
    missing_cores: float = 0.15
    duration_s: float = 0.0

    def to_dict(self) -> dict[str, float | int]:
        """The JSON form."""
        return dict(vars(self))


def judge(
    latency: Latency,
    limits: Limits,
    *,
    threads: int,
    cores: int,
    foreign_cores: float | None,
    self_test: str,
    inconsistent: int,
    accuracy: Mapping[str, Any] | None,
) -> tuple[Status, list[str]]:
    """Judge one cell's measurement.

    Args:
        latency: What was measured.
        limits: What is accepted.
        threads: Threads of one inference.
        cores: Cores this process may use.
        foreign_cores: Mean number of cores others kept busy; None where it cannot be read.
        self_test: What the bundle's self-test said; PASSED also where there is none.
        inconsistent: Timed queries whose logits differ from those of the same image untimed.
        accuracy: The accuracy of the same artefact, or None.

    Returns:
        The verdict, and every reason against it.
    """
    reasons = []
    if accuracy is None:
        reasons.append("no accuracy: no data")
    if self_test != PASSED:
        reasons.append(f"self-test: {self_test}")
    if inconsistent:
        reasons.append(f"{inconsistent} timed outputs differ from the untimed ones")
    if latency.queries < limits.queries:
        reasons.append(f"too few queries: {latency.queries}, at least {limits.queries}")
    seconds = sum(latency.latency_ns) / 1e9
    # A round stops at its deadline, so its latencies sum to a little less than its length.
    if seconds < 0.9 * limits.duration_s:
        reasons.append(f"too short: {seconds:.1f} s, at least {limits.duration_s:.1f} s")
    if latency.round_variation > limits.round_variation:
        reasons.append(
            f"unsteady: round medians vary by {100 * latency.round_variation:.0f} %, "
            f"at most {100 * limits.round_variation:.0f} %"
        )
    if foreign_cores is not None and cores - foreign_cores < threads - limits.missing_cores:
        reasons.append(
            f"other load: {foreign_cores:.1f} of {cores} cores were busy with something else"
        )
    return (Status.INVALID if reasons else Status.VALID), reasons
