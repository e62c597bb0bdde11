"""OpenVINO: unsigned codes where its kernels want them, and every rounding protected.

* Its int8 convolutions are made for unsigned data. After Relu the codes become uint8 with zero
  point 0 and the same scale; Relu becomes Clip(0, 127·scale), because int8 saturates at 127 and
  uint8 does not, and ReLU6 Clip(0, 6) where that is less. Every other activation stays as it is.
* It drops the rounding of Conv → Quantize → Dequantize → Add → Quantize when it fuses the sum into
  the convolution. A LeakyRelu with alpha 1, which changes nothing, in front of that Quantize stops
  the fusion. This relies on undocumented behaviour, so a parity test guards it.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from qdr_export.emit.rewrite import Rewriter, code_source, is_rectifier, rectified, to_bytes
from qdr_export.onnx_graph import GraphView

_INT8_MAX = np.float32(127)
_UNSIGNED_ZERO = np.uint8(0)


def emit(canonical: bytes) -> bytes:
    """The OpenVINO form of a canonical model."""
    rewriter = Rewriter(canonical)
    view = rewriter.view
    # Codes that change from int8 to uint8, and the largest value let through.
    unsigned = {
        code: largest
        for code, largest in rectified(view).items()
        if view.zero_point(view.producers[code]).dtype == np.int8
    }

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            value, zero = r.name(node.input[0]), r.name(node.input[2])
            if node.output[0] in unsigned:
                zero = r.out.constant(_UNSIGNED_ZERO)
                if code_source(r.view, node) is None:
                    value = _saturate(r, node, unsigned)
            if _sum_may_swallow(r.view, node):
                value = r.out.add("LeakyRelu", [value], f"{node.output[0]}k", alpha=1.0)
            r.out.quantize(value, r.name(node.input[1]), zero, node.output[0])
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in unsigned:
            zero = r.out.constant(_UNSIGNED_ZERO)
            r.out.dequantize(r.name(node.input[0]), r.name(node.input[1]), zero, node.output[0])
            return True
        # A Relu that a quantization reads is replaced by that quantization's Clip.
        return is_rectifier(node) and _only_quantized(r.view, node, unsigned)

    return to_bytes(rewriter.run(rule, "openvino"))


def _saturate(r: Rewriter, quantize: NodeProto, unsigned: dict[str, float]) -> str:
    """Clip what a Q reads to what int8 can hold, in place of the Relu before it."""
    relu = r.view.producer(quantize.input[0])
    assert relu is not None
    source = relu.input[0] if _only_quantized(r.view, relu, unsigned) else relu.output[0]
    limit = np.float32(_INT8_MAX * r.view.scale(quantize))
    limit = min(limit, np.float32(unsigned[quantize.output[0]]))
    bounds = [r.out.constant(np.float32(0)), r.out.constant(limit)]
    return r.out.add("Clip", [r.name(source), *bounds], f"{quantize.output[0]}c")


def _only_quantized(view: GraphView, relu: NodeProto, unsigned: dict[str, float]) -> bool:
    readers = view.consumers.get(relu.output[0], [])
    return bool(readers) and all(reader.output[0] in unsigned for reader in readers)


def _sum_may_swallow(view: GraphView, quantize: NodeProto) -> bool:
    """Whether a Q stands between a convolution and an Add."""
    producer = view.producer(quantize.input[0])
    if producer is None or producer.op_type != "Conv":
        return False
    readers = [
        reader
        for dequantize in view.consumers.get(quantize.output[0], [])
        for reader in view.consumers.get(dequantize.output[0], [])
    ]
    return any(reader.op_type == "Add" for reader in readers)
