"""Read-back: ask each runtime what it compiled, and count the multiplications it does in int8.

An emitter can only hope; a fused int8 convolution exists only in the graph the runtime made. Layers
are recognized by the names their nodes carried into the runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from qdr_edge.errors import ExportError
from qdr_export.emit.native.writer import records
from qdr_export.graph.onnx_graph import GraphView, attributes

_MATRIX_OPERATORS = ("Conv", "Gemm", "MatMul")
_ORT_INT8 = ("QLinearConv", "QGemm", "ConvInteger", "MatMulInteger", "QLinearMatMul")
_ORT_FLOAT = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
# ONNX Runtime appends this to the nodes and tensors of a graph it fused.
_ORT_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc)+$")

# X/WithoutBiases and the like are OpenVINO's parts of X, whose own name may hold slashes too.
_OPENVINO_PART = re.compile(r"(/(WithoutBiases|Dequantization\w+))+$")


@dataclass(frozen=True)
class LayerExecution:
    """How a runtime executes one convolution or matrix product.

    Args:
        name: The node's name.
        macs: Multiply-accumulates of one inference.
        int8: Whether they are done on integers.
        kernel: What the runtime calls it.
    """

    name: str
    macs: int
    int8: bool
    kernel: str


@dataclass(frozen=True)
class Readback:
    """What a runtime made of a model."""

    backend: str
    layers: tuple[LayerExecution, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def int8_share(self) -> float:
        """Share of the multiply-accumulates done on integers, 0..1."""
        return sum(x.macs for x in self.layers if x.int8) / self.macs if self.macs else 0.0

    @property
    def float_layers(self) -> tuple[LayerExecution, ...]:
        """The layers that fell back to float."""
        return tuple(layer for layer in self.layers if not layer.int8)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "backend": self.backend,
            "macs": self.macs,
            "int8_share": self.int8_share,
            "float_layers": [
                {"name": x.name, "macs": x.macs, "kernel": x.kernel} for x in self.float_layers
            ],
        }


def read_back(backend: str, model: bytes) -> Readback:
    """Compile a model and report how each layer is executed.

    Args:
        backend: "onnxruntime", "openvino" or "native".
        model: An ONNX model with static shapes; for "native" a plan.

    Raises:
        BackendError: The runtime is missing or refuses the model.
        ExportError: The backend's compiled graph cannot be read on this machine.
    """
    if backend == "native":
        return Readback(backend, tuple(_layers_of_plan(model)))
    readers = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    if backend not in readers:
        raise ExportError(
            f"the compiled graph of {backend} cannot be read here",
            expected=f"one of {', '.join(readers)}, native",
        )
    named = with_names(model)
    macs = layer_macs(named)
    kernels = readers[backend](named.SerializeToString())
    # OpenVINO calls a layer by its output where that is the graph's.
    outputs = {node.name: node.output[0] for node in named.graph.node}
    layers = []
    for name, count in macs.items():
        # Not found: folded or renamed. Nothing is claimed for it.
        missing = (False, "not found in the compiled graph")
        int8, kernel = kernels.get(name, kernels.get(outputs[name], missing))
        layers.append(LayerExecution(name, count, int8, kernel))
    return Readback(backend, tuple(layers))


def _layers_of_plan(plan: bytes) -> Iterator[LayerExecution]:
    """The layers that libqdr finds in a plan; it has no other way to compute one than in int8."""
    tensors, operations = records(plan)
    for place, step in enumerate(operations):
        if step["kind"] not in ("conv", "depthwise", "logits"):
            continue
        given = tensors[step["input"]]
        depth = 1 if step["kind"] == "depthwise" else given["channels"]
        if step["kind"] == "logits":
            outputs = step["classes"]
        else:
            made = tensors[step["output"]]
            outputs = made["height"] * made["width"] * made["channels"]
        macs = outputs * depth * step["kernel_height"] * step["kernel_width"]
        yield LayerExecution(f"{step['kind']}:{place}", macs, True, "u8 x s8")


def layer_macs(model: ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each convolution and matrix product, by node name.

    Raises:
        ExportError: A shape is not known.
    """
    shapes = _shapes(model)
    macs: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _MATRIX_OPERATORS:
            macs[node.name] = _macs(node, shapes)
    return macs


def with_names(model: bytes) -> ModelProto:
    """The model with a unique name on every convolution and matrix product."""
    view = GraphView(model)
    named = ModelProto()
    named.CopyFrom(view.model)
    seen: set[str] = set()
    for node in named.graph.node:
        if node.op_type in _MATRIX_OPERATORS:
            if not node.name or node.name in seen:
                node.name = f"{node.op_type}:{node.output[0]}"
            seen.add(node.name)
    return named


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {t.name: tuple(t.dims) for t in inferred.graph.initializer}
    for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shapes[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    return shapes


def _macs(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    weight, output = shapes.get(node.input[1]), shapes.get(node.output[0])
    if not weight or not output:
        raise ExportError(
            "shape unknown",
            where=f"node {node.name}",
            expected="a model with static shapes",
            fix="run ONNX shape inference and fix the input's size",
        )
    # A symbolic batch counts as one image.
    outputs = int(np.prod([max(d, 1) for d in output]))
    if node.op_type == "Conv":
        return outputs * int(np.prod(weight[1:]))
    transposed = node.op_type == "Gemm" and attributes(node).get("transB", 0)
    return outputs * weight[-1 if transposed else -2]


def _onnxruntime(model: bytes) -> dict[str, tuple[bool, str]]:
    from qdr_edge.runtime.onnxruntime import optimized

    kernels: dict[str, tuple[bool, str]] = {}
    for node in onnx.load_model_from_string(optimized(model)).graph.node:
        if node.op_type in _ORT_INT8 or node.op_type in _ORT_FLOAT:
            kernels[_ORT_SUFFIX.sub("", node.name)] = (node.op_type in _ORT_INT8, node.op_type)
    return kernels


def _openvino(model: bytes) -> dict[str, tuple[bool, str]]:
    from qdr_edge.runtime.openvino import OpenVinoSession

    session = OpenVinoSession(model, 1, {})
    kernels: dict[str, tuple[bool, str]] = {}
    for node in session.compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        if info.get("layerType") in ("Convolution", "FullyConnected", "MatMul"):
            kernel = f"{info.get('primitiveType', '?')} {info.get('runtimePrecision', '?')}"
            # A float kernel may be handed int8 weights, which it turns into floats first.
            int8 = info.get("runtimePrecision") in ("u8", "i8") and "f32" not in kernel
            for name in (*info.get("originalLayersNames", "").split(","), node.get_friendly_name()):
                kernels.setdefault(_OPENVINO_PART.sub("", name), (int8, kernel))
    session.close()
    return kernels
