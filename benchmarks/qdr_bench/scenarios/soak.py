"""Soak: images at a camera's pace for a long time – does anything drift, lag or go wrong?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from qdr_bench import statistics
from qdr_bench.child import Child
from qdr_bench.scenarios.single_stream import NS_PER_MS

GOLDEN_EVERY = 100
SLICE_S = 5.0


@dataclass(frozen=True)
class Slice:
    """A piece of the soak.

    Args:
        at_s: When it ended, since the start.
        latency_ns: Of every image, from file to decision.
        late: Images that began later than their turn by more than a period.
        golden_checks: Golden vectors that were run.
        golden_wrong: Golden vectors that did not come out as recorded.
        rss_bytes: Resident memory of the process at the end.
        temperature_c: The hottest zone then; None where none can be read.
    """

    at_s: float
    latency_ns: tuple[int, ...]
    late: int
    golden_checks: int
    golden_wrong: int
    rss_bytes: int
    temperature_c: float | None


@dataclass(frozen=True)
class Soak:
    """A whole soak, or as much of it as there was time for."""

    images_per_second: float
    slices: tuple[Slice, ...]

    @property
    def golden_wrong(self) -> int:
        """Golden vectors that came out wrong."""
        return sum(part.golden_wrong for part in self.slices)

    @property
    def late(self) -> int:
        """Images that began late."""
        return sum(part.late for part in self.slices)

    @property
    def images(self) -> int:
        """Images screened."""
        return sum(len(part.latency_ns) for part in self.slices)

    @property
    def settled_rss_bytes(self) -> tuple[int, int]:
        """Resident memory in the second tenth, when pools are filled, and in the last tenth.

        Medians: what comes and goes from slice to slice is no trend.
        """
        tenth = max(1, len(self.slices) // 10)
        parts = self.slices[tenth : 2 * tenth] or self.slices, self.slices[-tenth:]
        first, last = (int(median(part.rss_bytes for part in some)) for some in parts)
        return first, last

    @property
    def rss_drift(self) -> float:
        """Share by which memory grew since it had settled."""
        first, last = self.settled_rss_bytes
        return last / first - 1

    def p99_ms(self, parts: Sequence[Slice]) -> float | None:
        """p99 of some slices; None where they hold too few images."""
        return _percentile_ms([value for part in parts for value in part.latency_ns], 0.99)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; a thousand images and more carry a p99 of the first and last third."""
        third = max(1, len(self.slices) // 3)
        first, last = self.settled_rss_bytes
        return {
            "seconds": self.slices[-1].at_s,
            "images_per_second_asked": self.images_per_second,
            "images": self.images,
            "late": self.late,
            "golden_checks": sum(part.golden_checks for part in self.slices),
            "golden_wrong": self.golden_wrong,
            "rss_first_bytes": first,
            "rss_last_bytes": last,
            "rss_drift": self.rss_drift,
            "p99_first_ms": self.p99_ms(self.slices[:third]),
            "p99_last_ms": self.p99_ms(self.slices[-third:]),
            "timeline": [
                {
                    "at_s": part.at_s,
                    "p50_ms": _percentile_ms(part.latency_ns, 0.5),
                    "p99_ms": self.p99_ms([part]),
                    "rss_bytes": part.rss_bytes,
                    "temperature_c": part.temperature_c,
                }
                for part in self.slices
            ],
        }


def _percentile_ms(latency_ns: Sequence[int], percentile: float) -> float | None:
    value = statistics.percentile_ns(latency_ns, percentile)
    return None if value is None else value / NS_PER_MS


def run_soak(
    child: Child,
    screening: Mapping[str, Any],
    files: Sequence[str],
    *,
    seconds: float,
    images_per_second: float,
    seed: int,
    keep: Callable[[Slice], None],
    temperature: Callable[[], float | None],
) -> None:
    """Screen images at a steady pace; `keep` gets each slice when it is done, so none is lost.

    Args:
        child: A process that holds nothing else.
        screening: bundle, target, threads and allow_unsigned.
        files: Images to draw from.
        seconds: How long.
        images_per_second: The camera's pace.
        seed: Of the images drawn.
        keep: Called with every slice.
        temperature: Reads the hottest zone.

    Raises:
        BenchmarkError: The child failed.
    """
    child.call("soak_open", files=list(files), seed=seed, **screening)
    done = 0.0
    while done < seconds:
        length = min(SLICE_S, seconds - done)
        answer = child.call(
            "soak_slice",
            seconds=length,
            images_per_second=images_per_second,
            golden_every=GOLDEN_EVERY,
        )
        done += length
        keep(
            Slice(
                done,
                tuple(answer["latency_ns"]),
                answer["late"],
                answer["golden_checks"],
                answer["golden_wrong"],
                answer["rss_bytes"],
                temperature(),
            )
        )
