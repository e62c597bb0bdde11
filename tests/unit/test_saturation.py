"""Where int8 sums may saturate, exact kernels are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge.target import host


@pytest.mark.parametrize(
    ("features", "weight", "asked"),
    [((), 65, True), ((), 64, False), (("vnni",), 127, False)],
)
def test_without_vnni_exact_kernels_are_asked_for_where_weights_need_them(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], weight: int, asked: bool
) -> None:
    from qdr_edge.runtime import onnxruntime as backend

    plain = replace(host(), architecture="x86_64", features=frozenset({"x86_64", *features}))
    monkeypatch.setattr(backend, "host", lambda: plain)
    codes = numpy_helper.from_array(np.array([1, weight], np.int8), "w")
    model = helper.make_model(helper.make_graph([], "g", [], [], [codes])).SerializeToString()
    options = backend.default_options(model)
    assert options.pop("session.x64quantprecision", None) == ("1" if asked else None)
    assert options == {"session.intra_op.allow_spinning": "0"}


@pytest.mark.parametrize(
    ("features", "weight", "expected"),
    [
        ({"x86_64"}, 64, False),
        ({"x86_64"}, 65, True),
        ({"x86_64"}, -127, True),
        ({"x86_64", "vnni"}, 127, False),
    ],
)
def test_weights_decide_whether_this_processor_saturates(
    monkeypatch: pytest.MonkeyPatch, features: set[str], weight: int, expected: bool
) -> None:
    from qdr_edge.runtime import saturation

    plain = replace(host(), architecture="x86_64", features=frozenset(features))
    monkeypatch.setattr(saturation, "host", lambda: plain)
    codes = numpy_helper.from_array(np.array([1, weight, -2], np.int8), "w")
    pixels = numpy_helper.from_array(np.array([200], np.uint8), "p")
    graph = helper.make_graph([], "g", [], [], [pixels, codes])
    assert saturation.saturates_here(helper.make_model(graph).SerializeToString()) is expected
    node = helper.make_node("Constant", [], ["w"], value=codes)
    graph = helper.make_graph([node], "g", [], [])
    assert saturation.saturates_here(helper.make_model(graph).SerializeToString()) is expected
    listed = helper.make_tensor("w", TensorProto.INT8, [1], [weight])
    graph = helper.make_graph([], "g", [], [], [listed])
    found = saturation.saturates_here(helper.make_model(graph).SerializeToString())
    assert found is (not features & {"vnni"})  # varints are not read: they count as large


@pytest.mark.parametrize(("limit", "expected"), [("AVX2", True), ("AVX512_CORE_VNNI", False)])
def test_a_processor_whose_vnni_is_held_back_saturates(
    monkeypatch: pytest.MonkeyPatch, limit: str, expected: bool
) -> None:
    from qdr_edge.runtime import saturation

    able = replace(host(), architecture="x86_64", features=frozenset({"x86_64", "vnni"}))
    monkeypatch.setattr(saturation, "host", lambda: able)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    codes = numpy_helper.from_array(np.array([127], np.int8), "w")
    model = helper.make_model(helper.make_graph([], "g", [], [], [codes]))
    assert saturation.saturates_here(model.SerializeToString()) is expected
