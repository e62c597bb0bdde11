"""Checkpoint → canonical graph: integers, grids, metadata, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from qdr_edge.errors import ExportError
from qdr_edge.labels import LabelSet
from qdr_edge.scheme import EXACT, PORTABLE
from qdr_export.graph.canonical import build_canonical, is_power_of_two, quantize_weights
from qdr_export.graph.float_twin import build_float_twin
from qdr_export.graph.onnx_graph import GraphView, attributes
from tests.networks import FAMILIES, LABELS, SIZE, checkpoint


@pytest.mark.parametrize("family", FAMILIES)
def test_every_activation_is_int8_with_zero_point_zero(family: str) -> None:
    view = GraphView(build_canonical(checkpoint(family)))
    quantizers = list(view.of_type("QuantizeLinear"))
    assert quantizers
    for node in quantizers:
        assert view.zero_point(node).dtype == np.int8
        assert view.zero_point(node) == 0
        assert view.scale(node).shape == ()


def test_weights_are_per_channel_int8_on_their_grid() -> None:
    made = checkpoint("student")
    view = GraphView(build_canonical(made))
    conv = next(view.of_type("Conv"))
    weight, bias = view.producer(conv.input[1]), view.producer(conv.input[2])
    assert weight is not None
    assert bias is not None
    codes, scale = view.constants[weight.input[0]], view.scale(weight)
    assert attributes(weight)["axis"] == 0
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= EXACT.weight_qmax
    real = made.tensors["c0.weight"]
    step = scale.reshape(-1, 1, 1, 1)
    assert (np.abs(codes * step - real) <= step / 2).all()
    # The bias lies on input scale × weight scale, the input's being 1/64.
    assert view.constants[bias.input[0]].dtype == np.int32
    np.testing.assert_array_equal(view.scale(bias), scale / 64)


def test_weights_saturate_and_round_half_to_even() -> None:
    made = checkpoint("student")
    node = made.graph.nodes[-1]
    tensors = dict(made.tensors)
    tensors["fc.weight"] = np.tile(np.float32([0.5, 1.5, -2.5, 1000]), (4, 1))
    tensors["fc.weight_scale"] = np.ones(4, np.float32)
    codes, *_ = quantize_weights(node, tensors, 1.0, EXACT)
    assert codes[0].tolist() == [0, 2, -2, 64]


def test_pixels_are_uint8_with_zero_point_128_and_the_batch_is_free() -> None:
    view = GraphView(build_canonical(checkpoint("student")))
    tensor = view.inputs[0].type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in tensor.shape.dim] == ["N", 3, SIZE, SIZE]
    first = next(n for n in view.nodes if n.input[0] == "pixels")
    assert view.zero_point(first) == 128
    assert view.scale(first) == 2.0**-6


def test_metadata_says_what_onnx_cannot() -> None:
    made = checkpoint("student")
    model = onnx.load_model_from_string(build_canonical(made))
    found = {p.key: p.value for p in model.metadata_props}
    assert json.loads(found["qdr.labels"])["codes"] == list(LABELS.codes)
    assert json.loads(found["qdr.scheme"])["name"] == "exact"
    assert found["qdr.preprocess_sha256"] == made.preprocess.sha256


def test_same_checkpoint_same_bytes() -> None:
    assert build_canonical(checkpoint("resnet")) == build_canonical(checkpoint("resnet"))


def test_equal_constants_are_stored_once() -> None:
    view = GraphView(build_canonical(checkpoint("resnet")))
    keys = [(a.dtype.str, a.shape, a.tobytes()) for a in view.constants.values()]
    assert len(keys) == len(set(keys))


def test_float_network_is_refused() -> None:
    with pytest.raises(ExportError, match="float network"):
        build_canonical(checkpoint("student", scheme=None))


@pytest.mark.parametrize("what", ["weight scale", "output scale"])
def test_scale_that_breaks_its_scheme_is_refused(what: str) -> None:
    made = checkpoint("student")
    if what == "weight scale":
        tensors = {**made.tensors, "c1.weight_scale": made.tensors["c1.weight_scale"] * 1.5}
        made = replace(made, tensors=tensors)
    else:
        nodes = [replace(n, scale=0.3) if n.name == "c1" else n for n in made.graph.nodes]
        made = replace(made, graph=replace(made.graph, nodes=tuple(nodes)))
    with pytest.raises(ExportError, match=f"{what}.* power of two") as caught:
        build_canonical(made)
    assert caught.value.where == "node c1"
    # The portable scheme allows it.
    assert build_canonical(replace(made, scheme=PORTABLE))


def test_bias_beyond_int32_is_refused() -> None:
    made = checkpoint("student")
    tensors = {**made.tensors, "c1.weight_scale": np.full(32, 2.0**-40, np.float32)}
    with pytest.raises(ExportError, match="bias needs"):
        build_canonical(replace(made, tensors=tensors))


def test_power_of_two() -> None:
    values = np.array([1, 2.0**-30, 0.75, 3, 64], np.float32)
    assert is_power_of_two(values).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_float_twin_has_the_same_network_without_rounding(family: str) -> None:
    made = checkpoint(family)
    view = GraphView(build_float_twin(made))
    assert not list(view.of_type("QuantizeLinear", "DequantizeLinear"))
    expected = sum(node.op in ("conv", "linear") for node in made.graph.nodes)
    assert sum(1 for _ in view.of_type("Conv", "Gemm")) == expected
    assert view.inputs[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_logits_that_are_not_one_per_label_are_refused() -> None:
    made = checkpoint("student")
    with pytest.raises(ExportError, match="graph is not valid"):
        build_canonical(replace(made, labels=LabelSet.custom(("NOR", "DR"))))
