"""The ONNX Runtime form: where each zero point and each Min goes."""

from __future__ import annotations

import numpy as np
import pytest

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
        # Only a MaxPool may see them; the Min stands behind it.
        assert source.op_type == "Min" or readers == {"MaxPool"}


def test_min_moves_behind_a_max_pool() -> None:
    view = _view("resnet")
    pool = next(view.of_type("MaxPool"))
    before = view.producer(view.producers[pool.input[0]].input[0])
    after = view.consumers[view.consumers[pool.output[0]][0].output[0]][0]
    assert before is not None
    assert before.op_type == "QuantizeLinear"
    assert after.op_type == "Min"


def test_min_stays_if_something_else_reads_the_tensor() -> None:
    s = Sketch(0)
    x = s.conv("c", "pixels", 16, 3, stride=2, relu=True)
    pooled = s.op("p", "max_pool", x, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    y = s.op("a", "add", x, pooled)
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", y)), 4)
    view = GraphView(emit(build_canonical(from_sketch(s))))
    assert [n.input[0] for n in view.of_type("Min")] == ["c:q"]


def test_dequantize_keeps_its_quantizers_zero_point() -> None:
    view = _view("resnet")
    for node in view.of_type("DequantizeLinear"):
        source = view.producer(node.input[0])
        while source is not None and source.op_type == "Min":
            source = view.producer(source.input[0])
        if source is not None:
            assert view.zero_point(node) == view.zero_point(source)
            assert view.scale(node) == view.scale(source)
