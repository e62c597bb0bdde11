"""Models that must never reach a runtime are refused before one parses them."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge.errors import BundleError
from qdr_edge.runtime import open_model
from qdr_edge.runtime.onnx_check import check_onnx
from tests.bundles import SIZE, onnx_model

MODEL = onnx_model()


def _model(*nodes: onnx.NodeProto, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "inputs": [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, 8, 8])],
        "outputs": [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 8, 8])],
        "initializer": [],
    }
    values.update({k: v for k, v in changes.items() if k in values})
    cast = helper.make_node("Cast", ["pixels"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph(list(nodes) or [cast], "g", **values)
    rest = {k: v for k, v in changes.items() if k not in values}
    rest.setdefault("opset_imports", [helper.make_opsetid("", 19)])
    raw: bytes = helper.make_model(graph, **rest).SerializeToString()
    return raw


def test_facts_are_those_of_the_onnx_package() -> None:
    facts = check_onnx(MODEL)
    loaded = onnx.load_model_from_string(MODEL)
    assert dict(facts.opsets) == {"": 19}
    assert sum(facts.operators.values()) == len(loaded.graph.node)
    assert facts.operators["Conv"] == 1
    assert facts.input_shape == (1, 3, SIZE, SIZE)
    assert facts.output_shape == (1, 3)
    assert check_onnx(_model(opset_imports=[helper.make_opsetid("ai.onnx", 19)])).opsets == {"": 19}


def _external() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _huge() -> TensorProto:
    return TensorProto(name="w", dims=[1 << 20, 1 << 20], data_type=TensorProto.FLOAT)


NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def _resize(scales: list[float], *more: onnx.NodeProto, **attrs: Any) -> bytes:
    settings = NEAREST | attrs
    node = helper.make_node("Resize", ["pixels", "", "s"], ["y"], **settings)
    factors = numpy_helper.from_array(np.array(scales, np.float32), "s")
    weight = numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "w")
    return _model(node, *more, initializer=[factors, weight])


def _chain(op: str, count: int, *extra: str, **attrs: Any) -> list[onnx.NodeProto]:
    """Nodes that each read the one before, the first "y"."""
    names = ["y", *(f"t{i}" for i in range(count))]
    return [
        helper.make_node(op, [a, *(extra or (a,))], [b], **attrs)
        for a, b in itertools.pairwise(names)
    ]


def _conv(**attrs: Any) -> bytes:
    return _model(helper.make_node("Conv", ["pixels", "w"], ["y"], **attrs))


def _if_node() -> onnx.NodeProto:
    empty = helper.make_graph([], "b", [], [])
    return helper.make_node("Relu", ["pixels"], ["y"], body=empty)


def _value(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (_model(helper.make_node("Loop", ["a"], ["b"])), "operator 'Loop'"),
        (_model(helper.make_node("Relu", ["a"], ["b"], domain="evil")), "'evil.Relu'"),
        (_model(helper.make_node("PythonOp", ["a"], ["b"], domain="com.microsoft")), "PythonOp"),
        (_model(_if_node()), "subgraph"),
        (_model(initializer=[_external()]), "external data"),
        (_model(helper.make_node("Constant", [], ["c"], value=_external())), "external data"),
        (_model(initializer=[_huge()]), "elements"),
        (_model(initializer=[TensorProto(name="w", dims=[1] * 9)]), "8 dimensions"),
        (_model(inputs=[_value("x", TensorProto.FLOAT, [1, 3, 8, 8])]), "uint8"),
        (_model(inputs=[_value("x", TensorProto.UINT8, [1, 3, 8, 9])]), "shape"),
        (_model(inputs=[_value("x", TensorProto.UINT8, [1, 8, 8, 3])]), "shape"),
        (_model(inputs=[]), "uint8"),
        (_model(outputs=[]), "logits"),
        (_model(outputs=[_value("y", TensorProto.UINT8, [1, 2])]), "logits"),
        (
            _model(functions=[helper.make_function("d", "f", [], [], [], [])]),
            "local functions",
        ),
        (_resize([1, 1, 16, 16]), "Resize by"),
        (_resize([1, 4, 1, 1]), "Resize by"),
        (_resize([1, 1, 1.5, 1.5]), "Resize by"),
        (_resize([1, 1, 2]), "Resize by"),
        (_resize([1, 1, 2, 2], mode="cubic"), "not nearest"),
        (_resize([1, 1, 2, 2], coordinate_transformation_mode="align_corners"), "not nearest"),
        (_model(helper.make_node("Resize", ["pixels", "", "pixels"], ["y"])), "not nearest"),
        (_model(helper.make_node("Resize", ["pixels", "", "", "pixels"], ["y"])), "not nearest"),
        (_resize([1, 1, 4, 1], *_chain("Resize", 2, "", "s", **NEAREST)), "16 times as large"),
        (_resize([1, 1, 1, 1], *_chain("Concat", 11, axis=1)), "concatenation of 2048"),
        (_model(*_chain("Relu", 2)[::-1]), "made by no earlier node"),
        (_conv(pads=[1 << 20] * 4), "pads above 256"),
        (_conv(pads=[-1] * 4), "pads above 256"),
        (_conv(kernel_shape=[1000, 1000]), "kernel_shape above 256"),
        (b"", "one graph"),
        (b"hello world, this is no model", "not an ONNX|one graph"),
        (b"\x80PKL" * 9, "not an ONNX|one graph"),
        (MODEL + b"\x3a\x00", "one graph"),
    ],
)
def test_models_that_must_never_reach_a_runtime(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check_onnx(raw)
    with pytest.raises(BundleError, match="model refused"):
        open_model("onnxruntime", raw)


def test_enlargement_is_counted_against_strides() -> None:
    strided = helper.make_node("Conv", ["y", "w"], ["z"], strides=[4, 4])
    again = helper.make_node("Resize", ["z", "", "s"], ["u"], **NEAREST)
    assert check_onnx(_resize([1, 1, 4, 4], strided, again)).operators["Resize"] == 2
    wide = helper.make_node("Conv", ["y", "w"], ["z"], strides=[1, 4])
    with pytest.raises(BundleError, match="16 times as large"):
        check_onnx(_resize([1, 1, 4, 4], wide, again))


def test_a_convolution_gives_channels_of_its_own() -> None:
    joined = [*_chain("Concat", 10, axis=1), helper.make_node("Conv", ["t9", "w"], ["u"])]
    again = helper.make_node("Concat", ["u", "u"], ["v"], axis=1)
    assert check_onnx(_resize([1, 1, 1, 1], *joined, again)).operators["Concat"] == 11


def test_damaged_models_are_refused_or_still_checked_never_crash() -> None:
    random = np.random.default_rng(0)
    for length in range(0, len(MODEL), 7):
        with pytest.raises(BundleError):
            check_onnx(MODEL[:length])
    for _ in range(500):
        data = bytearray(MODEL)
        data[int(random.integers(len(data)))] = int(random.integers(256))
        # Any other exception than ours fails the test.
        with contextlib.suppress(BundleError):
            check_onnx(bytes(data))
