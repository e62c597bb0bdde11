"""Operators that treat every value on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qdr_export.graph.canonical import is_power_of_two
from qdr_export.reference.values import FloatArray, Quantized, Value, real


def quantize(inputs: list[Value], _: Mapping[str, Any]) -> NDArray[Any]:
    """QuantizeLinear, per tensor: saturate(round_half_even(x / scale) + zero point)."""
    x = real(inputs[0])
    scale, zero = np.asarray(inputs[1]), np.asarray(inputs[2])
    limits = np.iinfo(zero.dtype)
    # Multiplying by the inverse of a power of two is exact, whatever the float type of x.
    exact = bool(is_power_of_two(scale).all())
    steps = x * x.dtype.type(1 / scale) if exact else x.astype(np.float64) / np.float64(scale)
    np.rint(steps, out=steps)
    steps += steps.dtype.type(zero)
    np.clip(steps, limits.min, limits.max, out=steps)
    return steps.astype(zero.dtype)


def dequantize(inputs: list[Value], _: Mapping[str, Any]) -> Quantized:
    """DequantizeLinear, per tensor or along axis 0: (code − zero point) × scale."""
    codes, scale = np.asarray(inputs[0]), np.asarray(inputs[1], np.float32)
    zero = np.asarray(inputs[2]) if len(inputs) > 2 else np.zeros((), codes.dtype)
    if zero.any():
        codes = codes.astype(np.int16) - zero.astype(np.int16)
    return Quantized(codes, scale)


def cast(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """Cast of uint8 pixels to float32."""
    pixels = np.asarray(inputs[0])
    if attrs["to"] != TensorProto.FLOAT or pixels.dtype != np.uint8:
        raise ValueError("Cast is defined from uint8 to float32 only")
    return pixels.astype(np.float32)


def relu(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Relu."""
    x = real(inputs[0])
    return np.maximum(x, x.dtype.type(0))


def clip(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Clip to constant bounds."""
    x, low, high = real(inputs[0]), np.asarray(inputs[1]), np.asarray(inputs[2])
    result: FloatArray = np.clip(x, x.dtype.type(low), x.dtype.type(high))
    return result


def add(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Add with broadcasting: float64 of dequantized values, float32 of pixels and a constant."""
    result: FloatArray = real(inputs[0]) + real(inputs[1])
    return result


def mul(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Mul with broadcasting: float64 of dequantized values, float32 of pixels and a constant."""
    result: FloatArray = real(inputs[0]) * real(inputs[1])
    return result


def hardswish(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """HardSwish: x·clip(x + 3, 0, 6) / 6; the numerator is exact, the division rounds once."""
    x = real(inputs[0]).astype(np.float64)
    result: FloatArray = x * np.clip(x + 3, 0, 6) / 6
    return result


def hardsigmoid(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """HardSigmoid with alpha 1/6, beta 1/2: clip(x + 3, 0, 6) / 6."""
    if np.float32(attrs.get("alpha", 0.2)) != np.float32(1 / 6) or attrs.get("beta", 0.5) != 0.5:
        raise ValueError("HardSigmoid is defined with alpha 1/6 and beta 1/2 only")
    result: FloatArray = np.clip(real(inputs[0]).astype(np.float64) + 3, 0, 6) / 6
    return result


def sigmoid(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Sigmoid, float64; written so that the exponential cannot overflow."""
    x = real(inputs[0]).astype(np.float64)
    small = np.exp(-np.abs(x))
    result: FloatArray = np.where(x >= 0, 1.0, small) / (1 + small)
    return result
