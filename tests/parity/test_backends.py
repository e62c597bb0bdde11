"""The proof: every runtime computes the reference's logits, bit for bit, and does it in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qdr_edge.runtime import open_model
from qdr_edge.runtime.onnx_check import largest_int8
from qdr_edge.runtime.onnxruntime import optimized
from qdr_edge.scheme import EXACT_WIDE, PORTABLE
from qdr_export.emit import emitter, native
from qdr_export.emit.rewrite import Rewriter, to_bytes
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.float_twin import build_float_twin
from qdr_export.proof.readback import read_back
from qdr_export.proof.rungs import AS_WRITTEN
from qdr_export.reference import Reference
from tests.networks import FAMILIES, Sketch, checkpoint, from_sketch, images

BACKENDS = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_bit_equal(family: str, backend: str, seed: int) -> None:
    canonical = build_canonical(checkpoint(family, seed))
    pixels = images(16, seed=seed + 5)
    session = open_model(backend, emitter(BACKENDS[backend])(canonical), threads=1)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_wide_weights_are_bit_equal_with_and_without_vnni(family: str, backend: str) -> None:
    canonical = build_canonical(checkpoint(family, scheme=EXACT_WIDE))
    model = emitter(BACKENDS[backend])(canonical)
    assert largest_int8(model) > 64
    pixels = images(8)
    session = open_model(backend, model, threads=1)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [72, 96, 160])
def test_logits_are_bit_equal_at_other_sizes(backend: str, size: int) -> None:
    # Global pools over 9, 25 and 100 positions: divisions that float32 cannot do exactly.
    for family in ("resnet", "mobilenet"):
        canonical = build_canonical(checkpoint(family, 3, size=size))
        pixels = images(6, size)
        session = open_model(backend, emitter(BACKENDS[backend])(canonical), threads=1)
        np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
        session.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_onnxruntime_agrees_with_its_own_optimizations_off(family: str) -> None:
    canonical = build_canonical(checkpoint(family))
    model = emitter("onnxruntime-x86")(canonical)
    pixels = images(8)
    session = open_model("onnxruntime", model, threads=1, options=AS_WRITTEN)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_runs_in_int8(family: str, backend: str) -> None:
    model = emitter(BACKENDS[backend])(build_canonical(checkpoint(family)))
    seen = read_back(backend, model)
    assert seen.float_layers == ()
    assert seen.int8_share == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_multiplies_as_often_as_the_graph_it_came_from(family: str) -> None:
    canonical = build_canonical(checkpoint(family))
    plan = read_back("native", native.emit(canonical))
    graph = read_back("onnxruntime", emitter("onnxruntime-x86")(canonical))
    # A grouped convolution, of which the student has one, is computed as a dense one with zeros.
    spent = [a.macs / b.macs for a, b in zip(plan.layers, graph.layers, strict=True)]
    assert spent == [2 if family == "student" and place == 2 else 1 for place in range(len(spent))]
    assert plan.int8_share == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_twin_runs_in_float(backend: str) -> None:
    seen = read_back(backend, build_float_twin(checkpoint("student")))
    assert seen.int8_share == 0
    assert len(seen.layers) == 6


def test_read_back_sees_what_an_unrewritten_graph_loses() -> None:
    canonical = build_canonical(checkpoint("resnet"))
    static = to_bytes(Rewriter(canonical).run(lambda _r, _n: False, "unrewritten"))
    assert read_back("onnxruntime", static).int8_share < 0.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_portable_scheme_agrees_to_a_few_steps(family: str, backend: str) -> None:
    # Weights up to 127: without VNNI the fast kernels would saturate and be a tenth off.
    canonical = build_canonical(checkpoint(family, scheme=PORTABLE))
    pixels = images(8)
    expected = Reference(canonical).infer(pixels)
    session = open_model(backend, emitter(BACKENDS[backend])(canonical), threads=1)
    found = session.infer(pixels)
    session.close()
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_weights_that_cannot_saturate_keep_onnxruntimes_fast_kernels() -> None:
    # On x86 without VNNI ONNX Runtime makes weights that may saturate uint8, which is slower.
    compiled = optimized(emitter("onnxruntime-x86")(build_canonical(checkpoint("resnet"))))
    tensors = onnx.load_model_from_string(compiled).graph.initializer
    types = {t.data_type for t in tensors if len(t.dims) > 1}
    assert types == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("form", ["onnxruntime-x86", "openvino", "tensorrt-10", "tensorrt-11"])
def test_artefact_is_a_quarter_of_the_float_twin(form: str) -> None:
    s = Sketch(0)
    x = s.conv("c0", "pixels", 32, 3, stride=4, relu=True)
    for index, width in enumerate((64, 128, 160)):
        x = s.conv(f"d{index}", x, width, 3, stride=2, relu=True)
        y = s.conv(f"b{index}.2", s.conv(f"b{index}.1", x, width, 3, relu=True), width, 3)
        x = s.op(f"a{index}", "add", x, y, relu=True)
    s.linear("fc", s.op("f", "flatten", s.op("g", "global_avg_pool", x)), 4)
    made = from_sketch(s)
    weights = sum(t.size for n, t in made.tensors.items() if n.endswith(".weight"))
    assert 0.8e6 < weights < 1.2e6
    assert len(emitter(form)(build_canonical(made))) <= 0.27 * len(build_float_twin(made))
