"""What TensorRT refuses, reads otherwise or runs slowly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qdr_export.graph.onnx_graph import GraphView, attributes, label
from qdr_export.lint.rule import MATRIX, Breach, readers_behind, through_relu


def zero_zero_point(view: GraphView) -> Iterator[Breach]:
    """TensorRT quantizes symmetrically: any zero point but a constant 0, one for each scale, is
    refused. Where a QuantizeLinear names none, ONNX means uint8 and TensorRT takes int8."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            if node.op_type == "QuantizeLinear":
                yield label(node), "no zero point, so that its codes are uint8"
            continue
        zero = view.constants.get(node.input[2])
        scale = view.constants.get(node.input[1])
        if zero is None:
            yield label(node), "zero point is no constant"
        elif zero.any():
            yield label(node), f"zero point {int(zero.reshape(-1)[0])}"
        elif scale is not None and zero.size != scale.size:
            yield label(node), f"{zero.size} zero points for {scale.size} scales"


def no_uint8(view: GraphView) -> Iterator[Breach]:
    """TensorRT reads uint8 codes as int8, with a warning only."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        computed = len(node.input) > 2 and node.input[2] and node.input[2] not in view.constants
        if not computed and view.zero_point(node).dtype == np.uint8:
            yield label(node), "uint8 codes"


def explicit_axis(view: GraphView) -> Iterator[Breach]:
    """Where `axis` is missing, the parser of TensorRT 10.3 takes 0 and ONNX takes 1, as TensorRT 11
    does."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        scale = view.constants.get(node.input[1])
        if scale is not None and scale.size > 1 and "axis" not in attributes(node):
            yield label(node), "per-channel scale without axis"


def float_bias(view: GraphView) -> Iterator[Breach]:
    """TensorRT rejects a DequantizeLinear of int32, the usual form of a quantized bias."""
    for node in view.of_type("DequantizeLinear"):
        codes = view.constants.get(node.input[0])
        if codes is not None and codes.dtype == np.int32:
            yield label(node), "int32 codes"


def quantized_conv_input(view: GraphView) -> Iterator[Breach]:
    """An int8 weight alone gives no int8 kernel: TensorRT dequantizes it and computes in float."""
    for node in view.of_type("Conv", "Gemm"):
        if view.dequantized(node.input[1]) is not None and view.dequantized(node.input[0]) is None:
            yield label(node), "int8 weight, float input"


def fusible_residual(view: GraphView) -> Iterator[Breach]:
    """Conv + Add + Relu fuse only if the convolution's branch reaches the Add in float."""
    for node in view.of_type("Add"):
        pairs = [view.dequantized(name) for name in node.input]
        if not all(pair is not None for pair in pairs):
            continue
        for pair in pairs:
            quantize = view.producer(pair.input[0]) if pair is not None else None
            conv = view.producer(quantize.input[0]) if quantize is not None else None
            if conv is not None and conv.op_type == "Conv":
                yield label(node), "both inputs are quantized, one of them a convolution's"
                break


def grouped_channels(view: GraphView) -> Iterator[Breach]:
    """TensorRT has int8 kernels for grouped convolutions only if Cout is a multiple of 8."""
    for node in view.of_type("Conv"):
        weight = view.dequantized(node.input[1])
        if weight is not None and attributes(node).get("group", 1) > 1:
            channels = view.constants[weight.input[0]].shape[0]
            if channels % 8:
                yield label(node), f"{channels} output channels in groups"


def large_products(view: GraphView) -> Iterator[Breach]:
    """Matrix products with fewer than 16 rows or columns are slower in int8 than in FP16."""
    for node in view.of_type("Conv", "Gemm"):
        weight = view.dequantized(node.input[1])
        if weight is not None and attributes(node).get("group", 1) == 1:
            shape = view.constants[weight.input[0]].shape
            if min(shape[0], int(np.prod(shape[1:]))) < 16:
                yield label(node), f"weight {list(shape)} in int8"


def pooled_stem(view: GraphView) -> Iterator[Breach]:
    """TensorRT fuses a first convolution, its Relu and a MaxPool. With an int8 weight of 3 input
    channels a build was reported to end with "Could not find any implementation" for the three
    (TensorRT 10.16, compute capability 8.6)."""
    for node in view.of_type("Conv"):
        weight = view.dequantized(node.input[1])
        if weight is None or view.constants[weight.input[0]].shape[1] != 3:
            continue
        last = through_relu(view, node)
        readers = view.consumers.get(last.output[0], [])
        if [reader.op_type for reader in readers] == ["QuantizeLinear"]:
            readers = readers_behind(view, readers[0])
        if last is not node and [reader.op_type for reader in readers] == ["MaxPool"]:
            yield label(node), "int8 weight, and only a MaxPool reads its Relu"


def typed_half(view: GraphView) -> Iterator[Breach]:
    """TensorRT 11 runs a network as it is typed: no flag lowers a float32 layer to half precision,
    which is several times faster on the same GPU."""
    for node in view.of_type(*MATRIX):
        weight = view.constants.get(node.input[1])
        if weight is not None and weight.dtype == np.float32:
            yield label(node), "float32 weight"
