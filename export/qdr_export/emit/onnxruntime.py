"""ONNX Runtime on x86: signed int8 activations as uint8, bit for bit the same integers.

Run as it is, ONNX Runtime turns the canonical graph's int8 into uint8 with zero point 128 and then
keeps Conv → Relu → Quantize in float, because a Relu before a quantization is redundant only when
the zero point is the type's minimum: four times slower. The exact rewrite:

* after Relu: uint8 with zero point 0 and the same scale, and Clip(code, 0, 127), because int8
  saturates at 127 and uint8 does not (Min would do, but needs a second buffer);
* every other activation: uint8 with zero point 128, which saturates where int8 does;
* the weight of a Gemm: its zero points written out, or it is not recognized as quantized;
* a layer with float weights: a LeakyRelu with alpha 1, which changes nothing, between it and the
  quantization of its output. ONNX Runtime would quantize its weights unasked; so it does not, and
  the LeakyRelu becomes part of the float convolution.

No Clip is needed after a sum that cannot exceed 127 steps. The Clip of a tensor that only a MaxPool
reads moves behind the pooling (the two commute), where the tensor is smaller.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from qdr_export.emit.rewrite import (
    Rewriter,
    after_relu,
    code_source,
    is_float_layer,
    to_bytes,
)
from qdr_export.onnx_graph import GraphView, attributes

_INT8_MAX = np.uint8(127)
_UNSIGNED_ZERO = np.uint8(0)
_SIGNED_ZERO = np.uint8(128)


def emit(canonical: bytes) -> bytes:
    """The ONNX Runtime x86 form of a canonical model."""
    rewriter = Rewriter(canonical)
    zero_points = {
        code: _UNSIGNED_ZERO if positive else _SIGNED_ZERO
        for code, positive in after_relu(rewriter.view).items()
    }
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
        if is_float_layer(r.view, node):
            _keep_float(r, node)
            return True
        return _gemm_weight(r, node)

    return to_bytes(rewriter.run(rule, "ort-x86"))


def _keep_float(r: Rewriter, node: NodeProto) -> None:
    output = node.output[0]
    last = output in {info.name for info in r.view.outputs}
    names = [r.name(i) for i in node.input]
    value = output if last else f"{output}:k"
    r.out.add(node.op_type, names, value, name=node.name, **attributes(node))
    if not last:
        r.out.add("LeakyRelu", [value], output, alpha=1.0)


def _gemm_weight(r: Rewriter, node: NodeProto) -> bool:
    readers = r.view.consumers.get(node.output[0], [])
    codes = r.view.constants.get(node.input[0])
    if codes is None or codes.dtype != np.int8 or any(x.op_type != "Gemm" for x in readers):
        return False
    zeros = r.out.constant(np.zeros(r.view.scale(node).shape, np.int8))
    inputs = [r.name(node.input[0]), r.name(node.input[1]), zeros]
    r.out.add("DequantizeLinear", inputs, node.output[0], **attributes(node))
    return True


def _quantize(
    r: Rewriter, node: NodeProto, zero_points: dict[str, np.uint8], unsaturated: set[str]
) -> None:
    code = node.output[0]
    zero = zero_points[code]
    r.out.quantize(r.name(node.input[0]), r.name(node.input[1]), r.out.constant(zero), code)
    if zero == _SIGNED_ZERO:
        return
    source = code_source(r.view, node)
    if (source is not None and source not in unsaturated) or _sum_fits(r.view, node):
        return
    if _only_max_pool_reads(r, code):
        unsaturated.add(code)
        return
    bounds = [r.out.constant(_UNSIGNED_ZERO), r.out.constant(_INT8_MAX)]
    r.rename(code, r.out.add("Clip", [code, *bounds], f"{code}c"))


def _sum_fits(view: GraphView, quantize: NodeProto) -> bool:
    """Whether a Q reads a sum of quantized tensors (with Relu) that int8 holds without saturating.

    Two summands of at most 127 steps each stay within 127 steps of at least both steps' sum.
    """
    relu = view.producer(quantize.input[0])
    add = view.producer(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
    if add is None or add.op_type != "Add":
        return False
    summands = [view.dequantized(name) for name in add.input]
    steps = [float(view.scale(node)) for node in summands if node is not None]
    return len(steps) == len(summands) and sum(steps) <= float(view.scale(quantize))


def _only_max_pool_reads(r: Rewriter, code: str) -> bool:
    dequantize = r.only_consumer(code)
    reader = r.only_consumer(dequantize.output[0]) if dequantize is not None else None
    return reader is not None and reader.op_type == "MaxPool"
