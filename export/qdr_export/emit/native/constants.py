"""Integers of a layer as the kernels take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from qdr_edge.errors import ExportError
from qdr_export.emit.native.steps import BLOCK, QUAD, Layer, Tensor
from qdr_export.graph.onnx_graph import GraphView

# Sums stay below this magnitude, so that rounding cannot overflow 32 bits.
_LIMIT = 2**30
_LARGEST_BYTE = 255
_LARGEST_SHIFT = 30
# Bits by which an output may be finer than the sums it comes from.
_MOST_LEFT = 16


def clamp_range(view: GraphView, node: NodeProto, exponent: int) -> tuple[int, int]:
    """The codes that a Relu or Clip lets pass."""
    if node.op_type == "Relu":
        return 0, 127
    low, high = (float(view.constants[name]) for name in node.input[1:3])
    # Clipping and then quantizing: quantization is monotone, so the bounds' codes are the bounds.
    first, last = (int(np.clip(np.rint(np.ldexp(x, -exponent)), -128, 127)) for x in (low, high))
    return first, last


def ungrouped(weight: NDArray[np.int8], groups: int, channels: int) -> NDArray[np.int8]:
    """Weights over all input channels: those of a grouped layer with zeros between the groups."""
    if groups == 1:
        return weight
    whole = np.zeros((len(weight), channels, *weight.shape[2:]), np.int8)
    outputs, inputs = len(weight) // groups, channels // groups
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole


def layer_of(
    weight: NDArray[np.int8],
    bias: NDArray[np.int64],
    exponents: NDArray[np.int64],
    given: Tensor,
    exponent: int,
    clamp: tuple[int, int],
    *,
    where: str,
) -> Layer:
    """A layer whose sums become codes by a shift.

    Args:
        weight: int8 [Cout, Cin, kh, kw], or [C, 1, kh, kw].
        bias: int64 [Cout], on the grid of the sums.
        exponents: Of that grid, for each output channel.
        given: The input.
        exponent: Of the output.
        clamp: Smallest and largest code.
        where: For messages.

    Raises:
        ExportError: A sum may leave 32 bits, or its grid is far coarser than the output's.
    """
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    shift = exponent - exponents
    # A channel without weights is a constant, whatever the scale of its weights: it gets its code.
    dead = ~flat.any(axis=1)
    constant = np.rint(np.ldexp(bias.astype(np.float64), -shift)).clip(*clamp).astype(np.int64)
    # Sums of bytes are larger than sums of codes by the zero point times the sum of the weights.
    offset = bias - given.zero * flat.sum(axis=1)
    bound = np.abs(flat).sum(axis=1) * _LARGEST_BYTE + np.abs(offset)
    if (bound[~dead] >= _LIMIT).any():
        raise ExportError(
            f"a sum may reach {int(bound[~dead].max())}",
            where=f"node {where}",
            expected=f"less than {_LIMIT}",
            fix="train again: a channel's scale is far too small for its bias",
        )
    if (shift[~dead] < -_MOST_LEFT).any():
        raise ExportError(
            f"the output's scale is 2^{int(-shift[~dead].min())} times finer than that of the sums",
            where=f"node {where}",
            expected=f"at most 2^{_MOST_LEFT}",
            fix="train again with observers that see more images",
        )
    # Beyond 30 bits every sum rounds to 0.
    vanishing = ~dead & (shift > _LARGEST_SHIFT)
    kept = np.where(vanishing.reshape(-1, 1, 1, 1), np.int8(0), weight)
    offset = np.where(dead, constant, np.where(vanishing, 0, offset))
    return Layer(kept, offset, np.where(dead | vanishing, 0, shift))


def logits_of(
    weight: NDArray[np.int8], bias: NDArray[np.int64], exponents: NDArray[np.int64], given: Tensor
) -> Layer:
    """The last layer, whose sums become float."""
    flat = weight.astype(np.int64)
    offset = bias - given.zero * flat.sum(axis=1)
    bound = int((np.abs(flat).sum(axis=1) * _LARGEST_BYTE + np.abs(offset)).max())
    sums = int((np.abs(flat).sum(axis=1) * 128 + np.abs(bias)).max())
    if bound >= _LIMIT or sums >= 2**24 or exponents.min() < -126 or exponents.max() > 100:
        raise ExportError(
            f"logits of up to {sums} steps of 2^{int(exponents.min())}",
            where="the last layer",
            expected="sums that a float32 holds exactly",
            fix="train again: a class's weight scale is far too small for its bias",
        )
    return Layer(weight[:, :, None, None], offset, exponents)


def packed(weight: NDArray[np.int8]) -> bytes:
    """Weights of a dense layer: blocks of 16 output channels, taps, quads of inputs, 16 x 4."""
    outputs, inputs, height, width = weight.shape
    blocks, quads = -(-outputs // BLOCK), -(-inputs // QUAD)
    whole = np.zeros((blocks * BLOCK, quads * QUAD, height * width), np.int8)
    whole[:outputs, :inputs] = weight.reshape(outputs, inputs, -1)
    split = whole.reshape(blocks, BLOCK, quads, QUAD, height * width)
    return np.ascontiguousarray(split.transpose(0, 4, 2, 1, 3)).tobytes()


def packed_depthwise(weight: NDArray[np.int8]) -> bytes:
    """Weights of a depthwise layer: taps, then channels, a multiple of 16 of them."""
    channels = len(weight)
    whole = np.zeros((weight[0].size, -(-channels // BLOCK) * BLOCK), np.int8)
    whole[:, :channels] = weight.reshape(channels, -1).T
    return whole.tobytes()


def lanes(values: NDArray[np.int64]) -> bytes:
    """int32, filled up with 0 to a multiple of 16."""
    whole = np.zeros(-(-len(values) // BLOCK) * BLOCK, "<i4")
    whole[: len(values)] = values
    return whole.tobytes()
