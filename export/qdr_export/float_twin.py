"""The float twin: the very same network in float32, to compare speed, size and accuracy with."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.graph import INPUT, WEIGHTED
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_export.canonical import OUTPUT, add_operator, float_weights, metadata
from qdr_export.onnx_graph import GraphBuilder


def build_float_twin(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's folded float weights as ONNX: uint8 pixels in, batch 1, no rounding."""
    builder = GraphBuilder()
    pixels = builder.add("Cast", [INPUT], f"{INPUT}:f", to=TensorProto.FLOAT)
    middle = builder.constant(np.float32(INPUT_ZERO_POINT))
    centred = builder.add("Sub", [pixels, middle], f"{INPUT}:s")
    real = {
        INPUT: builder.add(
            "Mul", [centred, builder.constant(np.float32(INPUT_SCALE))], f"{INPUT}:x"
        )
    }
    for node in checkpoint.graph.nodes:
        last = node is checkpoint.graph.nodes[-1]
        inputs = [real[name] for name in node.inputs]
        if node.op in WEIGHTED:
            inputs += float_weights(builder, node, checkpoint.tensors)
        output = OUTPUT if last and not node.activation else node.name
        value = add_operator(builder, node, inputs, output)
        if node.activation:
            value = builder.add("Relu", [value], OUTPUT if last else f"{node.name}:r")
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
