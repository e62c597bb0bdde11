"""VALID or INVALID: whether the machine was fit to measure and the artefact fit to be measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdr_bench.scenarios.multi_stream import FEWEST_QUERIES, MultiStream
from qdr_bench.scenarios.single_stream import Latency
from qdr_bench.scenarios.soak import Soak
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
        repeat_faster: Largest share by which one repeated image may be faster than drawn ones.
        late: Largest share of a soak's images that may begin late.
        rss_drift: Largest share by which memory may grow in a soak once it has settled.
        min_map: Smallest mAP of a row; None asks for none.
    """

    queries: int = minimum_queries(0.9)
    round_variation: float = 0.10
    missing_cores: float = 0.15
    duration_s: float = 0.0
    repeat_faster: float = 0.10
    late: float = 0.01
    rss_drift: float = 0.01
    min_map: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """The JSON form."""
        return dict(vars(self))


@dataclass(frozen=True)
class Evidence:
    """What one cell's verdict rests on; what was not asked for is None.

    Args:
        latency: SingleStream.
        repeated: SingleStream with one and the same image.
        multi_stream: MultiStream.
        soak: Soak.
        threads: Threads of one inference.
        cores: Cores this process may use.
        foreign_cores: Mean number of cores others kept busy; None where it cannot be read.
        self_test: What the bundle's self-test said; PASSED also where there is none.
        inconsistent: Timed queries whose logits differ from those of the same image untimed.
        accuracy: The accuracy of the same artefact, or None.
        machine: What changed about the machine meanwhile.
        unfinished: What an interrupt left undone.
    """

    latency: Latency | None
    threads: int
    cores: int
    accuracy: Mapping[str, Any] | None
    repeated: Latency | None = None
    multi_stream: MultiStream | None = None
    soak: Soak | None = None
    foreign_cores: float | None = None
    self_test: str = PASSED
    inconsistent: int = 0
    machine: Sequence[str] = ()
    unfinished: str = ""


def judge(seen: Evidence, limits: Limits) -> list[str]:
    """Every reason against a cell's measurement; none means VALID."""
    return [*_of_answers(seen, limits), *_of_times(seen, limits), *_of_machine(seen, limits)]


def _of_answers(seen: Evidence, limits: Limits) -> Iterator[str]:
    if seen.accuracy is None:
        yield "no accuracy: no data"
    elif limits.min_map is not None:
        found = seen.accuracy["map"]["value"]
        if found is None or found < limits.min_map:
            value = "undefined" if found is None else f"{100 * found:.1f} %"
            yield f"mAP is {value}, at least {100 * limits.min_map:.1f} % was asked for"
    if seen.self_test != PASSED:
        yield f"self-test: {seen.self_test}"
    if seen.inconsistent:
        yield f"{seen.inconsistent} timed outputs differ from the untimed ones"
    if seen.soak is not None and seen.soak.golden_wrong:
        yield f"soak: {seen.soak.golden_wrong} golden vectors did not come out as recorded"


def _of_times(seen: Evidence, limits: Limits) -> Iterator[str]:
    latency, repeated = seen.latency, seen.repeated
    if latency is not None:
        if latency.queries < limits.queries:
            yield f"too few queries: {latency.queries}, at least {limits.queries}"
        seconds = sum(latency.latency_ns) / 1e9
        # A round stops at its deadline, so its latencies sum to a little less than its length.
        if seconds < 0.9 * limits.duration_s:
            yield f"too short: {seconds:.1f} s, at least {limits.duration_s:.1f} s"
        if latency.round_variation > limits.round_variation:
            yield (
                f"unsteady: round medians vary by {100 * latency.round_variation:.0f} %, "
                f"at most {100 * limits.round_variation:.0f} %"
            )
    if latency is not None and repeated is not None:
        # The fastest drawn round: a machine that wakes up late must not look like a cache.
        drawn = min(statistics.median(values) for values in latency.rounds)
        same = statistics.median(repeated.latency_ns)
        if same < (1 - limits.repeat_faster) * drawn:
            yield (
                f"one repeated image is {100 * (1 - same / drawn):.0f} % faster than drawn ones: "
                "results may be cached"
            )
    if seen.multi_stream is not None and seen.multi_stream.latency.queries < FEWEST_QUERIES:
        queries = seen.multi_stream.latency.queries
        yield f"MultiStream: {queries} queries, a p99 needs {FEWEST_QUERIES}"
    soak = seen.soak
    if soak is not None:
        if soak.late > limits.late * soak.images:
            yield f"soak: {soak.late} of {soak.images} images began late"
        if soak.rss_drift > limits.rss_drift:
            yield f"soak: memory grew by {100 * soak.rss_drift:.1f} %"


def _of_machine(seen: Evidence, limits: Limits) -> Iterator[str]:
    foreign = seen.foreign_cores
    if foreign is not None and seen.cores - foreign < seen.threads - limits.missing_cores:
        yield f"other load: {foreign:.1f} of {seen.cores} cores were busy with something else"
    yield from seen.machine
    if seen.unfinished:
        yield seen.unfinished
