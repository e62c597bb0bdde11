"""Class activation maps as a second output of the same graph, without gradients.

Where a linear head reads the mean of a feature map, logit = Σ_c w_kc · mean(F_c) + b, the map
M_k = Σ_c w_kc · F_c says where the logit came from. The head's own int8 weights, as a 1×1
convolution over the features that are there anyway, compute it in the integers of the network.

Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qdr_edge.errors import ExportError
from qdr_export.onnx_graph import GraphView, check_model
from qdr_export.reference import Reference

OUTPUT = "maps"
# Calibration images interpreted at a time.
_BATCH = 16
_PASSED = ("QuantizeLinear", "DequantizeLinear", "Flatten", "Reshape", "Squeeze")


def add_maps(canonical: bytes, images: NDArray[np.uint8]) -> bytes:
    """The canonical model with a second output `maps`, float32 [N, K, h, w].

    Args:
        canonical: A canonical model whose linear head reads a global average.
        images: Pixels that set the range of the maps' int8 codes, uint8 [N, 3, S, S].

    Raises:
        ExportError: The network does not end in a mean and one linear layer.
    """
    view = GraphView(canonical)
    head, features = _head(view)
    weight = view.dequantized(head.input[1])
    quantized = view.dequantized(features)
    if weight is None or quantized is None:
        raise _no_maps("its head or its features are in float")
    codes = view.constants[weight.input[0]]
    scale = view.scale(weight)
    step = _step(canonical, str(quantized.input[0]), view.scale(quantized), codes, scale, images)

    model = ModelProto()
    model.CopyFrom(view.model)
    graph = model.graph
    for name, value in {
        "maps:w": codes.reshape(*codes.shape, 1, 1),
        "maps:s": scale,
        "maps:step": np.float32(step),
        "maps:z": np.int8(0),
    }.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    grid = ["maps:step", "maps:z"]
    graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["maps:w", "maps:s"], ["maps:wd"], axis=0),
            helper.make_node("Conv", [features, "maps:wd"], ["maps:y"], name="maps"),
            helper.make_node("QuantizeLinear", ["maps:y", *grid], ["maps:q"]),
            helper.make_node("DequantizeLinear", ["maps:q", *grid], [OUTPUT]),
        ]
    )
    return _finish(model, features, len(codes))


def add_float_maps(twin: bytes) -> bytes:
    """The float twin with the same second output, to compare with."""
    view = GraphView(twin)
    head, features = _head(view)
    weight = view.constants[head.input[1]]
    model = ModelProto()
    model.CopyFrom(view.model)
    model.graph.initializer.append(
        numpy_helper.from_array(weight.reshape(*weight.shape, 1, 1), "maps:w")
    )
    model.graph.node.append(helper.make_node("Conv", [features, "maps:w"], [OUTPUT], name="maps"))
    return _finish(model, features, len(weight))


def has_maps(model: bytes | GraphView) -> bool:
    """Whether a model has the second output."""
    view = GraphView(model) if isinstance(model, bytes) else model
    return any(info.name == OUTPUT for info in view.outputs)


def _head(view: GraphView) -> tuple[NodeProto, str]:
    """The last matrix product, and the tensor whose mean it reads."""
    logits = view.producer(view.outputs[0].name)
    if logits is None or logits.op_type != "Gemm":
        raise _no_maps("the logits come from no linear layer")
    node = view.producer(logits.input[0])
    while node is not None and node.op_type in _PASSED:
        node = view.producer(node.input[0])
    if node is None or node.op_type != "GlobalAveragePool":
        found = "the input" if node is None else node.op_type
        raise _no_maps(f"its head reads {found}")
    return logits, str(node.input[0])


def _step(
    canonical: bytes,
    features: str,
    feature_scale: NDArray[np.float32],
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    images: NDArray[np.uint8],
) -> float:
    """The smallest power of two under which the largest map value of the images is a code."""
    reference = Reference(canonical)
    real = codes.astype(np.float64) * scale.astype(np.float64)[:, None]
    largest = 0.0
    for start in range(0, len(images), _BATCH):
        seen = reference.activations(images[start : start + _BATCH])[features]
        values = np.einsum("kc,nchw->nkhw", real, seen.astype(np.float64) * float(feature_scale))
        largest = max(largest, float(np.abs(values).max(initial=0.0)))
    # A network that answers 0 everywhere still needs a step above 0.
    return float(2.0 ** np.ceil(np.log2(max(largest, 2.0**-20) / 127)))


def _finish(model: ModelProto, features: str, classes: int) -> bytes:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {info.name: info.type.tensor_type.shape.dim for info in inferred.graph.value_info}
    height, width = (dim.dim_value for dim in shapes[features][2:])
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    count = batch.dim_param or batch.dim_value
    model.graph.output.append(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [count, classes, height, width])
    )
    check_model(model, "maps")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _no_maps(found: str) -> ExportError:
    return ExportError(
        f"no class activation maps: {found}",
        where="network",
        expected="a global average read by one linear layer, both in int8",
        fix="export without --maps, or train a student that ends so (qdr-small, ResNet-18/34)",
    )
