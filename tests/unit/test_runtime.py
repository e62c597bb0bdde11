"""The runtimes agree, refuse before they parse what they must, and say what is missing."""

from __future__ import annotations

import contextlib
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge import runtime, target
from qdr_edge.bundle import Bundle, read_bundle, seal
from qdr_edge.errors import BackendError, BundleError, CompatibilityError
from qdr_edge.manifest import Artefact
from qdr_edge.runtime import Session, availability, choose_target, open_bundle, open_model
from qdr_edge.runtime.engine_cache import EngineKey, cache_folder, load_engine, store_engine
from qdr_edge.runtime.onnx_check import check_onnx
from qdr_edge.target import BUILTIN, Target, host, version_in
from tests.bundles import ORT, SIZE, manifest, onnx_model

EDGE = ["onnxruntime", "openvino"]
MODEL = onnx_model()


def _images(count: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def _expected(images: Any) -> Any:
    from onnx.reference import ReferenceEvaluator

    run = ReferenceEvaluator(onnx.load_model_from_string(MODEL))
    return np.concatenate([run.run(None, {"pixels": image[None]})[0] for image in images])


@pytest.mark.parametrize("backend", EDGE)
def test_a_backend_computes_the_network(backend: str) -> None:
    images = _images()
    session = open_model(backend, MODEL, threads=1)
    logits = session.infer(images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, _expected(images), atol=1e-3)
    assert (session.backend, session.threads) == (backend, 1)
    assert session.version == availability()[backend].version
    np.testing.assert_array_equal(session.infer(images[1:2])[0], logits[1])
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.infer(images)
    session.close()


@pytest.mark.parametrize("backend", EDGE)
def test_a_session_serves_several_threads(backend: str) -> None:
    images = _images(8)
    session = open_model(backend, MODEL, threads=1)
    alone = session.infer(images)
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        found[index] = [session.infer(images[index : index + 1])[0] for _ in range(5)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, rows in found.items():
        assert all(np.array_equal(row, alone[index]) for row in rows)
    assert len(found) == 8
    session.close()


@pytest.mark.parametrize("backend", EDGE)
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, SIZE, SIZE), np.float32),
        np.zeros((3, SIZE, SIZE), np.uint8),
        np.zeros((1, SIZE, SIZE, 3), np.uint8),
        np.zeros((1, 3, SIZE, SIZE + 1), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((0, 3, SIZE, SIZE), np.uint8),
    ],
    ids=["float", "rank", "nhwc", "oblong", "size", "none"],
)
def test_images_of_another_form_are_refused(backend: str, images: Any) -> None:
    session: Session = open_model(backend, MODEL, threads=1)
    with pytest.raises(BackendError, match="expected uint8"):
        session.infer(images)
    session.close()


def test_torch_computes_the_network_of_a_checkpoint() -> None:
    from qdr_edge.runtime.torch import open_checkpoint
    from qdr_export.graph.float_twin import build_float_twin
    from tests.networks import FAMILIES, checkpoint, from_sketch, images
    from tests.sketches import OPERATORS

    networks = [checkpoint(family) for family in FAMILIES]
    networks += [from_sketch(build(0)) for build in OPERATORS.values()]
    for network in networks:
        pixels = images(2)
        session = open_checkpoint(network)
        twin = open_model("onnxruntime", build_float_twin(network), threads=1)
        np.testing.assert_allclose(session.infer(pixels), twin.infer(pixels), atol=1e-3)
        session.close()
        with pytest.raises(BackendError, match="closed"):
            session.infer(pixels)


def test_unknown_backends_options_and_threads() -> None:
    for name in ("torch", "tflite", ""):
        with pytest.raises(BackendError, match="opens no ONNX"):
            open_model(name, MODEL)
    with pytest.raises(BackendError, match="-1 threads"):
        open_model("onnxruntime", MODEL, threads=-1)
    with pytest.raises(BackendError, match=r"OpenVINO .* refuses"):
        open_model("openvino", MODEL, options={"NO_SUCH_OPTION": "1"})


@pytest.mark.skipif(availability()["tensorrt"].ok, reason="TensorRT is here")
def test_a_missing_runtime_names_the_command_that_adds_it() -> None:
    missing = availability()["tensorrt"]
    assert missing.install
    with pytest.raises(BackendError, match="TensorRT cannot be used") as caught:
        open_model("tensorrt", MODEL)
    assert missing.install in str(caught.value)


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


def _bundle(**artefacts: Artefact) -> Bundle:
    data = seal(
        manifest(artefacts={name.replace("_", "-"): a for name, a in artefacts.items()}),
        {ORT: MODEL},
        None,
    )
    return read_bundle(data, allow_unsigned=True)


def _artefact(backend: str = "onnxruntime", **changes: Any) -> Artefact:
    return Artefact(entry=ORT, backend=backend, opset=19, **changes)


def test_the_first_target_that_runs_here_is_taken() -> None:
    both = _bundle(b=_artefact("openvino"), a=_artefact("onnxruntime"))
    assert choose_target(both) == "a"
    session = open_bundle(both, "b", threads=1)
    assert session.backend == "openvino"
    session.close()
    other = _bundle(a=_artefact(requires=("quantum",)), b=_artefact("openvino"))
    assert choose_target(other) == "b"


def test_a_target_that_cannot_run_here_says_why() -> None:
    with pytest.raises(CompatibilityError, match="no quantum"):
        open_bundle(_bundle(a=_artefact(requires=("quantum",))), "a")
    with pytest.raises(CompatibilityError, match="outside the versions"):
        open_bundle(_bundle(a=_artefact(runtime=">=99")), "a")
    with pytest.raises(CompatibilityError, match="'npu' is not known"):
        open_bundle(_bundle(a=_artefact("npu")), "a")
    with pytest.raises(CompatibilityError, match="no artefact for target 'c'"):
        open_bundle(_bundle(a=_artefact()), "c")
    with pytest.raises(CompatibilityError, match="a: this machine has no quantum") as caught:
        open_bundle(_bundle(a=_artefact(requires=("quantum",)), b=_artefact("npu")))
    assert "doctor" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "accepted", "holds"),
    [
        ("1.32.0", "", True),
        ("1.32.0", ">=1.20,<2", True),
        ("2.0.0", ">=1.20,<2", False),
        ("1.9.1", ">=1.20", False),
        ("10.3.0", ">=10.3", True),
        ("10.3", ">=10.3.0", True),
        ("2026.4.1-22982-abc", ">=2025.0", True),
        ("", ">=1", False),
    ],
)
def test_version_ranges(version: str, accepted: str, holds: bool) -> None:
    assert version_in(version, accepted) is holds


def test_a_version_range_that_cannot_be_read() -> None:
    with pytest.raises(CompatibilityError, match="cannot be read"):
        version_in("1.0", "~=1.0")


def test_targets_and_this_machine() -> None:
    for name, profile in BUILTIN.items():
        assert profile.name == name
        assert profile.backend in runtime.BACKENDS
        assert Target.from_dict(profile.to_dict()) == profile
    machine = host()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.lacks([machine.architecture, "quantum"]) == ["quantum"]


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


def test_flags_of_the_processor_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/cpuinfo": "model name\t: Test\nflags\t\t: fpu avx2 avx512_vnni\n"}
    monkeypatch.setattr(target, "_read_text", lambda path: texts.get(path, ""))
    found = target.host.__wrapped__()
    assert {"avx2", "vnni"} <= found.features
    assert found.cpu == "Test"
    texts["/proc/cpuinfo"] = "Features\t: fp asimd asimddp i8mm\n"
    texts["/etc/nv_tegra_release"] = "# R36 (release), REVISION: 4.0\nmore"
    found = target.host.__wrapped__()
    assert {"neon", "dotprod", "i8mm", "nvidia"} <= found.features
    assert found.jetson.startswith("R36")


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("_cache")
def test_an_engine_is_cached_for_exactly_its_key() -> None:
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    assert load_engine(key) is None
    store_engine(key, b"engine")
    assert load_engine(key) == b"engine"
    for other in (
        replace(key, model_sha256="b" * 64),
        replace(key, device="sm_90"),
        replace(key, runtime_version="10.4.0"),
        replace(key, flags="fp16"),
    ):
        assert load_engine(other) is None
        # An authentic engine under another key's name must not be accepted either.
        path = cache_folder() / f"{key.digest}.engine"
        (cache_folder() / f"{other.digest}.engine").write_bytes(path.read_bytes())
        assert load_engine(other) is None


@pytest.mark.usefixtures("_cache")
def test_a_cached_engine_that_somebody_else_wrote_is_not_used() -> None:
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    store_engine(key, b"engine")
    path = cache_folder() / f"{key.digest}.engine"
    good = path.read_bytes()
    for content in (good[:-1], good + b"x", bytes([good[0] ^ 1]) + good[1:], b"", b"\0" * 32):
        path.write_bytes(content)
        assert load_engine(key) is None
    path.write_bytes(good)
    assert load_engine(key) == b"engine"


@pytest.mark.usefixtures("_cache")
def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    store_engine(key, b"engine")
    assert load_engine(key) is None


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
