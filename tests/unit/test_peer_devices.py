"""Peers on a GPU or NPU: they run there or not at all, and a row says what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from qdr_bench.measurement import Cell
from qdr_bench.peers import build, ort_cuda
from qdr_bench.peers.build import PEERS, build_peer
from qdr_bench.peers.forms import open_form
from qdr_bench.suite.schema import SHIPPED, load_suite
from qdr_edge.errors import BackendError, BundleError
from qdr_edge.runtime import openvino
from qdr_edge.target import Host, host
from tests.bundles import SIZE, onnx_model

ON_DEVICES = [name for name, peer in PEERS.items() if peer.device != "cpu"]


def cell(name: str, folder: Path) -> Cell:
    twin, ours = folder / "twin.onnx", folder / "ours.onnx"
    twin.write_bytes(onnx_model(seed=7))
    ours.write_bytes(onnx_model())
    images = np.zeros((1, 3, SIZE, SIZE), np.uint8)
    artefacts = {"onnxruntime": ours, "openvino": ours}
    return build_peer(name, "demo", twin, images, folder, artefacts)


def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = host()
    there = Host(
        here.architecture, here.cpu, here.features | {"nvidia"}, here.cores, here.memory_bytes, ""
    )
    monkeypatch.setattr(build, "host", lambda: there)


@pytest.mark.parametrize("name", ON_DEVICES)
def test_each_says_how_it_is_run(name: str, tmp_path: Path) -> None:
    peer, made = PEERS[name], cell(name, tmp_path)
    assert made.device == peer.device
    assert made.options["transfers"] == "timed"
    assert made.options["device"].lower() == peer.device
    assert made.model.name == ("ours.onnx" if peer.variant == "int8" else "twin.onnx")
    if peer.backend == "openvino":
        assert made.options["INFERENCE_PRECISION_HINT"] == "f16"
        assert made.options["PERFORMANCE_HINT"] == "LATENCY"
    if name.startswith("ort-cuda"):
        assert made.options["use_tf32"] == "0"
        assert made.options["cudnn_conv_algo_search"] == "EXHAUSTIVE"


@pytest.mark.parametrize("name", ON_DEVICES)
def test_without_the_device_the_row_has_the_command(name: str, tmp_path: Path) -> None:
    made, peer = cell(name, tmp_path), PEERS[name]
    if peer.device == "cuda":
        if "nvidia" in host().features:
            pytest.skip("a GPU is here")
        command = {"torch": "install torch", "onnxruntime": "onnxruntime-gpu"}[peer.backend]
        expected = f"(?s)no NVIDIA GPU or no driver.*run `.*{command}"
    else:
        if peer.device.upper() in {found.split(".")[0] for found in openvino.devices()}:
            pytest.skip("the device is here")
        expected = f"OpenVINO finds no {peer.device.upper()}, only CPU.*run `sudo"
    assert not made.runnable
    assert re.search(expected, made.unavailable), made.unavailable


def test_a_gpu_without_the_right_package_is_a_row_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ort_cuda.has_provider():
        pytest.skip("this ONNX Runtime has the provider")
    with_gpu(monkeypatch)
    said = cell("ort-cuda", tmp_path).unavailable
    assert "has no CUDAExecutionProvider" in said
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in said


def test_a_bundle_without_the_artefact_has_no_such_row(tmp_path: Path) -> None:
    images = np.zeros((1, 3, SIZE, SIZE), np.uint8)
    made = build_peer("ort-cuda-qdq", "demo", tmp_path / "t.onnx", images, tmp_path, {})
    assert "no artefact for onnxruntime" in made.unavailable


def test_onnx_runtime_never_falls_back_to_the_cpu(tmp_path: Path) -> None:
    """The real runtime: without a GPU it would open on the CPU and say so in its log only."""
    if "nvidia" in host().features:
        pytest.skip("a GPU is here")
    made = cell("ort-cuda", tmp_path)
    with pytest.raises(BackendError, match=r"does not compute the model on CUDA.*onnxruntime-gpu"):
        open_form("onnxruntime", onnx_model(), threads=1, options=made.options)
    with pytest.raises(BundleError):
        open_form("onnxruntime", b"no model", threads=1, options=made.options)


def test_openvino_opens_on_a_device_by_its_name() -> None:
    """On HETERO:CPU, a device of its own to OpenVINO, which needs no other hardware."""
    images = np.random.default_rng(0).integers(0, 256, (3, 3, SIZE, SIZE), dtype=np.uint8)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    session = open_form(
        "openvino",
        onnx_model(),
        threads=1,
        options={"device": "HETERO:CPU", "transfers": "timed", **settings},
    )
    expected = open_form("openvino", onnx_model(), threads=1, options={})
    np.testing.assert_allclose(session.infer(images), expected.infer(images), atol=1e-4)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.infer(images)


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_openvino_refuses_a_device_that_is_not_here(device: str) -> None:
    if device in {found.split(".")[0] for found in openvino.devices()}:
        pytest.skip("it is here")
    options = PEERS[f"openvino-{device.lower()}"].options
    with pytest.raises(BackendError, match="refuses the model"):
        open_form("openvino", onnx_model(), threads=1, options=options)
    with pytest.raises(BundleError):
        open_form("openvino", b"no model", threads=1, options=options)


def test_shipped_suites_name_peers_that_exist() -> None:
    suites = [load_suite(path.stem) for path in SHIPPED.glob("*.yaml")]
    named = {peer for suite in suites for peer in suite.peers}
    assert named == set(PEERS)
