"""Models that bring code: custom operators, control flow, plug-ins, pickles, shared objects."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
from onnx import helper

from qdr_edge.errors import BackendError, BundleError
from qdr_edge.runtime import open_model
from tests.attacks.models import model

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


def test_a_backend_that_would_load_something_else() -> None:
    for backend in ("torch", "native", "os", "..", "", "onnxruntime.capi"):
        with pytest.raises(BackendError, match="opens no ONNX model"):
            open_model(backend, model())
