"""What makes a QDQ graph slow, or another one, in OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qdr_export.graph.onnx_graph import GraphView, attributes, label
from qdr_export.lint.rule import Breach, readers_behind


def protected_sum(view: GraphView) -> Iterator[Breach]:
    """OpenVINO drops the rounding of Conv → Q → DQ → Add when it fuses the sum: 13-21 % of the
    activations differ by a step. A LeakyRelu with alpha 1 before that Q keeps it. A Relu in between
    changes nothing if the Add alone reads the sum's operand."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        readers = readers_behind(view, node)
        summed = any(reader.op_type == "Add" for reader in readers)
        if producer is not None and producer.op_type in ("Relu", "Clip"):
            producer = view.producer(producer.input[0])
            summed = summed and len(readers) == 1
        if producer is not None and producer.op_type == "Conv" and summed:
            yield label(producer), "its rounding before the Add may be dropped"


def signed_concat(view: GraphView) -> Iterator[Breach]:
    """OpenVINO joins uint8 tensors into an int8 one with wrong values; uint8 with zero point 128
    holds the same values and comes out right."""
    for node in view.of_type("Concat"):
        for reader in view.consumers.get(node.output[0], []):
            if reader.op_type == "QuantizeLinear" and view.zero_point(reader).dtype == np.int8:
                yield label(node), "its output is int8"


def requantized_concat(view: GraphView) -> Iterator[Breach]:
    """OpenVINO crashes while it compiles Concat → Q → DQ → Relu → Q, and without the Relu too."""
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        if producer is None or producer.op_type != "Concat":
            continue
        readers = {reader.op_type for reader in readers_behind(view, node)}
        if found := readers & {"Relu", "Clip", "QuantizeLinear"}:
            yield label(producer), f"quantized, then {', '.join(sorted(found))}"


def whole_bound(view: GraphView) -> Iterator[Breach]:
    """OpenVINO clips codes instead of values where a Clip reads dequantized ones, and cuts a bound
    between two codes off."""
    for node in view.of_type("Clip"):
        dequantize = view.dequantized(node.input[0])
        if dequantize is None or view.zero_point(dequantize).any():
            continue
        bounds = [view.constants[name] for name in node.input[1:] if name in view.constants]
        codes = [float(bound / view.scale(dequantize)) for bound in bounds]
        for code in codes:
            if not code.is_integer():
                yield label(node), f"its bound is {code:g} steps"


def padded_average(view: GraphView) -> Iterator[Breach]:
    """OpenVINO pads an average pool of codes with code 0, which is another value than 0 where the
    zero point is another; the border comes out wrong."""
    for node in view.of_type("AveragePool"):
        dequantize = view.dequantized(node.input[0])
        settings = attributes(node)
        counted = settings.get("count_include_pad", 0) and any(settings.get("pads", ()))
        if counted and dequantize is not None and view.zero_point(dequantize).any():
            zero = int(view.zero_point(dequantize).reshape(-1)[0])
            yield label(node), f"padding counts and the zero point is {zero}"


def even_zero_point(view: GraphView) -> Iterator[Breach]:
    """OpenVINO computes zero points into floats; only 0 and 128 keep ties where they are."""
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        zero = view.zero_point(node).astype(np.int64)
        if not np.isin(zero, (-128, 0, 128)).all():
            yield label(node), f"zero point {int(zero.reshape(-1)[0])}"


def planar_input(view: GraphView) -> Iterator[Breach]:
    """An input in channels-last order made OpenVINO run the first convolution in float."""
    for info in view.inputs:
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if len(dims) == 4 and dims[3] == 3 and dims[1] != 3:
            yield info.name, f"shape {dims}"
