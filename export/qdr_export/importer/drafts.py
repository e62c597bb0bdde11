"""What the walk collects: operators with their tensors' grids still open."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT


@dataclass(frozen=True)
class Grid:
    """The codes of a tensor, as uint8: int8 code c with zero point z is code c + 128 with z + 128.

    Args:
        scale: Real value of a step; a float32 number.
        zero_point: Code of the real value 0, 0..255.
    """

    scale: float
    zero_point: int

    @property
    def text(self) -> str:
        """For messages."""
        return f"scale {self.scale:.6g}, zero point {self.zero_point} of uint8"


PIXELS = Grid(INPUT_SCALE, INPUT_ZERO_POINT)
"""The grid of `pixels` themselves, for every operator but `normalize`."""


@dataclass
class Weights:
    """Weight and bias of a conv or linear operator.

    Args:
        codes: Integers with zero point 0, int16 [Cout, …]; None for a layer in float.
        scale: Float32 [Cout]; None for a layer in float.
        real: Float32 [Cout, …], of a layer in float.
        bias: Float64 [Cout].
        bias_scale: Grid of a stored integer bias, float32 [Cout]; None if it was stored in float.
    """

    codes: NDArray[np.int16] | None
    scale: NDArray[np.float32] | None
    real: NDArray[np.float32] | None
    bias: NDArray[np.float64]
    bias_scale: NDArray[np.float32] | None = None


@dataclass
class Draft:
    """One operator of the network to be.

    Args:
        name: Unique.
        op: A key of `graph.OPERATORS`.
        reads: Names of the operators it reads; "pixels" is the input.
        place: Where it stands in the file, for messages.
        tensor: Name of its float output in the file, behind a fused activation.
        attrs: As of `graph.Node`.
        activation: As of `graph.Node`.
        weights: Of conv and linear.
        affine: Weight and bias of `normalize`, float32 [3] each.
        rank: Dimensions of its output, if known.
        grid: Of its output; None while the file names none.
        unquantized: Names of operators that read its output without a rounding.
    """

    name: str
    op: str
    reads: list[str]
    place: str
    tensor: str
    attrs: dict[str, int | tuple[int, int]] = field(default_factory=dict)
    activation: str = ""
    weights: Weights | None = None
    affine: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    rank: int | None = None
    grid: Grid | None = None
    unquantized: list[str] = field(default_factory=list)
