"""TensorRT 10: the canonical graph with its Q/DQ pairs where TensorRT's fusions expect them.

Every rule is from TensorRT's documentation, its parser's source and its issue tracker; the graph
was never run on NVIDIA hardware here. `lint` checks the rules, and ONNX Runtime executes the graph
as it is written, so that its arithmetic is proven. The network is weakly typed: what is float here,
TensorRT 10 may run in half precision. tensorrt11.py types this graph for TensorRT 11.

* zero point 0 everywhere, int8 only, given as a constant; never uint8, which is read as int8.
* The uint8 input is cast to float, centred, scaled, and only then quantized.
* Pairs stand in front of convolutions, not behind them. A pair that no int8 operator reads is left
  out, and a pair before a MaxPool too when the pooled tensor is quantized again.
* A residual Add keeps the pair of its identity branch only, or Conv + Add + Relu cannot fuse.
* Bias is float: a DequantizeLinear of int32 is rejected.
* The classifier head and other tiny layers, and grouped convolutions whose Cout is no multiple of
  8, take float weights. So does a first convolution whose Relu only a MaxPool reads: TensorRT fuses
  the three, and a build was reported to end for want of an int8 kernel for them.

A pair left out is a rounding less: logits differ from the reference by a few steps, which the
parity table shows. `keep_roundings=True` keeps every pair and is bit-equal; TensorRT then runs the
residual additions on their own.
"""

from __future__ import annotations

import json

import numpy as np
from onnx import NodeProto, TensorProto

from qdr_edge.errors import ExportError
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_export.emit.rewrite import Rewriter, is_pixels, to_bytes
from qdr_export.onnx_graph import GraphView, attributes

# Smaller matrix products are slower in int8 than in half precision.
MIN_INT8_DIMENSION = 16
GROUPED_CHANNEL_MULTIPLE = 8
_UP_TO_POOL = ("Relu", "Clip", "QuantizeLinear", "DequantizeLinear", "MaxPool")


def emit(canonical: bytes, *, keep_roundings: bool = False) -> bytes:
    """The TensorRT 10 form of a canonical model.

    Args:
        canonical: The canonical model.
        keep_roundings: Keep every Q/DQ pair: bit-equal to the reference, slower on the device.

    Raises:
        ExportError: An activation has unsigned codes or a zero point.
    """
    rewriter = Rewriter(canonical)
    view = rewriter.view
    _check_symmetric(view)
    kept = {
        node.output[0]
        for node in view.of_type("QuantizeLinear")
        if keep_roundings or _is_needed(view, node.output[0])
    }
    pixels = view.inputs[0].name
    if keep_roundings or _is_needed(view, pixels):
        kept.add(pixels)

    def rule(r: Rewriter, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear" and node.output[0] not in kept:
            for dequantize in view.consumers.get(node.output[0], []):
                r.rename(dequantize.output[0], r.name(node.input[0]))
            return True
        if node.op_type == "DequantizeLinear":
            return _dequantize(r, node, kept)
        return False

    return to_bytes(rewriter.run(rule, "tensorrt"))


def _check_symmetric(view: GraphView) -> None:
    """Refuse codes that TensorRT would read as others: unsigned ones, or with a zero point.

    Raises:
        ExportError: An activation has them; the node and its scheme are named.
    """
    for node in view.of_type("QuantizeLinear"):
        zero = view.zero_point(node)
        if zero.dtype == np.int8 and not zero.any():
            continue
        properties = {entry.key: entry.value for entry in view.model.metadata_props}
        scheme = (json.loads(properties.get("qdr.scheme", "null")) or {}).get("name", "unknown")
        raise ExportError(
            f"{zero.dtype} codes with zero point {int(zero.reshape(-1)[0])}, scheme {scheme}",
            where=f"node {node.output[0].partition(':')[0]}",
            expected="signed int8 codes with zero point 0: TensorRT has no other form",
            fix="leave the tensorrt targets out with --target, or train with scheme exact",
        )


def _dequantize(r: Rewriter, node: NodeProto, kept: set[str]) -> bool:
    if is_pixels(node, r.view):
        _pixels(r, node, quantized=node.input[0] in kept)
    elif node.input[0] in r.view.constants:
        _parameters(r, node)
    else:
        # A DQ goes with its Q; one that stays is copied.
        return bool(node.input[0] not in kept)
    return True


def _pixels(r: Rewriter, node: NodeProto, *, quantized: bool) -> None:
    """uint8 → float → (px − 128)/64, and → int8 → float; exact, as the steps are integers."""
    name, scale = node.input[0], r.out.constant(np.float32(INPUT_SCALE))
    cast = r.out.add("Cast", [name], f"{name}:f", to=TensorProto.FLOAT)
    centred = r.out.add("Sub", [cast, r.out.constant(np.float32(INPUT_ZERO_POINT))], f"{name}:s")
    if not quantized:
        r.out.add("Mul", [centred, scale], node.output[0])
        return
    scaled = r.out.add("Mul", [centred, scale], f"{name}:x")
    zero = r.out.constant(np.int8(0))
    r.out.dequantize(r.out.quantize(scaled, scale, zero, f"{name}:q"), scale, zero, node.output[0])


def _parameters(r: Rewriter, node: NodeProto) -> None:
    view = r.view
    codes, scale = view.constants[node.input[0]], view.scale(node)
    readers = view.consumers[node.output[0]]
    if codes.dtype == np.int8 and all(is_int8(view, reader) for reader in readers):
        zeros = r.out.constant(np.zeros(scale.shape, np.int8))
        inputs = [r.name(node.input[0]), r.name(node.input[1]), zeros]
        r.out.add("DequantizeLinear", inputs, node.output[0], axis=0)
        return
    column = scale.astype(np.float64).reshape(-1, *[1] * (codes.ndim - 1))
    real = (codes.astype(np.float64) * column).astype(np.float32)
    r.rename(node.output[0], r.out.constant(real, node.output[0]))


def is_int8(view: GraphView, node: NodeProto) -> bool:
    """Whether a convolution or matrix product gains from int8 on TensorRT."""
    if node.op_type not in ("Conv", "Gemm"):
        return False
    weight = view.dequantized(node.input[1])
    if weight is None or _is_pooled_stem(view, node):
        return False
    shape = view.constants[weight.input[0]].shape
    if attributes(node).get("group", 1) > 1:
        return bool(shape[0] % GROUPED_CHANNEL_MULTIPLE == 0)
    return bool(min(shape[0], int(np.prod(shape[1:]))) >= MIN_INT8_DIMENSION)


def _is_pooled_stem(view: GraphView, conv: NodeProto) -> bool:
    """Whether a convolution reads the pixels, and a MaxPool alone reads its Relu's output."""
    source = view.dequantized(conv.input[0])
    if source is None or not is_pixels(source, view):
        return False
    tensor = conv.output[0]
    while True:
        readers = view.consumers.get(tensor, [])
        if len(readers) != 1 or readers[0].op_type not in _UP_TO_POOL:
            return False
        if readers[0].op_type == "MaxPool":
            return True
        tensor = readers[0].output[0]


def _is_needed(view: GraphView, code: str) -> bool:
    """Whether an int8 operator, or an Add as its identity branch, reads a quantized tensor."""
    readers = [
        (reader, dequantize.output[0])
        for dequantize in view.consumers.get(code, [])
        for reader in view.consumers.get(dequantize.output[0], [])
    ]
    return any(
        is_int8(view, reader) or (reader.op_type == "Add" and tensor == _identity(view, reader))
        for reader, tensor in readers
    )


def _identity(view: GraphView, add: NodeProto) -> str | None:
    """The input of a residual Add that keeps its pair; None if no convolution ends in the Add."""
    branches = [name for name in add.input if _conv_behind(view, name) is not None]
    if not branches:
        return None
    # With two convolutions the projection is the identity: the branch with fewer operators.
    fused = max(branches, key=lambda name: _depth(view, name))
    return next((str(name) for name in add.input if name != fused), None)


def _conv_behind(view: GraphView, tensor: str) -> NodeProto | None:
    """The convolution whose output only this Add reads, through a Q/DQ pair."""
    dequantize = view.dequantized(tensor)
    quantize = view.producer(dequantize.input[0]) if dequantize is not None else None
    if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    sole = all(len(view.consumers.get(name, [])) == 1 for name in (tensor, dequantize.input[0]))
    conv = view.producer(quantize.input[0])
    return conv if sole and conv is not None and conv.op_type == "Conv" else None


def _depth(view: GraphView, tensor: str) -> int:
    """Longest way from the input, in nodes; graphs are in topological order."""
    depth: dict[str, int] = {}
    for node in view.nodes:
        depth[node.output[0]] = 1 + max((depth.get(i, 0) for i in node.input), default=0)
        if node.output[0] == tensor:
            break
    return depth.get(tensor, 0)
