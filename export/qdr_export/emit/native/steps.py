"""What a plan consists of: activations, and the steps that make them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUAD = 4
BLOCK = 16


@dataclass(frozen=True)
class Tensor:
    """An activation of one image, as height x width x channels codes.

    Args:
        name: Of the codes in the canonical graph.
        exponent: Of two, of the real value of one step.
        unsigned: No code is negative.
    """

    name: str
    height: int
    width: int
    channels: int
    exponent: int
    unsigned: bool

    @property
    def zero(self) -> int:
        """What is added to a code to store it as a byte."""
        return 0 if self.unsigned else 128

    @property
    def stride(self) -> int:
        """Bytes from one position to the next."""
        return -(-self.channels // QUAD) * QUAD

    @property
    def bytes(self) -> int:
        """Size."""
        return self.height * self.width * self.stride


@dataclass(frozen=True)
class Window:
    """Where a layer reads for each output position: (height, width) each."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Addition:
    """(a << left_a) + (b << left_b), shifted right and clamped."""

    left_a: int
    left_b: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True)
class Layer:
    """Integer weights of a layer.

    Args:
        weight: int8 [Cout, Cin, kh, kw]; [C, 1, kh, kw] of a depthwise layer.
        bias: int64 [Cout], what the sum of bytes times weights still lacks.
        shift: int64 [Cout]; of the logits, the exponent of each sum.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int64]
    shift: NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One operation of a plan; fields that its kind does not read keep their defaults."""

    kind: str
    inputs: tuple[str, ...] = ()
    output: str | None = None
    window: Window = Window()
    layer: Layer | None = None
    tables: NDArray[np.uint8] | None = None
    low: int = 0
    high: int = 0
    left: int = 0
    shift: int = 0
    addition: Addition | None = None
    channel: int = 0
    counts_padding: bool = False

    def with_(self, **changes: Any) -> Step:
        """The same but for some fields."""
        return replace(self, **changes)


@dataclass
class Steps:
    """A whole plan in order, the pixels first and the logits last."""

    side: int
    classes: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
