"""The TensorRT forms: which Q/DQ pairs stay, what is typed float16, what may not be in a graph."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge.errors import ExportError
from qdr_edge.scheme import PORTABLE
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from qdr_export.emit.halves import round_explicitly
from qdr_export.emit.tensorrt import emit as emit_10
from qdr_export.emit.tensorrt11 import emit as emit_11
from qdr_export.lint import lint_model
from qdr_export.onnx_graph import GraphView, attributes
from qdr_export.reference import Reference
from qdr_export.rungs import open_as_written
from tests.networks import FAMILIES, Sketch, checkpoint, from_sketch, images, with_float

FORMS = {"tensorrt-10": emit_10, "tensorrt-11": emit_11}


def _view(family: str, **options: bool) -> GraphView:
    return GraphView(emit_10(build_canonical(checkpoint(family)), **options))


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_keeps_every_rule(family: str, target: str) -> None:
    model = emitter(target)(build_canonical(checkpoint(family)))
    assert lint_model(model, target) == []
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_points_are_int8_zero_and_axes_written(family: str, emit) -> None:  # type: ignore[no-untyped-def]
    view = GraphView(emit(build_canonical(checkpoint(family))))
    for node in view.of_type("QuantizeLinear", "DequantizeLinear"):
        zero = view.constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert zero.size == view.scale(node).size
        assert view.scale(node).dtype == np.float32
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


def test_a_stem_that_only_a_pool_reads_has_float_weights_and_unquantized_pixels() -> None:
    view = _view("resnet")
    stem = next(view.of_type("Conv"))
    assert view.constants[stem.input[1]].dtype == np.float32
    assert view.producers[stem.input[0]].op_type == "Mul"
    # Without a pool behind it the first convolution is int8.
    first = next(_view("student").of_type("Conv"))
    assert _view("student").dequantized(first.input[1]) is not None


def test_keep_roundings_keeps_every_pair() -> None:
    canonical = GraphView(build_canonical(checkpoint("resnet")))
    kept = _view("resnet", keep_roundings=True)
    pairs = sum(1 for _ in canonical.of_type("QuantizeLinear"))
    # One more: the input's.
    assert sum(1 for _ in kept.of_type("QuantizeLinear")) == pairs + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_float_layers_are_typed_half_and_nothing_else_is(family: str) -> None:
    untyped = GraphView(emit_10(build_canonical(checkpoint(family))))
    typed = GraphView(emit_11(build_canonical(checkpoint(family))))
    types = _types(typed.model)
    weights = {n.name: typed.constants.get(n.input[1]) for n in typed.of_type("Conv", "Gemm")}
    floats = {n.name for n in untyped.of_type("Conv", "Gemm") if n.input[1] in untyped.constants}
    assert floats
    for node in typed.of_type("Conv", "Gemm"):
        half = node.name in floats
        expected = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        assert {types[name] for name in [*node.input, *node.output]} == {expected}, node.name
        assert (weights[node.name] is not None) == half
    for node in typed.of_type("QuantizeLinear", "GlobalAveragePool"):
        assert types[node.input[0]] == TensorProto.FLOAT
    assert types["logits"] == TensorProto.FLOAT


def test_what_lies_between_half_layers_stays_half() -> None:
    view = GraphView(emit_11(build_canonical(checkpoint("mobilenet"))))
    # Squeeze and excite: Cast, Conv, Relu, Conv, HardSigmoid, Cast; then Mul in float32.
    gate = view.producers["b0.sig:float"]
    assert gate.op_type == "Cast"
    chain = []
    while gate.op_type != "GlobalAveragePool":
        chain.append(gate.op_type)
        gate = view.producers[gate.input[0]]
    assert chain == ["Cast", "HardSigmoid", "Conv", "Relu", "Conv", "Cast"]
    assert len(list(view.of_type("Cast"))) == 7  # into and out of 2 gates and the head; the pixels


def test_weights_that_half_precision_cannot_hold_stay_float32() -> None:
    made = checkpoint("student")
    tensors = dict(made.tensors)
    made = with_float(made, ("c3",))
    for name in ("c3.weight", "c3.bias"):
        made.tensors[name][...] = tensors[name] * np.float32(1e6)  # type: ignore[index]
    model = emit_11(build_canonical(made))
    view = GraphView(model)
    layer = next(n for n in view.of_type("Conv") if n.name == "c3")
    assert view.constants[layer.input[1]].dtype == np.float32
    assert {f.rule for f in lint_model(model, "tensorrt-11")} == {"typed-half"}


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_rounding_kept_is_bit_equal(family: str, emit) -> None:  # type: ignore[no-untyped-def]
    canonical = build_canonical(checkpoint(family))
    session = open_as_written(emit(canonical, keep_roundings=True), 1)
    pixels = images(8)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_roundings_stay_near_the_reference(family: str, emit) -> None:  # type: ignore[no-untyped-def]
    canonical = build_canonical(checkpoint(family))
    pixels = images(32)
    expected = Reference(canonical).infer(pixels)
    session = open_as_written(emit(canonical), 1)
    found = session.infer(pixels)
    session.close()
    steps = np.abs(found - expected) / (np.abs(expected).max() / 127)
    signs = (found > 0) != (expected > 0)
    print(f"steps: largest {steps.max():.1f}, mean {steps.mean():.1f}; signs: {signs.sum()}")
    assert 0 < steps.max() < 20  # random weights amplify
    assert steps.mean() < 2.5
    assert not signs[np.abs(expected) > 20 * np.abs(expected).max() / 127].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_computed_not_dropped(family: str) -> None:
    canonical = build_canonical(checkpoint(family))
    model = emit_11(canonical)
    session, wide = open_as_written(model, 1), open_as_written(emit_10(canonical), 1)
    logits, expected = session.infer(images(32)), wide.infer(images(32))
    session.close()
    wide.close()
    steps = np.abs(logits - expected) / (np.abs(expected).max() / 127)
    print(f"near: half precision alone, steps: {steps.max():.1f}")
    assert 0 < steps.max() < 4
    # The head's output is float16: every logit is one of its numbers.
    np.testing.assert_array_equal(logits, logits.astype(np.float16).astype(np.float32))
    rounded = GraphView(round_explicitly(model))
    assert {v.dtype for v in rounded.constants.values()} == {np.dtype(np.int8), np.dtype("f4")}
    assert round_explicitly(emit_10(canonical)) == emit_10(canonical)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_training_kept_in_float_are_rounded_too(family: str) -> None:
    made = checkpoint(family)
    chosen = tuple(n.name for n in made.graph.nodes if n.op == "conv")[1::2]
    canonical = build_canonical(with_float(made, chosen))
    model = emit_11(canonical)
    assert lint_model(model, "tensorrt-11") == []
    view = GraphView(model)
    half = {n.name for n in view.of_type("Conv") if n.input[1] in view.constants}
    assert set(chosen) <= half
    session = open_as_written(model, 1)
    expected = Reference(canonical).infer(images(4))
    assert np.abs(session.infer(images(4)) - expected).max() < 0.2 * np.abs(expected).max()
    session.close()


def test_explicit_rounding_is_what_the_onnx_reference_computes() -> None:
    """One half layer: float16 in, out and weights; sums of so few terms differ nowhere else."""
    s = Sketch(4)
    x = s.op("g", "global_avg_pool", s.conv("c", "pixels", 16, 3, stride=2, relu=True))
    s.linear("fc", s.op("f", "flatten", x), 4)
    model = emit_11(build_canonical(from_sketch(s)))
    pixels = images(4)
    session = open_as_written(model, 1)
    expected = np.concatenate(
        [onnx.reference.ReferenceEvaluator(model).run(None, {"pixels": p[None]})[0] for p in pixels]
    )
    # float16 sums of 16 products against one rounding of an exact sum.
    np.testing.assert_allclose(session.infer(pixels), expected, rtol=0, atol=0.01)
    session.close()


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
def test_portable_scales_survive_half_precision(emit) -> None:  # type: ignore[no-untyped-def]
    canonical = build_canonical(checkpoint("mobilenet", scheme=PORTABLE))
    view = GraphView(emit(canonical))
    assert all(view.scale(n).dtype == np.float32 for n in view.of_type("QuantizeLinear"))


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(117), np.int8(-3)], ids=str)
def test_codes_with_a_zero_point_are_refused(emit, zero) -> None:  # type: ignore[no-untyped-def]
    model = onnx.load_model_from_string(build_canonical(checkpoint("student")))
    changed = next(
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.output[0][0] == "a"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(zero), "odd"))
    changed.input[2] = "odd"
    properties = {p.key: p.value for p in model.metadata_props}
    scheme = json.loads(properties["qdr.scheme"]) | {"name": "u8"}
    helper.set_model_props(model, properties | {"qdr.scheme": json.dumps(scheme)})
    with pytest.raises(ExportError) as caught:
        emit(model.SerializeToString())
    text = str(caught.value)
    assert text.startswith("node a: ")
    assert f"zero point {zero}, scheme u8" in text
    assert "--target" in text


@pytest.mark.parametrize("emit", FORMS.values(), ids=FORMS)
def test_operators_it_does_not_know_are_copied_in_float(emit) -> None:  # type: ignore[no-untyped-def]
    model = onnx.load_model_from_string(build_canonical(checkpoint("mobilenet")))
    for node in model.graph.node:
        if node.op_type == "HardSigmoid":
            node.op_type = "Elu"
            del node.attribute[:]
    view = GraphView(emit(model.SerializeToString()))
    types = _types(view.model)
    strange = list(view.of_type("Elu"))
    assert len(strange) == 2
    for node in strange:
        assert types[node.input[0]] == types[node.output[0]] == TensorProto.FLOAT


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    return {i.name: i.type.tensor_type.elem_type for i in infos} | {
        t.name: t.data_type for t in graph.initializer
    }
