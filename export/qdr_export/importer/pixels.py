"""From uint8 pixels to the network's first codes: what stands before the first quantization.

A file's input is either pixels, then what it does to them is in the graph; or floats, then the
user says how they were made (--mean, --std). Both are one affine map for each colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import ExportError
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_export.importer.drafts import PIXELS, Draft, Grid
from qdr_export.importer.findings import Findings

ALL_PIXELS = np.arange(256)
# A code this near to a tie between two may be rounded either way by a runtime's float32.
_TIE = 5e-4
# How far a bias may be moved away from ties, in steps.
_SHIFTS = tuple(sign * size for size in (0.001, 0.002, 0.005, 0.02, 0.1, 0.25) for sign in (1, -1))


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
        return _saturated(real / grid.scale, grid)

    def rounded(self, grid: Grid) -> NDArray[np.float64]:
        """Codes of every pixel value as a runtime computes them in float32, [3, 256]."""
        weight, bias = self.float32
        real = ALL_PIXELS.astype(np.float32) * weight[:, None] + bias[:, None]
        return _saturated(np.rint(real / np.float32(grid.scale)), grid)

    def is_exact(self, grid: Grid) -> bool:
        """Whether no pixel value lies near a tie, so that every runtime rounds it alike."""
        weight, bias = self.float32
        steps = Affine(weight.astype(np.float64), bias.astype(np.float64)).codes(grid)
        return bool((np.abs(steps - np.floor(steps) - 0.5) > _TIE).all())

    def away_from_ties(self, grid: Grid, wanted: NDArray[np.float64]) -> Affine:
        """The same map, its bias moved by less than a step so that no pixel value lies near a tie.

        A calibrated range of all pixel values puts each of them half-way between two codes, where
        the last bit of a float decides.

        Args:
            grid: The codes it is rounded to.
            wanted: Codes that the file itself gives, [3, 256]; the best match is taken.
        """
        if self.is_exact(grid):
            return self
        moved = [Affine(self.weight, self.bias + shift * grid.scale) for shift in _SHIFTS]
        settled = [affine for affine in moved if affine.is_exact(grid)] or [self]
        return min(settled, key=lambda affine: (affine.rounded(grid) != wanted).sum())


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

    def codes(self, grid: Grid) -> NDArray[np.float64]:
        """Codes of every pixel value as a runtime computes them in float32, [3, 256]."""
        every = np.broadcast_to(ALL_PIXELS.astype(np.uint8), (1, 3, 1, 256))
        return _saturated(np.rint(self.apply(every)[0, :, 0] / np.float32(grid.scale)), grid)

    @property
    def affine(self) -> Affine:
        """The same as one multiplication and one addition."""
        mean, std = np.array(self.mean), np.array(self.std)
        return Affine(1 / (255 * std), -mean / std)


def settle_ties(drafts: list[Draft], pixels: MeanStd | None, findings: Findings) -> None:
    """Make every runtime round pixels alike, and as the file does as far as it can be said.

    Args:
        drafts: Those of `normalize` are changed.
        pixels: How the file's float input is made; None if its graph says it.
        findings: Where the codes that differ are told.
    """
    for draft in drafts:
        if draft.affine is None or draft.grid is None:
            continue
        stored = Affine(*(part.astype(np.float64) for part in draft.affine))
        wanted = pixels.codes(draft.grid) if pixels else stored.rounded(draft.grid)
        settled = stored.away_from_ties(draft.grid, wanted)
        draft.affine = settled.float32
        differ = int((settled.rounded(draft.grid) != wanted).sum())
        if settled is not stored or differ:
            findings.normalised(
                "pixel-ties",
                draft.place,
                "pixel values lay half-way between two codes: the bias moved by "
                f"{float(np.abs(settled.bias - stored.bias).max() / draft.grid.scale):.2g} steps, "
                f"{differ} of {wanted.size} codes differ by one",
                exact=not differ,
            )


def _saturated(steps: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    codes: NDArray[np.float64] = np.clip(steps.astype(np.float64) + grid.zero_point, 0, 255)
    return codes
