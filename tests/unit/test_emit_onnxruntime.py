"""The ONNX Runtime form: where each zero point and each Clip goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import NodeProto

from qdr_edge.graph import Graph
from qdr_edge.scheme import EXACT, U8, QuantScheme
from qdr_export.canonical import build_canonical
from qdr_export.emit.onnxruntime import emit
from qdr_export.onnx_graph import GraphView
from tests.networks import FAMILIES, Sketch, checkpoint, from_sketch


def _view(family: str) -> GraphView:
    return GraphView(emit(build_canonical(checkpoint(family))))


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_uint8(family: str) -> None:
    view = _view(family)
    for node in view.of_type("QuantizeLinear"):
        assert view.zero_point(node).dtype == np.uint8
    assert view.inputs[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_point_is_0_after_relu_and_128_elsewhere(family: str) -> None:
    view = _view(family)
    for node in view.of_type("QuantizeLinear"):
        producer = view.producer(node.input[0])
        assert producer is not None
        if producer.op_type not in ("MaxPool", "Flatten"):
            assert view.zero_point(node) == (0 if producer.op_type == "Relu" else 128)


@pytest.mark.parametrize("family", FAMILIES)
def test_codes_above_127_reach_no_arithmetic(family: str) -> None:
    view = _view(family)
    for node in view.of_type("DequantizeLinear"):
        if node.input[0] in view.constants or view.zero_point(node) != 0:
            continue
        source = view.producer(node.input[0])
        readers = {r.op_type for r in view.consumers[node.output[0]]}
        assert source is not None
        # Only a MaxPool may see them; the Clip stands behind it.
        assert (
            source.op_type == "Clip" or readers == {"MaxPool"} or _largest_sum(view, source) <= 127
        )


def _largest_sum(view: GraphView, quantize: NodeProto) -> float:
    """The largest code that a Q of Relu of a sum can give, by its inputs' largest codes."""
    relu = view.producers[quantize.input[0]]
    add = view.producers[relu.input[0]]
    assert (relu.op_type, add.op_type) == ("Relu", "Add")
    largest = sum(127 * float(view.scale(view.producers[name])) for name in add.input)
    return largest / float(view.scale(quantize))


@pytest.mark.parametrize(("step", "clips"), [(0.25, 1), (0.5, 0)], ids=["may exceed", "fits"])
def test_a_sum_is_clipped_only_where_it_may_exceed_127(step: float, clips: int) -> None:
    s = Sketch(0)
    a = s.conv("a", "pixels", 16, 3, stride=2)
    b = s.conv("b", "pixels", 16, 3, stride=2)
    y = s.op("s", "add", a, b, relu=True)
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", y)), 4)
    made, steps = from_sketch(s), {"a": 0.25, "b": 0.25, "s": step}
    nodes = [replace(node, scale=steps.get(node.name, node.scale)) for node in made.graph.nodes]
    view = GraphView(emit(build_canonical(replace(made, graph=Graph(tuple(nodes))))))
    assert len(list(view.of_type("Clip"))) == clips


@pytest.mark.parametrize(
    ("scheme", "scale", "zero", "bounds"),
    [
        (EXACT, 2.0**-4, 0, (0, 96)),  # the code of 6 is 96
        (EXACT, 2.0**-5, 0, (0, 127)),  # 6 is beyond the range, which ends at 127
        (U8, 6 / 200, 0, (0, 200)),
        (U8, 6 / 200, 10, (10, 210)),
        (U8, 6 / 300, 0, None),  # uint8 saturates by itself
    ],
)
def test_relu6_is_a_clip_of_codes(
    scheme: QuantScheme, scale: float, zero: int, bounds: tuple[int, int] | None
) -> None:
    s = Sketch(0)
    x = s.conv("c", "pixels", 16, 3, stride=2, activation="relu6")
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", x)), 4)
    made = from_sketch(s, scheme=scheme)
    nodes = [
        replace(node, scale=scale, zero_point=zero) if node.name == "c" else node
        for node in made.graph.nodes
    ]
    view = GraphView(emit(build_canonical(replace(made, graph=Graph(tuple(nodes))))))
    clips = [tuple(int(view.constants[i]) for i in n.input[1:]) for n in view.of_type("Clip")]
    assert clips == ([bounds] if bounds else [])
    conv = next(view.of_type("Conv"))
    assert [reader.op_type for reader in view.consumers[conv.output[0]]] == ["QuantizeLinear"]


@pytest.mark.parametrize(("zero", "relus", "clips"), [(0, 1, []), (9, 0, [(9, 255)])])
def test_relu_becomes_a_clip_where_its_zero_point_is_not_0(
    zero: int, relus: int, clips: list[tuple[int, int]]
) -> None:
    s = Sketch(0)
    x = s.conv("c", "pixels", 16, 3, stride=2, relu=True)
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", x)), 4)
    made = from_sketch(s, scheme=U8)
    nodes = [replace(n, zero_point=zero) if n.name == "c" else n for n in made.graph.nodes]
    view = GraphView(emit(build_canonical(replace(made, graph=Graph(tuple(nodes))))))
    found = [tuple(int(view.constants[i]) for i in n.input[1:]) for n in view.of_type("Clip")]
    assert found == clips
    assert len(list(view.of_type("Relu"))) == relus


def test_clip_moves_behind_a_max_pool() -> None:
    view = _view("resnet")
    pool = next(view.of_type("MaxPool"))
    before = view.producer(view.producers[pool.input[0]].input[0])
    after = view.consumers[view.consumers[pool.output[0]][0].output[0]][0]
    assert before is not None
    assert before.op_type == "QuantizeLinear"
    assert after.op_type == "Clip"


def test_clip_stays_if_something_else_reads_the_tensor() -> None:
    s = Sketch(0)
    x = s.conv("c", "pixels", 16, 3, stride=2, relu=True)
    pooled = s.op("p", "max_pool", x, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    y = s.op("a", "add", x, pooled)
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", y)), 4)
    view = GraphView(emit(build_canonical(from_sketch(s))))
    assert [n.input[0] for n in view.of_type("Clip")] == ["c:q"]


def test_dequantize_keeps_its_quantizers_zero_point() -> None:
    view = _view("resnet")
    for node in view.of_type("DequantizeLinear"):
        source = view.producer(node.input[0])
        while source is not None and source.op_type == "Clip":
            source = view.producer(source.input[0])
        if source is not None:
            assert view.zero_point(node) == view.zero_point(source)
            assert view.scale(node) == view.scale(source)
