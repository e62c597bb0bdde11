"""The TensorRT form: which Q/DQ pairs stay, and what may not be in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qdr_export.canonical import build_canonical
from qdr_export.emit.tensorrt import emit
from qdr_export.lint import lint_model
from qdr_export.onnx_graph import GraphView, attributes
from tests.networks import FAMILIES, checkpoint


def _view(family: str, **options: bool) -> GraphView:
    return GraphView(emit(build_canonical(checkpoint(family)), **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_keeps_every_rule(family: str) -> None:
    model = emit(build_canonical(checkpoint(family)))
    assert lint_model(model, "tensorrt") == []
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_points_are_int8_zero_and_axes_written(family: str) -> None:
    view = _view(family)
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        zero = view.constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        if view.scale(node).size > 1:
            assert attributes(node)["axis"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_bias_is_float(family: str) -> None:
    view = _view(family)
    for node in view.of_type("Conv", "Gemm"):
        assert view.constants[node.input[2]].dtype == np.float32


def test_residual_keeps_the_pair_of_its_identity_branch() -> None:
    view = _view("resnet")
    adds = list(view.of_type("Add"))
    assert len(adds) == 3
    for add in adds:
        pairs = [view.dequantized(name) is not None for name in add.input]
        assert sorted(pairs) == [False, True]
        main = add.input[pairs.index(False)]
        producer = view.producer(main)
        assert producer is not None
        # The projection is the shorter way: the block's second convolution is the one that fuses.
        assert producer.op_type == "Conv"
        assert producer.name.endswith(".2")


def test_classifier_head_is_float_and_its_input_unquantized() -> None:
    view = _view("resnet")
    head = next(view.of_type("Gemm"))
    assert view.constants[head.input[1]].dtype == np.float32
    assert view.producers[head.input[0]].op_type == "Flatten"


def test_pool_is_quantized_behind_not_before() -> None:
    view = _view("resnet")
    pool = next(view.of_type("MaxPool"))
    assert view.producers[pool.input[0]].op_type == "Relu"
    assert {r.op_type for r in view.consumers[pool.output[0]]} == {"QuantizeLinear"}


def test_keep_roundings_keeps_every_pair() -> None:
    canonical = GraphView(build_canonical(checkpoint("resnet")))
    kept = _view("resnet", keep_roundings=True)
    pairs = sum(1 for _ in canonical.of_type("QuantizeLinear"))
    # One more: the input's.
    assert sum(1 for _ in kept.of_type("QuantizeLinear")) == pairs + 1
