"""Stored tensors: everything that depends on no image, computed once.

Tools store a quantized weight in three ways: as integers behind a DequantizeLinear, as floats
behind QuantizeLinear and DequantizeLinear, or either with a transposition after it. Folded, all of
them are integers with scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from qdr_export.graph.onnx_graph import attributes
from qdr_export.importer.findings import Findings
from qdr_export.importer.reading import Source

Array = NDArray[Any]

# Where Constant keeps its value, besides the attribute `value`.
_SCALARS = ("value_float", "value_int", "value_floats", "value_ints")


@dataclass(frozen=True)
class Dequantized:
    """A stored tensor of integers with a meaning.

    Args:
        codes: As stored: int8, uint8 or int32.
        scale: Float32, [] or [C] along `axis`.
        zero_point: Of the codes' type, [] or [C].
        axis: The channel axis; 0 where there is one scale.
    """

    codes: Array
    scale: NDArray[np.float32]
    zero_point: Array
    axis: int

    def real(self) -> NDArray[np.float64]:
        """The real values, float64."""
        shape = [1] * self.codes.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        steps = self.codes.astype(np.float64) - self.zero_point.astype(np.float64).reshape(
            shape if self.zero_point.size > 1 else ()
        )
        result: NDArray[np.float64] = steps * self.scale.astype(np.float64).reshape(
            shape if self.scale.size > 1 else ()
        )
        return result

    def transposed(self, order: tuple[int, ...]) -> Dequantized:
        """The same tensor with its axes in another order."""
        axis = order.index(self.axis) if self.scale.size > 1 else 0
        return Dequantized(self.codes.transpose(order), self.scale, self.zero_point, axis)


Stored = Array | Dequantized


def fold(source: Source, findings: Findings) -> dict[str, Stored]:
    """Every tensor of a file that depends on no image, by name."""
    known: dict[str, Stored] = dict(source.view.constants)
    for node in source.view.nodes:
        if node.op_type == "Shape" and all(n >= 0 for n in source.shapes.get(node.input[0], (-1,))):
            whole = np.array(source.shapes[node.input[0]], np.int64)
            start, end = (attributes(node).get(name) for name in ("start", "end"))
            known[node.output[0]] = whole[start:end]
        elif all(name in known for name in node.input if name):
            try:
                known[node.output[0]] = _folded(node, known, source.view.opset)
            except Exception as error:  # onnx's evaluator raises whatever NumPy does
                findings.problem(
                    source.place(node),
                    f"cannot be computed beforehand: {error}",
                    "constants that fit each other",
                    "simplify the model before it is imported",
                )
    return known


def _folded(node: NodeProto, known: dict[str, Stored], opset: int) -> Stored:
    attrs = attributes(node)
    inputs = [known[name] for name in node.input if name]
    match node.op_type:
        case "Constant":
            return _constant(node)
        case "Identity":
            return inputs[0]
        case "QuantizeLinear":
            return _quantized(inputs, attrs)
        case "DequantizeLinear":
            return _dequantized(inputs, attrs)
        case "Transpose" if isinstance(inputs[0], Dequantized):
            order = attrs.get("perm") or range(inputs[0].codes.ndim)[::-1]
            return inputs[0].transposed(tuple(order))
        case _:
            arrays = [x.real() if isinstance(x, Dequantized) else x for x in inputs]
            return _computed(node, arrays, opset)


def _constant(node: NodeProto) -> Array:
    attrs = attributes(node)
    if "value" in attrs:
        from onnx import numpy_helper

        value: Array = numpy_helper.to_array(attrs["value"])
        return value
    name = next(name for name in _SCALARS if name in attrs)
    dtype = np.float32 if name.startswith("value_float") else np.int64
    return np.asarray(attrs[name], dtype)


def _quantized(inputs: list[Stored], attrs: dict[str, Any]) -> Array:
    """What a runtime computes of stored floats: division in float32, half to even, saturation."""
    x, scale = np.asarray(inputs[0], np.float32), np.asarray(inputs[1], np.float32)
    zero = np.asarray(inputs[2]) if len(inputs) > 2 else np.zeros(scale.shape, np.uint8)
    shape = [1] * x.ndim
    if scale.size > 1:
        shape[attrs.get("axis", 1)] = -1
    limits = np.iinfo(zero.dtype)
    steps = np.rint(x / scale.reshape(shape)) + zero.astype(np.float64).reshape(
        shape if zero.size > 1 else ()
    )
    result: Array = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return result


def _dequantized(inputs: list[Stored], attrs: dict[str, Any]) -> Dequantized:
    codes, scale = np.asarray(inputs[0]), np.asarray(inputs[1], np.float32)
    zero = np.asarray(inputs[2]) if len(inputs) > 2 else np.zeros(scale.shape, codes.dtype)
    axis = attrs.get("axis", 1) % max(codes.ndim, 1) if codes.ndim > 1 else 0
    return Dequantized(codes, scale.reshape(-1)[0] if scale.size == 1 else scale, zero, axis)


def _computed(node: NodeProto, inputs: list[Array], opset: int) -> Array:
    names = [name for name in node.input if name]
    graph = helper.make_graph(
        [node],
        "constant",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in zip(names, inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info(node.output[0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (result,) = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    value: Array = np.asarray(result)
    return value
