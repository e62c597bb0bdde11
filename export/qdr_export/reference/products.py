"""Convolution and matrix product: sums of integer products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qdr_export.graph.canonical import is_power_of_two
from qdr_export.reference.values import FloatArray, Quantized, Value, pad, real

# float32 holds every integer of smaller magnitude.
_FLOAT32_EXACT = 2**24


def conv(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """Conv: integer accumulation, then × input scale × weight scale; [N, Cout, H', W'].

    With float weights: the sum of real products in float64.
    """
    if not isinstance(inputs[1], Quantized):
        x, weight, bias = _float_operands(inputs)
        return _correlate(x, weight, attrs) + bias.reshape(1, -1, 1, 1)
    data, w, codes = _integer_operands(inputs)
    dtype = _accumulator(data, w, codes)
    acc = _correlate(data.codes.astype(dtype), w.codes.astype(dtype), attrs)
    return _rescale(acc, data, w, codes, shape=(1, -1, 1, 1))


def _correlate(codes: FloatArray, weight: FloatArray, attrs: Mapping[str, Any]) -> FloatArray:
    """Sums of products under a moving kernel, in the operands' dtype."""
    groups = attrs.get("group", 1)
    kernel = weight.shape[2:]
    strides, dilations = attrs.get("strides", (1, 1)), attrs.get("dilations", (1, 1))
    codes = pad(codes, attrs.get("pads", (0, 0, 0, 0)), 0)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    # [N, C, H', W', kh, kw], a view: no copy yet
    windows = sliding_window_view(codes, extent, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    n, channels, height, width = windows.shape[:4]
    if groups == channels == len(weight):
        acc = _depthwise(windows, weight)
    else:
        # [N, G, C/G·kh·kw, H'·W']
        columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, -1, height * width)
        rows = weight.reshape(groups, len(weight) // groups, -1)
        acc = np.matmul(rows, columns)
    return acc.reshape(n, len(weight), height, width)


def gemm(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """Gemm with transB: integer accumulation, then × input scale × weight scale; [N, K].

    With float weights: the sum of real products in float64.
    """
    if attrs.get("transB") != 1 or attrs.get("transA", 0) != 0:
        raise ValueError("Gemm is defined with transB = 1 only")
    if not isinstance(inputs[1], Quantized):
        real, weight, offset = _float_operands(inputs)
        return real @ weight.T + offset
    x, w, bias = _integer_operands(inputs)
    dtype = _accumulator(x, w, bias)
    acc = x.codes.astype(dtype) @ w.codes.astype(dtype).T
    return _rescale(acc, x, w, bias, shape=(1, -1))


def _float_operands(inputs: list[Value]) -> list[NDArray[np.float64]]:
    """Input, weight and bias of a layer in float."""
    if len(inputs) != 3:
        raise ValueError("a layer in float has a bias")
    return [real(value).astype(np.float64) for value in inputs]


def _integer_operands(inputs: list[Value]) -> tuple[Quantized, Quantized, NDArray[np.int64]]:
    x, w = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    if not isinstance(x, Quantized) or not isinstance(w, Quantized):
        raise ValueError("input and weight must come from DequantizeLinear")
    if bias is None:
        return x, w, np.zeros(len(w.codes), np.int64)
    grid = x.scale * w.scale
    if not isinstance(bias, Quantized) or not np.array_equal(bias.scale, grid):
        raise ValueError("bias must be int32 at input scale × weight scale")
    return x, w, bias.codes.astype(np.int64)


def _accumulator(x: Quantized, w: Quantized, bias: NDArray[np.int64]) -> type[Any]:
    """float32 where no partial sum can leave its integers, else float64 (exact below 2⁵³)."""
    rows = np.abs(w.codes.reshape(len(w.codes), -1).astype(np.int64)).sum(axis=1)
    bound = int((rows * x.largest + np.abs(bias)).max(initial=0))
    return np.float32 if bound < _FLOAT32_EXACT else np.float64


def _depthwise(windows: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    acc = np.zeros(windows.shape[:4], weight.dtype)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            acc += windows[..., row, column] * weight[:, 0, row, column].reshape(1, -1, 1, 1)
    return acc


def _rescale(
    acc: NDArray[Any],
    x: Quantized,
    w: Quantized,
    bias: NDArray[np.int64],
    shape: tuple[int, ...],
) -> FloatArray:
    acc += bias.astype(acc.dtype).reshape(shape)
    scale = np.broadcast_to(x.scale.astype(np.float64) * w.scale.astype(np.float64), bias.shape)
    # An integer below 2²⁴ times a power of two is a float32; any other product needs float64.
    if acc.dtype == np.float32 and is_power_of_two(scale.astype(np.float32)).all():
        acc *= scale.astype(np.float32).reshape(shape)
        return acc
    product: FloatArray = acc.astype(np.float64) * scale.reshape(shape)
    return product
