"""OpenVINO: the canonical graph, with its roundings protected.

OpenVINO drops the rounding of Conv → Quantize → Dequantize → Add → Quantize when it fuses the sum
into the convolution. A LeakyRelu with alpha 1, which changes nothing, in front of that Quantize
stops the fusion. This relies on undocumented behaviour, so a parity test guards it.
"""

from __future__ import annotations

from onnx import NodeProto

from qdr_export.emit.rewrite import Rewriter, to_bytes
from qdr_export.onnx_graph import GraphView


def emit(canonical: bytes) -> bytes:
    """The OpenVINO form of a canonical model."""

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type != "QuantizeLinear" or not _sum_may_swallow(r.view, node):
            return False
        barrier = r.out.add("LeakyRelu", [r.name(node.input[0])], f"{node.output[0]}k", alpha=1.0)
        r.out.quantize(barrier, r.name(node.input[1]), r.name(node.input[2]), node.output[0])
        return True

    return to_bytes(Rewriter(canonical).run(rule, "openvino"))


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
