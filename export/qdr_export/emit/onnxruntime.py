"""ONNX Runtime on x86: signed int8 activations as uint8, bit for bit the same integers.

Run as it is, ONNX Runtime turns the canonical graph's int8 into uint8 with zero point 128 and then
keeps Conv → Relu → Quantize in float, because a Relu before a quantization is redundant only when
the zero point is the type's minimum: four times slower. The exact rewrite:

* after Relu: uint8 with zero point 0 and the same scale, and Min(code, 127), because int8 saturates
  at 127 and uint8 does not;
* every other activation: uint8 with zero point 128, which saturates where int8 does.

The Min of a tensor that only a MaxPool reads moves behind the pooling (the two commute), where the
tensor is smaller.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from qdr_export.emit.rewrite import Rewriter, is_pixels, to_bytes
from qdr_export.onnx_graph import GraphView

_INT8_MAX = np.uint8(127)
_SIGNED_ZERO = np.uint8(128)
# Operators that hand codes on: their output keeps their input's zero point.
_CODE_KEEPING = ("MaxPool", "Flatten")


def emit(canonical: bytes) -> bytes:
    """The ONNX Runtime x86 form of a canonical model."""
    rewriter = Rewriter(canonical)
    zero_points = _zero_points(rewriter.view)
    # Quantized tensors that may still hold codes above 127.
    unsaturated: set[str] = set()

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            _quantize(r, node, zero_points, unsaturated)
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in zero_points:
            zero = r.out.constant(zero_points[node.input[0]])
            r.out.dequantize(r.name(node.input[0]), r.name(node.input[1]), zero, node.output[0])
            return True
        return False

    return to_bytes(rewriter.run(rule, "ort-x86"))


def _quantize(
    r: Rewriter, node: NodeProto, zero_points: dict[str, np.uint8], unsaturated: set[str]
) -> None:
    code = node.output[0]
    zero = zero_points[code]
    r.out.quantize(r.name(node.input[0]), r.name(node.input[1]), r.out.constant(zero), code)
    if zero == _SIGNED_ZERO:
        return
    source = _code_source(r.view, node)
    if source is not None and source not in unsaturated:
        return
    if _only_max_pool_reads(r, code):
        unsaturated.add(code)
        return
    r.rename(code, r.out.add("Min", [code, r.out.constant(_INT8_MAX)], f"{code}m"))


def _zero_points(view: GraphView) -> dict[str, np.uint8]:
    """The uint8 zero point of every activation: 0 after Relu, else 128."""
    zero_points: dict[str, np.uint8] = {}
    for node in view.of_type("QuantizeLinear"):
        source = _code_source(view, node)
        producer = view.producer(node.input[0])
        if source is not None and source in zero_points:
            zero_points[node.output[0]] = zero_points[source]
        elif producer is not None and producer.op_type == "Relu":
            zero_points[node.output[0]] = np.uint8(0)
        else:
            zero_points[node.output[0]] = _SIGNED_ZERO
    return zero_points


def _code_source(view: GraphView, quantize: NodeProto) -> str | None:
    """The quantized tensor whose codes a Q hands on, if MaxPool or Flatten made its input."""
    producer = view.producer(quantize.input[0])
    if producer is None or producer.op_type not in _CODE_KEEPING:
        return None
    dequantize = view.dequantized(producer.input[0])
    if dequantize is None or is_pixels(dequantize, view):
        return None
    same = np.array_equal(view.scale(dequantize), view.scale(quantize))
    return str(dequantize.input[0]) if same else None


def _only_max_pool_reads(r: Rewriter, code: str) -> bool:
    dequantize = r.only_consumer(code)
    reader = r.only_consumer(dequantize.output[0]) if dequantize is not None else None
    return reader is not None and reader.op_type == "MaxPool"
