"""Operators that move or pool positions and channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qdr_export.graph.operators import NEAREST
from qdr_export.reference.values import FloatArray, Quantized, Value, pad, real


def max_pool(inputs: list[Value], attrs: Mapping[str, Any]) -> Value:
    """MaxPool; padding never wins. On a quantized tensor it selects codes."""
    value = inputs[0]
    x = value.codes if isinstance(value, Quantized) else value
    kernel, strides = attrs["kernel_shape"], attrs.get("strides", (1, 1))
    lowest = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    padded = pad(x, attrs.get("pads", (0, 0, 0, 0)), lowest)
    windows = sliding_window_view(padded, tuple(kernel), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    pooled = windows[..., 0, 0].copy()
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            np.maximum(pooled, windows[..., row, column], out=pooled)
    return Quantized(pooled, value.scale) if isinstance(value, Quantized) else pooled


def average_pool(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """AveragePool: exact integer sum × scale, divided by the number of positions.

    Padding is 0 and counts only with count_include_pad.
    """
    value = inputs[0]
    x = value.codes.astype(np.int64) if isinstance(value, Quantized) else value.astype(np.float64)
    total = _window_sum(x, attrs)
    count = np.prod(attrs["kernel_shape"])
    if not attrs.get("count_include_pad", 0):
        count = _window_sum(np.ones((1, 1, *x.shape[2:]), np.int64), attrs)
    scale = np.float64(value.scale) if isinstance(value, Quantized) else np.float64(1)
    result: FloatArray = total * scale / count
    return result


def _window_sum(x: NDArray[Any], attrs: Mapping[str, Any]) -> NDArray[Any]:
    if attrs.get("ceil_mode", 0) or attrs.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("AveragePool is defined with explicit pads and floor mode only")
    kernel, strides = attrs["kernel_shape"], attrs.get("strides", (1, 1))
    windows = sliding_window_view(
        pad(x, attrs.get("pads", (0, 0, 0, 0)), 0), tuple(kernel), axis=(2, 3)
    )
    windows = windows[:, :, :: strides[0], :: strides[1]]
    total = np.zeros(windows.shape[:4], x.dtype)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            total += windows[..., row, column]
    return total


def global_average_pool(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """GlobalAveragePool: exact integer sum × scale, divided by the number of positions."""
    value = inputs[0]
    if not isinstance(value, Quantized):
        mean: FloatArray = value.astype(np.float64).mean(axis=(2, 3), keepdims=True)
        return mean
    total = value.codes.sum(axis=(2, 3), keepdims=True, dtype=np.int64)
    result: FloatArray = total * np.float64(value.scale) / np.prod(value.codes.shape[2:])
    return result


def resize(inputs: list[Value], attrs: Mapping[str, Any]) -> Value:
    """Resize by whole factors, nearest: every position is repeated. Codes stay as they are."""
    found = {name: attrs.get(name) for name in NEAREST}
    if found != {name: mode.encode() for name, mode in NEAREST.items()}:
        raise ValueError("Resize is defined as nearest, asymmetric, floor only")
    factors = [float(factor) for factor in np.asarray(inputs[1])]
    if factors[:2] != [1, 1] or not all(f >= 1 and f.is_integer() for f in factors[2:]):
        raise ValueError("Resize is defined by whole factors of height and width only")
    value = inputs[0]
    x = value.codes if isinstance(value, Quantized) else value
    larger = x.repeat(int(factors[2]), axis=2).repeat(int(factors[3]), axis=3)
    return Quantized(larger, value.scale) if isinstance(value, Quantized) else larger


def concat(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """Concat of channels, as real values: every input has a scale of its own."""
    if attrs["axis"] != 1:
        raise ValueError("Concat is defined along axis 1 only")
    result: FloatArray = np.concatenate([real(value) for value in inputs], axis=1)
    return result


def flatten(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    """Flatten to [N, C·H·W]."""
    value = inputs[0]
    if isinstance(value, Quantized):
        return Quantized(value.codes.reshape(len(value.codes), -1), value.scale)
    return value.reshape(len(value), -1)
