"""Offline: all images are there at once; what counts is how many are answered in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qdr_bench.child import Child


@dataclass(frozen=True)
class Pass:
    """One turn of a cell: so many images in so many seconds."""

    images: int
    seconds: float


@dataclass(frozen=True)
class Offline:
    """Throughput of a cell.

    Args:
        batch: Images the runtime is given at once. Artefacts have a batch of 1: a session hands
            over one image after the other.
        passes: One a round.
    """

    batch: int
    passes: tuple[Pass, ...]

    @property
    def images_per_second(self) -> float:
        """Images of all rounds by their time."""
        return sum(p.images for p in self.passes) / sum(p.seconds for p in self.passes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "batch": self.batch,
            "images": sum(p.images for p in self.passes),
            "seconds": sum(p.seconds for p in self.passes),
            "images_per_second": self.images_per_second,
            "rounds_images_per_second": [p.images / p.seconds for p in self.passes],
        }


def run_pass(child: Child, seconds: float) -> Pass:
    """Let a child answer its whole pool again and again.

    Raises:
        BenchmarkError: The child failed.
    """
    answer = child.call("offline", seconds=seconds)
    return Pass(answer["images"], answer["wall_ns"] / 1e9)
