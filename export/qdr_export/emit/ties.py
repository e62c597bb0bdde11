"""Scales that keep float32 on the reference's side of every tie.

Between integers, a runtime computes in float32 and the reference as exactly as it can. Where a
value lies so near to the middle between two codes that the difference decides, the codes differ.
For operators of one code or one pixel all values are known in advance: 256 of them, three times
for normalized pixels. Where one is too near to a tie, the quantization divides by a scale that is
less than a ten-thousandth off, chosen so that every code stays what it is and none is near; what
dequantizes keeps the true scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from qdr_export.emit.rewrite import Rewriter
from qdr_export.onnx_graph import GraphView

# Twice what ONNX Runtime's and OpenVINO's sigmoid were seen to be off, which is below 2⁻²³.
_SIGMOID_ERROR = 2.0**-22
# Of a float32 operation, relative: half a unit in the last place, and as much again.
_ROUNDING = 2.0**-23
# OpenVINO turns product, sum and quantization into one formula; in steps.
_FOLDED_ERROR = 2.0**-14


@dataclass(frozen=True)
class Values:
    """The values that a quantization can meet.

    Args:
        real: As the reference computes them, float64.
        error: How far a runtime may be off, float64; 0 where float32 is exact.
    """

    real: NDArray[np.float64]
    error: NDArray[np.float64]


def quantizer_scale(r: Rewriter, quantize: NodeProto) -> str:
    """Name of the scale that a Q divides by in the new graph."""
    values = _values(r.view, quantize)
    scale = np.float32(r.view.scale(quantize))
    if values is not None:
        zero = r.view.zero_point(quantize)
        limits = np.iinfo(zero.dtype)
        steady = steady_scale(values, scale, limits.min - int(zero), limits.max - int(zero))
        if steady is not None and steady != scale:
            return r.out.constant(steady)
    return r.name(quantize.input[1])


def steady_scale(values: Values, scale: np.float32, low: int, high: int) -> np.float32 | None:
    """The scale itself if no value is near a tie, else one nearby under which none is.

    Args:
        values: What may be quantized.
        scale: The true scale.
        low: Smallest step, −128 − zero point for int8.
        high: Largest step.

    Returns:
        None if no scale gives every value its step.
    """
    step = np.clip(np.rint(values.real / np.float64(scale)), low, high)
    # value + error < (step + ½)·scale and value − error > (step − ½)·scale, solved for the scale;
    # dividing by a negative number turns the sign.
    above = ((values.real + values.error) / (step + 0.5))[step < high]
    below = ((values.real - values.error) / (step - 0.5))[step > low]
    above_side, below_side = (step + 0.5 > 0)[step < high], (step - 0.5 > 0)[step > low]
    least = max(above[above_side].max(initial=0), below[~below_side].max(initial=0))
    most = min(above[~above_side].min(initial=np.inf), below[below_side].min(initial=np.inf))
    if least <= scale <= most:
        return scale
    # As near to the true scale as float32 can tell from the bound, but not beyond the middle.
    inside = min(float(scale) * _ROUNDING * 4, (most - least) / 2)
    nearest = np.float32(least + inside if scale < least else most - inside)
    return nearest if least < nearest < most else None


def _values(view: GraphView, quantize: NodeProto) -> Values | None:
    producer = view.producer(quantize.input[0])
    if producer is None:
        return None
    if producer.op_type == "Sigmoid":
        x = _codes(view, producer.input[0])
        if x is None:
            return None
        gate = _sigmoid(x)
        return Values(gate, _SIGMOID_ERROR + gate * _ROUNDING)
    if producer.op_type == "Mul":
        gate_node = view.producer(producer.input[1])
        x = _codes(view, producer.input[0])
        if x is None or gate_node is None or gate_node.op_type != "Sigmoid":
            return None
        if gate_node.input[0] != producer.input[0]:
            return None
        real = x * _sigmoid(x)
        return Values(real, np.abs(x) * _SIGMOID_ERROR + np.abs(real) * _ROUNDING)
    return _normalized(view, producer, view.scale(quantize))


def _codes(view: GraphView, tensor: str) -> NDArray[np.float64] | None:
    """Every real value that a dequantized tensor can hold."""
    node = view.dequantized(tensor)
    if node is None:
        return None
    zero = view.zero_point(node)
    limits = np.iinfo(zero.dtype)
    codes = np.arange(limits.min, limits.max + 1, dtype=np.float64)
    values: NDArray[np.float64] = (codes - float(zero)) * float(view.scale(node))
    return values


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(x))
    result: NDArray[np.float64] = np.where(x >= 0, 1.0, small) / (1 + small)
    return result


def _normalized(view: GraphView, add: NodeProto, scale: NDArray[np.float32]) -> Values | None:
    product = view.producer(add.input[0]) if add.op_type == "Add" else None
    cast = view.producer(product.input[0]) if product is not None else None
    if product is None or cast is None or cast.op_type != "Cast":
        return None
    weight, bias = view.constants[product.input[1]], view.constants[add.input[1]]
    pixels = np.arange(256, dtype=np.float32)
    scaled = pixels * weight.reshape(-1, 1)  # [3, 256]
    real = (scaled + bias.reshape(-1, 1)).astype(np.float64)
    wide = pixels.astype(np.float64) * weight.reshape(-1, 1) + bias.reshape(-1, 1)
    error = (np.abs(scaled) + np.abs(real)) * _ROUNDING + float(scale) * _FOLDED_ERROR
    # Where float64 finds the same, nothing was rounded, in whatever order.
    return Values(real.reshape(-1), np.where(wide == real, 0.0, error).reshape(-1))
