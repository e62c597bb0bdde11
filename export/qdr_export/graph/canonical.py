"""Checkpoint → canonical graph: one ONNX QDQ model that says exactly what was trained.

Every activation is int8 with zero point 0, or uint8 with a zero point of its own under scheme u8;
every weight int8 per output channel, every bias int32 on the grid input scale × weight scale. The
input `pixels` is uint8 with zero point 128, which is the same as int8 pixel − 128, unless the
network normalizes pixels itself: then they are cast to float32, scaled, shifted and quantized. Each
quantized operator stands between DequantizeLinear and QuantizeLinear; so does a layer that stays in
float, with float32 weights. What ONNX cannot say (labels, preprocessing, scheme) stands in the
model's metadata. Emitters rewrite this graph; none of them quantizes again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import ExportError
from qdr_edge.files import canonical_json
from qdr_edge.graph import INPUT, WEIGHTED, Graph, Node
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT, QuantScheme
from qdr_export.graph.onnx_graph import GraphBuilder
from qdr_export.graph.operators import add_activation, add_operator, float_weights

OUTPUT = "logits"
BATCH = "N"


def build_canonical(checkpoint: Checkpoint) -> bytes:
    """The canonical ONNX QDQ model of a quantized checkpoint, batch size symbolic.

    Raises:
        ExportError: The checkpoint is a float network, or does not keep to its scheme.
    """
    scheme = checkpoint.scheme
    if scheme is None:
        raise ExportError(
            "a float network has no int8 form",
            where=checkpoint.name,
            expected="a student trained with a quantization scheme",
            fix="export the student's stage, not the teacher's",
        )
    builder = GraphBuilder()
    # The real tensor each node hands on; a float32 name, behind a DQ where it is quantized.
    real = {INPUT: INPUT}
    if reads_centred_pixels(checkpoint.graph):
        real[INPUT] = _dequantize_input(builder)
    scales = {INPUT: INPUT_SCALE}
    builder.constant(np.int8(0), "z")  # the commonest zero point gets the shortest name
    for node in checkpoint.graph.nodes:
        last = node is checkpoint.graph.nodes[-1]
        inputs = [INPUT if node.op == "normalize" else real[name] for name in node.inputs]
        if node.in_float or node.op == "normalize":
            inputs += float_weights(builder, node, checkpoint.tensors)
        elif node.op in WEIGHTED:
            inputs += _quantized_weights(
                builder, node, checkpoint.tensors, scales[node.inputs[0]], scheme
            )
        output = OUTPUT if last and not node.activation else node.name
        value = add_operator(builder, node, inputs, output)
        if node.activation:
            value = add_activation(builder, node, value, OUTPUT if last else f"{node.name}:r")
        if not last:
            scale = _checked_scale(node, scheme)
            constant = builder.constant(np.float32(scale))
            zero = builder.constant(_zero_point(node, scheme))
            code = builder.quantize(value, constant, zero, f"{node.name}:q")
            value = builder.dequantize(code, constant, zero, f"{node.name}:d")
            scales[node.name] = scale
        real[node.name] = value
    size = checkpoint.preprocess.size
    model = builder.model(
        "canonical",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [BATCH, 3, size, size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, len(checkpoint.labels)])],
        metadata(checkpoint),
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def reads_centred_pixels(graph: Graph) -> bool:
    """Whether an operator reads (pixels − 128) / 64, as all but `normalize` do."""
    return any(INPUT in node.inputs and node.op != "normalize" for node in graph.nodes)


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What the graph cannot say, as ONNX metadata properties."""
    scheme = checkpoint.scheme
    return {
        "qdr.labels": canonical_json(checkpoint.labels.to_dict()).decode(),
        "qdr.modality": checkpoint.modality,
        "qdr.preprocess_sha256": checkpoint.preprocess.sha256,
        "qdr.scheme": canonical_json(scheme.to_dict() if scheme else None).decode(),
    }


def quantize_weights(
    node: Node, tensors: Mapping[str, NDArray[np.float32]], input_scale: float, scheme: QuantScheme
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Integer weights and bias of a conv or linear node.

    Returns:
        weight int8 [Cout, …], bias int32 [Cout], weight scale and bias scale float32 [Cout].

    Raises:
        ExportError: A bias does not fit into 32 bits.
    """
    scale = tensors[f"{node.name}.weight_scale"].astype(np.float32)
    if scheme.power_of_two and not is_power_of_two(scale).all():
        raise ExportError(
            "a weight scale is not a power of two",
            where=f"node {node.name}",
            expected=f"scheme {scheme.name}'s scales",
            fix="train again; the checkpoint does not keep to its own scheme",
        )
    weight = tensors[f"{node.name}.weight"].astype(np.float64)
    column = scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    codes = np.clip(np.rint(weight / column), -scheme.weight_qmax, scheme.weight_qmax)
    # The product is taken in float32 because that is the number stored and used by every runtime.
    bias_scale = np.float32(input_scale) * scale
    bias = np.rint(tensors[f"{node.name}.bias"].astype(np.float64) / bias_scale.astype(np.float64))
    if np.abs(bias).max(initial=0.0) > np.iinfo(np.int32).max:
        raise ExportError(
            f"a bias needs {int(np.abs(bias).max())} steps of its grid",
            where=f"node {node.name}",
            expected="at most 2^31 - 1",
            fix="its weight scale is too small: a dead channel's scale must be clamped in training",
        )
    return codes.astype(np.int8), bias.astype(np.int32), scale, bias_scale


def is_power_of_two(scale: NDArray[np.float32] | np.float32) -> NDArray[np.bool_]:
    """Which scales are exact powers of two."""
    result: NDArray[np.bool_] = np.asarray(np.frexp(np.asarray(scale, np.float64))[0] == 0.5)
    return result


def _dequantize_input(builder: GraphBuilder) -> str:
    scale = builder.constant(np.float32(INPUT_SCALE))
    zero = builder.constant(np.uint8(INPUT_ZERO_POINT), "z128")
    return builder.dequantize(INPUT, scale, zero, f"{INPUT}:d")


def _quantized_weights(
    builder: GraphBuilder,
    node: Node,
    tensors: Mapping[str, NDArray[np.float32]],
    input_scale: float,
    scheme: QuantScheme,
) -> list[str]:
    weight, bias, scale, bias_scale = quantize_weights(node, tensors, input_scale, scheme)
    name = node.name
    # Zero points are left out: their absence means int8 (int32) 0 and saves a byte per channel.
    w = builder.add(
        "DequantizeLinear",
        [builder.constant(weight, f"{name}:w"), builder.constant(scale, f"{name}:s")],
        f"{name}:wd",
        axis=0,
    )
    b = builder.add(
        "DequantizeLinear",
        [builder.constant(bias, f"{name}:b"), builder.constant(bias_scale, f"{name}:t")],
        f"{name}:bd",
        axis=0,
    )
    return [w, b]


def _checked_scale(node: Node, scheme: QuantScheme) -> float:
    if node.scale is None:
        raise ExportError("no output scale", where=f"node {node.name}", expected="a scale")
    scale = float(np.float32(node.scale))
    if scheme.power_of_two and not is_power_of_two(np.float32(scale)):
        raise ExportError(
            f"output scale {scale} is not a power of two",
            where=f"node {node.name}",
            expected=f"scheme {scheme.name}'s scales",
            fix="train again; the checkpoint does not keep to its own scheme",
        )
    return scale


def _zero_point(node: Node, scheme: QuantScheme) -> np.uint8 | np.int8:
    if scheme.unsigned:
        return np.uint8(node.zero_point)
    if node.zero_point:
        raise ExportError(
            f"zero point {node.zero_point}",
            where=f"node {node.name}",
            expected=f"0 everywhere under scheme {scheme.name}",
            fix="train again; the checkpoint does not keep to its own scheme",
        )
    return np.int8(0)
