"""Rules of several targets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qdr_edge.runtime.saturation import SATURATION_FREE
from qdr_export.graph.onnx_graph import GraphView, label
from qdr_export.lint.rule import MATRIX, Breach, is_quantized


def static_shape(view: GraphView) -> Iterator[Breach]:
    """Runtimes plan memory and choose kernels once only if every dimension is fixed."""
    for info in view.inputs:
        dims = info.type.tensor_type.shape.dim
        if any(d.dim_value <= 0 for d in dims):
            yield info.name, f"shape {[d.dim_value or d.dim_param for d in dims]}"


def pixel_input(view: GraphView) -> Iterator[Breach]:
    """A float input costs a conversion of every pixel outside the graph: 3-30 % of the time."""
    for info in view.inputs:
        if info.type.tensor_type.elem_type != TensorProto.UINT8:
            yield info.name, f"type {TensorProto.DataType.Name(info.type.tensor_type.elem_type)}"


def positive_scales(view: GraphView) -> Iterator[Breach]:
    """A scale of zero or below makes every code meaningless; a computed one cannot be fused."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        if node.input[1] not in view.constants:
            yield label(node), "scale is computed at run time"
        elif not (view.constants[node.input[1]] > 0).all():
            yield label(node), f"scale {view.constants[node.input[1]].min()}"


def saturation(view: GraphView) -> Iterator[Breach]:
    """On x86 without VNNI two u8·s8 products are added in 16 bits and saturate silently; weights
    up to 64 cannot. qdr-edge then opens the model with slower kernels: exact ones in ONNX Runtime
    (session.x64quantprecision=1), float ones in OpenVINO. Other programs must do so themselves."""
    for node in view.of_type(*MATRIX):
        weight = view.dequantized(node.input[1])
        if weight is not None and is_quantized(view, node):
            largest = np.abs(view.constants[weight.input[0]].astype(np.int16)).max(initial=0)
            if largest > SATURATION_FREE:
                yield label(node), f"|weight| up to {largest}"
