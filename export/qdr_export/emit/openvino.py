"""OpenVINO: unsigned codes where its kernels want them, and every rounding protected.

* Its int8 convolutions are made for unsigned data. After Relu the codes become uint8 with zero
  point 0 and the same scale; Relu becomes Clip(0, 127·scale), because int8 saturates at 127 and
  uint8 does not, and ReLU6 Clip(0, 6) where that is less. Every other activation stays as it is.
* It drops the rounding of Conv → Quantize → Dequantize → Add → Quantize when it fuses the sum into
  the convolution, with a Relu between or without. A LeakyRelu with alpha 1, which changes nothing,
  in front of that Quantize stops the fusion.
* An int8 concatenation of uint8 tensors comes out wrong; as uint8 with zero point 128, which holds
  the same values, it comes out right.
* It crashes on Concat → Quantize → Dequantize → Relu → Quantize; a LeakyRelu as above prevents it.
* It clips codes instead of values where a Clip reads a DequantizeLinear, and cuts a bound between
  two codes off. Such a Clip is written as Relu and Min, which stay where they are.
* It pads an average pool with code 0, not with the value 0. Where the padding counts and the zero
  point is another, a LeakyRelu with alpha 1 keeps the pool out of integers.

The last five rely on undocumented behaviour, so parity tests guard them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from qdr_export.emit.rewrite import Rewriter, code_source, is_rectifier, rectified, to_bytes
from qdr_export.emit.ties import quantizer_scale
from qdr_export.onnx_graph import GraphView, attributes

_INT8_MAX = np.float32(127)
_UNSIGNED_ZERO = np.uint8(0)
_SIGNED_ZERO = np.uint8(128)


def emit(canonical: bytes) -> bytes:
    """The OpenVINO form of a canonical model."""
    rewriter = Rewriter(canonical)
    view = rewriter.view
    # The int8 codes that become uint8: after Relu the largest value let through …
    positive = {
        code: largest
        for code, largest in rectified(view).items()
        if view.zero_point(view.producers[code]).dtype == np.int8
    }
    # … and the zero point of all of them.
    zeros = dict.fromkeys(positive, _UNSIGNED_ZERO) | _concatenated(view)

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear":
            code = node.output[0]
            value, zero = r.name(node.input[0]), r.name(node.input[2])
            if code in zeros:
                zero = r.out.constant(zeros[code])
            if code in positive and code_source(r.view, node) is None:
                value = _saturate(r, node, positive)
            if _sum_may_swallow(r.view, node) or _crashes(r.view, node):
                value = r.out.add("LeakyRelu", [value], f"{code}k", alpha=1.0)
            r.out.quantize(value, quantizer_scale(r, node), zero, code)
            return True
        if node.op_type == "DequantizeLinear" and node.input[0] in zeros:
            zero = r.out.constant(zeros[node.input[0]])
            r.out.dequantize(r.name(node.input[0]), r.name(node.input[1]), zero, node.output[0])
            return True
        if node.op_type == "AveragePool":
            return _padded_pool(r, node)
        # A Relu that a quantization reads is replaced by that quantization's Clip.
        return is_rectifier(node) and _only_quantized(r.view, node, positive)

    return to_bytes(rewriter.run(rule, "openvino"))


def _concatenated(view: GraphView) -> dict[str, np.uint8]:
    """The int8 codes of a concatenation, and what hands them on."""
    codes: dict[str, np.uint8] = {}
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        joined = producer is not None and producer.op_type == "Concat"
        if view.zero_point(node).dtype == np.int8 and (joined or code_source(view, node) in codes):
            codes[node.output[0]] = _SIGNED_ZERO
    return codes


def _padded_pool(r: Rewriter, node: NodeProto) -> bool:
    dequantize = r.view.dequantized(node.input[0])
    settings = attributes(node)
    counts_padding = settings.get("count_include_pad", 0) and any(settings.get("pads", ()))
    if dequantize is None or not counts_padding or not r.view.zero_point(dequantize).any():
        return False
    value = r.out.add("LeakyRelu", [r.name(node.input[0])], f"{node.output[0]}:k", alpha=1.0)
    r.out.add(node.op_type, [value], node.output[0], name=node.name, **settings)
    return True


def _saturate(r: Rewriter, quantize: NodeProto, positive: Mapping[str, float]) -> str:
    """Clip what a Q reads to what int8 can hold, in place of the Relu before it."""
    relu = r.view.producer(quantize.input[0])
    assert relu is not None
    source = relu.input[0] if _only_quantized(r.view, relu, positive) else relu.output[0]
    limit = np.float32(_INT8_MAX * r.view.scale(quantize))
    limit = min(limit, np.float32(positive[quantize.output[0]]))
    zero, bound = r.out.constant(np.float32(0)), r.out.constant(limit)
    clipped = f"{quantize.output[0]}c"
    dequantize = r.view.dequantized(relu.input[0])
    if dequantize is None or float(limit / r.view.scale(dequantize)).is_integer():
        return r.out.add("Clip", [r.name(source), zero, bound], clipped)
    positive_part = r.out.add("Relu", [r.name(source)], f"{quantize.output[0]}p")
    return r.out.add("Min", [positive_part, bound], clipped)


def _only_quantized(view: GraphView, relu: NodeProto, positive: Mapping[str, float]) -> bool:
    readers = view.consumers.get(relu.output[0], [])
    return bool(readers) and all(reader.output[0] in positive for reader in readers)


def _sum_may_swallow(view: GraphView, quantize: NodeProto) -> bool:
    """Whether a Q stands between a convolution and an Add.

    With a Relu between, the sum is fused only where nothing else reads the convolution.
    """
    producer = view.producer(quantize.input[0])
    readers = _readers(view, quantize)
    summed = any(reader.op_type == "Add" for reader in readers)
    if producer is not None and is_rectifier(producer):
        producer = view.producer(producer.input[0])
        summed = summed and len(readers) == 1
    return summed and producer is not None and producer.op_type == "Conv"


def _crashes(view: GraphView, quantize: NodeProto) -> bool:
    """Whether a Q stands between a Concat and a Relu."""
    producer = view.producer(quantize.input[0])
    joined = producer is not None and producer.op_type == "Concat"
    return joined and any(is_rectifier(reader) for reader in _readers(view, quantize))


def _readers(view: GraphView, quantize: NodeProto) -> list[NodeProto]:
    """What reads the dequantized codes of a Q."""
    return [
        reader
        for dequantize in view.consumers.get(quantize.output[0], [])
        for reader in view.consumers.get(dequantize.output[0], [])
    ]
