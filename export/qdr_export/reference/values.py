"""What a tensor is while it is interpreted: integers with a scale, or real values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Quantized:
    """A dequantized tensor that remembers its integers.

    Args:
        codes: Integers minus zero point, any integer or float dtype, [N, …] or weights [Cout, …].
        scale: Float32, [] or [Cout] along axis 0.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]

    @property
    def largest(self) -> int:
        """A bound of the codes' magnitude; uint8 minus a zero point is stored as int16."""
        return 128 if self.codes.dtype == np.int8 else 255

    def real(self) -> NDArray[np.float64]:
        """The real values, float64."""
        scale = self.scale.astype(np.float64)
        if scale.ndim:
            scale = scale.reshape(-1, *[1] * (self.codes.ndim - 1))
        result: NDArray[np.float64] = self.codes.astype(np.float64) * scale
        return result


# A tensor while it is interpreted: integers as stored, integers with a scale, or real values.
Value = NDArray[Any] | Quantized


def real(value: Value) -> FloatArray:
    """The real values of a tensor."""
    if isinstance(value, Quantized):
        return value.real()
    return value


def pad(x: NDArray[Any], pads: tuple[int, ...], value: float) -> NDArray[Any]:
    """An image batch [N, C, H, W] with a border of one value; pads as ONNX orders them."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
