"""From uint8 pixels to the network's first codes: what stands before the first quantization.

A file's input is either pixels, then what it does to them is in the graph; or floats, then the
user says how they were made (--mean, --std). Both are one affine map for each colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import ExportError
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_export.importer.drafts import PIXELS, Grid

ALL_PIXELS = np.arange(256)
# A code this near to a tie between two may be rounded either way by a runtime's float32.
_TIE = 1e-3


@dataclass(frozen=True)
class Affine:
    """pixel × weight + bias, float64 [3] each, red, green, blue."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def identity(cls) -> Affine:
        """The pixels themselves."""
        return cls(np.ones(3), np.zeros(3))

    @property
    def float32(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As a checkpoint stores it."""
        return self.weight.astype(np.float32), self.bias.astype(np.float32)

    def is_centred(self, grid: Grid) -> bool:
        """Whether its codes on a grid are the pixels: every operator then reads them directly."""
        centred = Affine(np.full(3, INPUT_SCALE), np.full(3, -INPUT_ZERO_POINT * INPUT_SCALE))
        return (
            grid == PIXELS
            and np.array_equal(self.float32[0], centred.float32[0])
            and np.array_equal(self.float32[1], centred.float32[1])
        )

    def codes(self, grid: Grid) -> NDArray[np.float64]:
        """Codes of every pixel value before rounding, [3, 256]."""
        real = ALL_PIXELS * self.weight[:, None] + self.bias[:, None]
        result: NDArray[np.float64] = np.clip(real / grid.scale + grid.zero_point, 0, 255)
        return result

    def is_exact(self, grid: Grid) -> bool:
        """Whether no pixel value lies near a tie, so that every runtime rounds it alike."""
        weight, bias = self.float32
        steps = Affine(weight.astype(np.float64), bias.astype(np.float64)).codes(grid)
        return bool((np.abs(steps - np.floor(steps) - 0.5) > _TIE).all())


@dataclass(frozen=True)
class MeanStd:
    """How the floats that a file expects are made of pixels: (pixel / 255 − mean) / std.

    Args:
        mean: Of each colour, in 0..1.
        std: Of each colour, in 0..1.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(np.isfinite((*self.mean, *self.std))) or min(self.std) <= 0:
            raise ExportError(
                f"mean {self.mean}, std {self.std}",
                expected="finite numbers, std above 0",
                fix="give what the network was trained with, in units of a pixel / 255",
            )

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Floats of a batch [N, 3, S, S], as a training pipeline computes them."""
        mean = np.array(self.mean, np.float32).reshape(1, 3, 1, 1)
        std = np.array(self.std, np.float32).reshape(1, 3, 1, 1)
        result: NDArray[np.float32] = (images.astype(np.float32) / np.float32(255) - mean) / std
        return result

    @property
    def affine(self) -> Affine:
        """The same as one multiplication and one addition."""
        mean, std = np.array(self.mean), np.array(self.std)
        return Affine(1 / (255 * std), -mean / std)
