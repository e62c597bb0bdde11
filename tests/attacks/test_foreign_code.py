"""Models that bring code: custom operators, control flow, plug-ins, pickles, shared objects."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
from onnx import helper

from qdr_edge.bundle import read_bundle, seal
from qdr_edge.errors import BackendError, BundleError, CompatibilityError
from qdr_edge.manifest import Artefact
from qdr_edge.runtime import open_bundle, open_model
from tests.attacks.evil import KEY, TRUST
from tests.attacks.models import model
from tests.bundles import ORT, manifest, onnx_model

OPERATORS = [
    ("Loop", ""), ("If", ""), ("Scan", ""), ("SequenceMap", ""), ("StringNormalizer", ""),
    ("PyOp", "com.microsoft"), ("PythonOp", "com.microsoft"), ("TorchScript", "com.microsoft"),
    ("EPContext", "com.microsoft"), ("Relu", "evil"), ("Relu", "com.microsoft.nchwc"),
    ("DictVectorizer", "ai.onnx.ml"), ("Gradient", "ai.onnx.preview.training"),
    ("TRT_PluginV2", "trt.plugins"), ("FusedConv", "org.openvinotoolkit"), ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "domain"), OPERATORS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_operator_that_is_not_on_the_list(operator: str, domain: str, backend: str) -> None:
    node = helper.make_node(operator, ["pixels"], ["y"], domain=domain)
    with pytest.raises(BundleError, match="is not allowed"):
        open_model(backend, model(node))


def test_a_node_that_calls_an_overload() -> None:
    node = helper.make_node("Relu", ["pixels"], ["y"], overload="mine")
    with pytest.raises(BundleError, match="overloaded"):
        open_model("onnxruntime", model(node))


def test_files_that_are_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "torch.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": [1]}))
    library = b"\x7fELF\x02\x01\x01" + bytes(200)
    flat = b"\x18\0\0\0ORTM" + bytes(200)
    for raw in (pickle.dumps([1]), path.read_bytes(), library, flat, b"#!/bin/sh\n", b""):
        for backend in ("onnxruntime", "openvino"):
            with pytest.raises(BundleError, match="model refused"):
                open_model(backend, raw)


@pytest.mark.parametrize(
    ("backend", "option"),
    [
        ("onnxruntime", "session.load_model_format"),
        ("onnxruntime", "session.model_external_initializers_file_folder_path"),
        ("onnxruntime", "ep.context_file_path"),
        ("openvino", "CACHE_DIR"),
        ("openvino", "WEIGHTS_PATH"),
    ],
)
def test_an_option_that_changes_the_parser_or_touches_files(backend: str, option: str) -> None:
    """`session.load_model_format` = ORT would hand the bytes to the parser of another format."""
    artefact = Artefact(entry=ORT, backend=backend, opset=19, options={option: "ORT"})
    data = seal(manifest(artefacts={"x": artefact}), {ORT: onnx_model()}, KEY)
    with pytest.raises(CompatibilityError, match="may not be set by a bundle"):
        open_bundle(read_bundle(data, trust=TRUST), "x")
    harmless = {"onnxruntime": "session.intra_op.allow_spinning", "openvino": "PERFORMANCE_HINT"}
    values = {"onnxruntime": "0", "openvino": "LATENCY"}
    good = artefact.model_copy(update={"options": {harmless[backend]: values[backend]}})
    data = seal(manifest(artefacts={"x": good}), {ORT: onnx_model()}, KEY)
    open_bundle(read_bundle(data, trust=TRUST), "x", threads=1).close()


def test_a_backend_that_would_load_something_else() -> None:
    for backend in ("torch", "ctypes", "os", "..", "", "onnxruntime.capi"):
        with pytest.raises(BackendError, match="opens no ONNX model"):
            open_model(backend, model())
