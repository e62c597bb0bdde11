"""The float twin: the very same network in float32, to compare speed, size and accuracy with."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.graph import INPUT, WEIGHTED
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_export.graph.canonical import OUTPUT, metadata, reads_centred_pixels
from qdr_export.graph.onnx_graph import GraphBuilder
from qdr_export.graph.operators import add_activation, add_operator, float_weights


def build_float_twin(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's folded float weights as ONNX: uint8 pixels in, batch 1, no rounding."""
    builder = GraphBuilder()
    real = {INPUT: INPUT}
    if reads_centred_pixels(checkpoint.graph):
        real[INPUT] = _centred(builder)
    for node in checkpoint.graph.nodes:
        last = node is checkpoint.graph.nodes[-1]
        inputs = [INPUT if node.op == "normalize" else real[name] for name in node.inputs]
        if node.op in WEIGHTED or node.op == "normalize":
            inputs += float_weights(builder, node, checkpoint.tensors)
        output = OUTPUT if last and not node.activation else node.name
        value = add_operator(builder, node, inputs, output)
        if node.activation:
            value = add_activation(builder, node, value, OUTPUT if last else f"{node.name}:r")
        real[node.name] = value
    size = checkpoint.preprocess.size
    model = builder.model(
        "float",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, 3, size, size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, len(checkpoint.labels)])],
        metadata(checkpoint),
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _centred(builder: GraphBuilder) -> str:
    """(pixels − 128) / 64, exact in float32."""
    pixels = builder.add("Cast", [INPUT], f"{INPUT}:f", to=TensorProto.FLOAT)
    middle = builder.constant(np.float32(INPUT_ZERO_POINT))
    centred = builder.add("Sub", [pixels, middle], f"{INPUT}:s")
    scale = builder.constant(np.float32(INPUT_SCALE))
    return builder.add("Mul", [centred, scale], f"{INPUT}:x")
