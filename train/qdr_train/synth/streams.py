"""Named random streams: every stage of every image has its own, so a sign moves nothing else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np


def stream(seed: int, *path: int | str) -> np.random.Generator:
    """Open the random stream that belongs to one place of the data set.

    Args:
        seed: data-set seed, >= 0.
        path: patient index, eye, shot and stage name, outermost first. Names are hashed by CRC-32
            because Python's own `hash` of a string differs from process to process.

    Returns:
        A generator that depends on `seed` and `path` alone: not on workers, order or global state.
    """
    keys = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in path]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *keys])))


@dataclass(frozen=True)
class EyeStreams:
    """The streams of one eye."""

    seed: int
    patient: int
    side: str

    def open(self, *path: int | str) -> np.random.Generator:
        """Open one stream of this eye by stage name, or by exposure number and stage name."""
        return stream(self.seed, self.patient, self.side, *path)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw one float in [low, high)."""
    return float(rng.uniform(low, high))


def normal(rng: np.random.Generator, mean: float, sigma: float, clip: float = 2.0) -> float:
    """Draw one normal value, clipped at `clip` sigmas: no eye leaves what anatomy allows."""
    return mean + sigma * float(np.clip(rng.standard_normal(), -clip, clip))
