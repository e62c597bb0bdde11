"""What makes a QDQ graph slow, or another one, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qdr_export.graph.onnx_graph import GraphView, label
from qdr_export.lint.rule import Breach, is_quantized, through_relu


def relu_zero_point(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime drops a Relu before a quantization only if the zero point is the type's
    minimum; otherwise the convolution before it stays in float, about four times slower."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        if producer is None or producer.op_type != "Relu":
            continue
        zero = view.zero_point(node)
        if zero.size and (zero != np.iinfo(zero.dtype).min).any():
            yield label(node), f"Relu, then {zero.dtype} with zero point {int(zero.reshape(-1)[0])}"


def unsigned_activations(view: GraphView) -> Iterator[Breach]:
    """x86 multiplies unsigned activations by signed weights; signed ones are converted on the way
    and take part in fewer of ONNX Runtime's fusions."""
    for node in view.of_type("QuantizeLinear"):
        if view.zero_point(node).dtype == np.int8:
            yield label(node), "int8 activations"


def quantized_output(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime makes a QLinearConv only of dequantized inputs *and* one quantized output."""
    outputs = {o.name for o in view.outputs}
    for node in view.of_type("Conv"):
        if not is_quantized(view, node):
            continue
        last = through_relu(view, node)
        readers = view.consumers.get(last.output[0], [])
        if last.output[0] in outputs or [r.op_type for r in readers] != ["QuantizeLinear"]:
            found = ", ".join(r.op_type for r in readers) or "graph output"
            yield label(node), f"its float output goes to {found}"


def add_inputs(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime adds in int8 only if both inputs are dequantized; else both become float."""
    for node in view.of_type("Add"):
        quantized = [view.dequantized(name) is not None for name in node.input]
        if any(quantized) and not all(quantized):
            yield label(node), "one of two inputs is quantized"


def float_weight(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime quantizes a float weight between a quantized input and a quantized output by
    itself, per tensor and unasked: the logits change."""
    for node in view.of_type("Conv", "Gemm"):
        if view.dequantized(node.input[0]) is None or node.input[1] not in view.constants:
            continue
        readers = view.consumers.get(through_relu(view, node).output[0], [])
        if any(reader.op_type == "QuantizeLinear" for reader in readers):
            yield label(node), "float weight between quantized input and output"


def concat_inputs(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime joins in int8 only if every input is dequantized and the output quantized; else
    all of them become float."""
    for node in view.of_type("Concat"):
        quantized = [view.dequantized(name) is not None for name in node.input]
        readers = {reader.op_type for reader in view.consumers.get(node.output[0], [])}
        if any(quantized) and not (all(quantized) and readers == {"QuantizeLinear"}):
            yield label(node), "not all of its inputs and its output are quantized"


def gemm_zero_point(view: GraphView) -> Iterator[Breach]:
    """ONNX Runtime makes a QGemm only if the weight's zero point is written out; without it the
    weight is dequantized anew at every inference."""
    for node in view.of_type("Gemm"):
        weight = view.dequantized(node.input[1])
        if weight is not None and len(weight.input) < 3:
            yield label(node), "weight without zero point"
