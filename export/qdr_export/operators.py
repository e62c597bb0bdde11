"""The float ONNX form of every operator of a checkpoint's graph: canonical and float twin share it.

Where ONNX has no operator of that name, a node becomes two or three; the last keeps its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from qdr_edge.errors import ExportError
from qdr_edge.graph import Node
from qdr_export.onnx_graph import GraphBuilder

# 1/6 as float32 is not 1/6; the reference defines hardsigmoid by exact division.
HARDSIGMOID = {"alpha": 1 / 6, "beta": 0.5}
# Each output pixel reads the input pixel at floor(position / factor): a copy, no interpolation.
NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def add_operator(builder: GraphBuilder, node: Node, inputs: list[str], output: str) -> str:
    """Append the float ONNX operator of a node, without its activation; returns its output.

    Raises:
        ExportError: The operator has no ONNX form.
    """
    if node.op in _COMPOSED:
        return _COMPOSED[node.op](builder, node, inputs, output)
    if node.op not in _SINGLE:
        raise ExportError(f"operator {node.op!r} has no ONNX form", where=f"node {node.name}")
    return builder.add(_SINGLE[node.op], inputs, output, name=node.name, **_attributes(node))


def add_activation(builder: GraphBuilder, node: Node, value: str, output: str) -> str:
    """Append the activation fused into a node; returns its output."""
    if node.activation == "relu":
        return builder.add("Relu", [value], output)
    return builder.add("Clip", [value, *_six(builder)], output)


def float_weights(
    builder: GraphBuilder, node: Node, tensors: Mapping[str, NDArray[np.float32]]
) -> list[str]:
    """Names of the constants that hold a node's weight and bias in float32."""
    shape = (1, 3, 1, 1) if node.op == "normalize" else None
    names = []
    for part, tag in (("weight", "w"), ("bias", "b")):
        value = tensors[f"{node.name}.{part}"].astype(np.float32)
        names.append(builder.constant(value.reshape(shape or value.shape), f"{node.name}:{tag}"))
    return names


_SINGLE = {
    "add": "Add",
    "mul": "Mul",
    "concat": "Concat",
    "global_avg_pool": "GlobalAveragePool",
    "flatten": "Flatten",
    "relu": "Relu",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "sigmoid": "Sigmoid",
    "conv": "Conv",
    "linear": "Gemm",
    "max_pool": "MaxPool",
    "avg_pool": "AveragePool",
}


def _attributes(node: Node) -> dict[str, Any]:
    match node.op:
        case "conv":
            return {
                "strides": node.pair("stride"),
                "pads": node.pair("padding") * 2,
                "dilations": node.pair("dilation"),
                "group": node.attrs["groups"],
            }
        case "max_pool" | "avg_pool":
            window: dict[str, Any] = {
                "kernel_shape": node.pair("kernel"),
                "strides": node.pair("stride"),
                "pads": node.pair("padding") * 2,
            }
            if node.op == "avg_pool":
                window["count_include_pad"] = node.attrs["count_include_pad"]
            return window
        case "linear":
            return {"transB": 1}
        case "hardsigmoid":
            return dict(HARDSIGMOID)
        case "concat":
            return {"axis": 1}
        case _:
            return {}


def _normalize(builder: GraphBuilder, node: Node, inputs: list[str], output: str) -> str:
    pixels, weight, bias = inputs
    real = builder.add("Cast", [pixels], f"{node.name}:f", to=TensorProto.FLOAT)
    product = builder.add("Mul", [real, weight], f"{node.name}:p")
    return builder.add("Add", [product, bias], output, name=node.name)


def _relu6(builder: GraphBuilder, node: Node, inputs: list[str], output: str) -> str:
    return builder.add("Clip", [*inputs, *_six(builder)], output, name=node.name)


def _silu(builder: GraphBuilder, node: Node, inputs: list[str], output: str) -> str:
    gate = builder.add("Sigmoid", inputs, f"{node.name}:g")
    return builder.add("Mul", [*inputs, gate], output, name=node.name)


def _upsample(builder: GraphBuilder, node: Node, inputs: list[str], output: str) -> str:
    factors = builder.constant(np.array([1, 1, *node.pair("factor")], np.float32))
    return builder.add("Resize", [*inputs, "", factors], output, name=node.name, **NEAREST)


def _six(builder: GraphBuilder) -> list[str]:
    return [builder.constant(np.float32(0)), builder.constant(np.float32(6))]


_COMPOSED: dict[str, Callable[[GraphBuilder, Node, list[str], str], str]] = {
    "normalize": _normalize,
    "relu6": _relu6,
    "silu": _silu,
    "upsample": _upsample,
}
