"""ort-arm64 and openvino-ir: the reference's bits again, and what their runtimes make of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qdr_edge.runtime import ir_check, onnx_check, open_model
from qdr_edge.scheme import EXACT, EXACT_WIDE, PORTABLE, QuantScheme
from qdr_edge.target import host
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.maps import add_maps
from qdr_export.lint.check import lint_model
from qdr_export.proof.rungs import AS_WRITTEN
from qdr_export.reference import Reference
from tests.networks import FAMILIES, checkpoint, from_sketch, images
from tests.sketches import OPERATORS

# What ONNX Runtime does on Arm: it leaves int8 as it is.
AS_ON_ARM = {"session.qdqisint8allowed": "1"}


def _has_exact_kernels() -> bool:
    machine = host()
    return machine.architecture != "x86_64" or "vnni" in machine.features


@pytest.mark.parametrize("options", [AS_WRITTEN, AS_ON_ARM, {}], ids=["written", "arm", "x86"])
@pytest.mark.parametrize("scheme", [EXACT, EXACT_WIDE], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_arm_graph_is_bit_equal(family: str, scheme: QuantScheme, options: dict[str, str]) -> None:
    if options == AS_ON_ARM and scheme is EXACT_WIDE and not _has_exact_kernels():
        pytest.skip("no Arm, and no VNNI to stand in: int8 products of wide weights saturate here")
    canonical = build_canonical(checkpoint(family, scheme=scheme))
    pixels = images(8, seed=4)
    model = emitter("onnxruntime-arm64")(canonical)
    session = open_model("onnxruntime", model, threads=1, options=options)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_arm_graph_has_no_uint8_but_the_pixels(family: str) -> None:
    model = onnx.load_model_from_string(
        emitter("onnxruntime-arm64")(build_canonical(checkpoint(family)))
    )
    unsigned = [t for t in model.graph.initializer if t.data_type == TensorProto.UINT8]
    assert [list(onnx.numpy_helper.to_array(t).reshape(-1)) for t in unsigned] == [[128]]
    assert not lint_model(model.SerializeToString(), "ort-arm64")


@pytest.mark.parametrize("family", FAMILIES)
def test_arm_graph_runs_every_product_in_int8_where_int8_stays(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdr_edge.runtime import onnxruntime
    from qdr_export.proof.readback import read_back

    plain = onnxruntime.default_options
    monkeypatch.setattr(onnxruntime, "default_options", lambda m: {**plain(m), **AS_ON_ARM})
    seen = read_back(
        "onnxruntime", emitter("onnxruntime-arm64")(build_canonical(checkpoint(family)))
    )
    assert seen.float_layers == ()
    assert seen.int8_share == 1


@pytest.mark.parametrize("scheme", [EXACT, EXACT_WIDE], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_ir_is_bit_equal_and_no_larger_in_precision(family: str, scheme: QuantScheme) -> None:
    canonical = build_canonical(checkpoint(family, scheme=scheme))
    pixels = images(8, seed=4)
    ir = emitter("openvino-ir")(canonical)
    session = open_model("openvino", ir, threads=1)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()
    assert ir_check.largest_int8(ir) == onnx_check.largest_int8(emitter("openvino")(canonical))


@pytest.mark.parametrize("family", FAMILIES)
def test_ir_of_free_scales_answers_as_the_onnx_form_does(family: str) -> None:
    canonical = build_canonical(checkpoint(family, scheme=PORTABLE))
    pixels = images(8, seed=4)
    answers = []
    for form in ("openvino", "openvino-ir"):
        session = open_model("openvino", emitter(form)(canonical), threads=1)
        answers.append(session.infer(pixels))
        session.close()
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    ("form", "backend", "options"),
    [
        ("onnxruntime-arm64", "onnxruntime", AS_WRITTEN),
        ("onnxruntime-arm64", "onnxruntime", AS_ON_ARM),
        ("openvino-ir", "openvino", {}),
    ],
    ids=["arm-written", "arm", "ir"],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_bit_equal(
    name: str, form: str, backend: str, options: dict[str, str]
) -> None:
    canonical = build_canonical(from_sketch(OPERATORS[name](2), size=48))
    pixels = images(4, 48)
    session = open_model(backend, emitter(form)(canonical), threads=1, options=options)
    np.testing.assert_array_equal(session.infer(pixels), Reference(canonical).infer(pixels))
    session.close()


def test_ir_carries_maps() -> None:
    canonical = add_maps(build_canonical(checkpoint("resnet")), images(4))
    pixels = images(4, seed=9)
    session = open_model("openvino", emitter("openvino-ir")(canonical), threads=1)
    logits, maps = session.infer_maps(pixels)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(logits, Reference(canonical).infer(pixels))
    np.testing.assert_array_equal(maps, Reference(canonical).infer_maps(pixels))
    session.close()


def test_ir_has_the_same_bytes_each_time() -> None:
    canonical = build_canonical(checkpoint("mobilenet"))
    assert emitter("openvino-ir")(canonical) == emitter("openvino-ir")(canonical)
