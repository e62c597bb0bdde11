"""The reference: what the canonical graph computes, defined completely, in NumPy.

It interprets the bytes of the canonical ONNX model, one function an operator, and is the oracle of
every parity test. The definition:

* A convolution or matrix product adds integers. Its real value is accumulator × input scale ×
  weight scale. One that stays in float is computed in float64, which no runtime does: there the
  reference is what they come near to, not what they equal.
* Quantization divides by the scale, rounds half to even and saturates.
* Everything between is computed on the dequantized values as exactly as float64 allows. Under
  power-of-two scales that is exactly, up to divisions by 6 and by a pool's size, which are rounded
  correctly.

Speed comes from float32 matrix products *where a bound proves them exact*: as long as
Σ|w|·max|x| + |bias| < 2²⁴, every partial sum in any order is an integer that float32 holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto

from qdr_edge.errors import ExportError
from qdr_export.canonical import is_power_of_two
from qdr_export.onnx_graph import GraphView, attributes, label

FloatArray = NDArray[np.floating[Any]]

# float32 holds every integer of smaller magnitude.
_FLOAT32_EXACT = 2**24
# Images interpreted at a time: the stem's activations of a 448 px network then stay near 100 MB.
_CHUNK_PIXELS = 4 * 224 * 224


@dataclass(frozen=True)
class Quantized:
    """A dequantized tensor that remembers its integers.

    Args:
        codes: Integers minus zero point, any integer or float dtype, [N, …] or weights [Cout, …].
        scale: Float32, [] or [Cout] along axis 0.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float32]

    def real(self) -> NDArray[np.float64]:
        """The real values, float64."""
        scale = self.scale.astype(np.float64)
        if scale.ndim:
            scale = scale.reshape(-1, *[1] * (self.codes.ndim - 1))
        result: NDArray[np.float64] = self.codes.astype(np.float64) * scale
        return result


# A tensor while it is interpreted: integers as stored, integers with a scale, or real values.
Value = NDArray[Any] | Quantized


class Reference:
    """The interpreter of one canonical model.

    Args:
        model: Bytes of the canonical ONNX model.

    Raises:
        ExportError: An operator has no definition here.
    """

    def __init__(self, model: bytes) -> None:
        self._view = GraphView(model)
        for node in self._view.nodes:
            if node.op_type not in _OPERATORS:
                raise ExportError(
                    f"operator {node.op_type} has no reference definition",
                    where=f"node {label(node)}",
                    expected=f"one of {', '.join(sorted(_OPERATORS))}",
                )
        # Weights, scales and biases depend on no image: they are dequantized once.
        self._fixed: dict[str, Value] = dict(self._view.constants)
        self._work: list[NodeProto] = []
        for node in self._view.nodes:
            if all(name in self._fixed for name in node.input):
                self._fixed[node.output[0]] = _run(node, self._fixed)
            else:
                self._work.append(node)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            images: uint8 [N, 3, S, S].

        Returns:
            float32 [N, K].
        """
        step = max(1, _CHUNK_PIXELS // int(np.prod(images.shape[2:])))
        parts = [self._infer(images[i : i + step]) for i in range(0, len(images), step)]
        if not parts:
            classes = self._view.outputs[0].type.tensor_type.shape.dim[1].dim_value
            return np.zeros((0, classes), np.float32)
        return np.concatenate(parts)

    def activations(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Integer codes of every quantized activation, by tensor name, and the logits."""
        values = self._values(images, keep=True)
        codes = {n.output[0] for n in self._work if n.op_type == "QuantizeLinear"}
        codes |= {o.name for o in self._view.outputs}
        return {name: np.asarray(values[name]) for name in codes if name in values}

    def _infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        output = self._view.outputs[0].name
        logits: NDArray[np.float32] = _real(self._values(images)[output]).astype(np.float32)
        return logits

    def _values(self, images: NDArray[np.uint8], *, keep: bool = False) -> dict[str, Value]:
        values: dict[str, Value] = {**self._fixed, self._view.inputs[0].name: images}
        uses = {name: len(nodes) for name, nodes in self._view.consumers.items()}
        for node in self._work:
            values[node.output[0]] = _run(node, values)
            for name in node.input:
                uses[name] = uses.get(name, 0) - 1
                if not keep and uses[name] == 0 and name not in self._fixed:
                    del values[name]
        return values


def _run(node: NodeProto, values: Mapping[str, Value]) -> Value:
    try:
        inputs = [values[name] for name in node.input]
        return _OPERATORS[node.op_type](inputs, attributes(node))
    except (ValueError, IndexError, KeyError) as error:
        raise ExportError(f"cannot interpret: {error}", where=f"node {label(node)}") from error


def _real(value: Value) -> FloatArray:
    if isinstance(value, Quantized):
        return value.real()
    return value


def quantize(inputs: list[Value], _: Mapping[str, Any]) -> NDArray[Any]:
    """QuantizeLinear, per tensor: saturate(round_half_even(x / scale) + zero point)."""
    x = _real(inputs[0])
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
    codes = _pad(codes, attrs.get("pads", (0, 0, 0, 0)), 0)
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


def relu(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Relu."""
    x = _real(inputs[0])
    return np.maximum(x, x.dtype.type(0))


def add(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Add with broadcasting, float64."""
    return _real(inputs[0]).astype(np.float64) + _real(inputs[1])


def mul(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """Mul with broadcasting, float64."""
    return _real(inputs[0]).astype(np.float64) * _real(inputs[1])


def max_pool(inputs: list[Value], attrs: Mapping[str, Any]) -> Value:
    """MaxPool; padding never wins. On a quantized tensor it selects codes."""
    value = inputs[0]
    x = value.codes if isinstance(value, Quantized) else value
    kernel, strides = attrs["kernel_shape"], attrs.get("strides", (1, 1))
    lowest = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    padded = _pad(x, attrs.get("pads", (0, 0, 0, 0)), lowest)
    windows = sliding_window_view(padded, tuple(kernel), axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    pooled = windows[..., 0, 0].copy()
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            np.maximum(pooled, windows[..., row, column], out=pooled)
    return Quantized(pooled, value.scale) if isinstance(value, Quantized) else pooled


def global_average_pool(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """GlobalAveragePool: exact integer sum × scale, divided by the number of positions."""
    value = inputs[0]
    if not isinstance(value, Quantized):
        mean: FloatArray = value.astype(np.float64).mean(axis=(2, 3), keepdims=True)
        return mean
    total = value.codes.sum(axis=(2, 3), keepdims=True, dtype=np.int64)
    result: FloatArray = total * np.float64(value.scale) / np.prod(value.codes.shape[2:])
    return result


def flatten(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    """Flatten to [N, C·H·W]."""
    value = inputs[0]
    if isinstance(value, Quantized):
        return Quantized(value.codes.reshape(len(value.codes), -1), value.scale)
    return value.reshape(len(value), -1)


def hardswish(inputs: list[Value], _: Mapping[str, Any]) -> FloatArray:
    """HardSwish: x·clip(x + 3, 0, 6) / 6; the numerator is exact, the division rounds once."""
    x = _real(inputs[0]).astype(np.float64)
    result: FloatArray = x * np.clip(x + 3, 0, 6) / 6
    return result


def hardsigmoid(inputs: list[Value], attrs: Mapping[str, Any]) -> FloatArray:
    """HardSigmoid with alpha 1/6, beta 1/2: clip(x + 3, 0, 6) / 6."""
    if np.float32(attrs.get("alpha", 0.2)) != np.float32(1 / 6) or attrs.get("beta", 0.5) != 0.5:
        raise ValueError("HardSigmoid is defined with alpha 1/6 and beta 1/2 only")
    result: FloatArray = np.clip(_real(inputs[0]).astype(np.float64) + 3, 0, 6) / 6
    return result


_OPERATORS: dict[str, Callable[[list[Value], Mapping[str, Any]], Value]] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "Gemm": gemm,
    "Relu": relu,
    "Add": add,
    "Mul": mul,
    "MaxPool": max_pool,
    "GlobalAveragePool": global_average_pool,
    "Flatten": flatten,
    "HardSwish": hardswish,
    "HardSigmoid": hardsigmoid,
}


def _float_operands(inputs: list[Value]) -> list[NDArray[np.float64]]:
    """Input, weight and bias of a layer in float."""
    if len(inputs) != 3:
        raise ValueError("a layer in float has a bias")
    return [_real(value).astype(np.float64) for value in inputs]


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
    largest = 128  # of |code|; int8, or uint8 minus zero point 128
    if x.codes.dtype not in (np.int8, np.int16):
        largest = 255
    bound = int((rows * largest + np.abs(bias)).max(initial=0))
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


def _pad(x: NDArray[Any], pads: tuple[int, ...], value: float) -> NDArray[Any]:
    top, left, bottom, right = pads
    if not any(pads):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
