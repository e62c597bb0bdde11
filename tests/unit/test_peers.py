"""The peers compute the float twin's network, with the threads that were asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qdr_bench.measurement import Cell
from qdr_bench.peers import nncf_ptq
from qdr_bench.peers.build import PEERS, build_peer
from qdr_bench.peers.forms import open_form
from qdr_edge.errors import BackendError, BenchmarkError
from qdr_edge.runtime import open_model
from qdr_export.graph.float_twin import build_float_twin
from tests.networks import FAMILIES, checkpoint, from_sketch, images
from tests.sketches import OPERATORS

FLOAT_FORMS = ("eager", "channels_last")


def ours(content: bytes, pixels: np.ndarray) -> np.ndarray:
    session = open_model("onnxruntime", content, threads=1)
    return session.infer(pixels)


@pytest.mark.parametrize("form", FLOAT_FORMS)
@pytest.mark.parametrize("name", [*FAMILIES, "pyramid"])
def test_torch_computes_the_float_twin(name: str, form: str) -> None:
    made = checkpoint(name) if name in FAMILIES else from_sketch(OPERATORS[name](0))
    twin, pixels = build_float_twin(made), images(4, seed=2)
    session = open_form("torch", twin, threads=1, options={"form": form})
    expected = ours(twin, pixels)
    np.testing.assert_allclose(session.infer(pixels), expected, atol=1e-4 * np.abs(expected).max())
    session.close()
    with pytest.raises(BackendError):
        session.infer(pixels)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_the_compiled_form_computes_it_too() -> None:
    twin, pixels = build_float_twin(checkpoint("resnet")), images(2, seed=2)
    session = open_form("torch", twin, threads=1, options={"form": "compile"})
    expected = ours(twin, pixels)
    np.testing.assert_allclose(session.infer(pixels), expected, atol=1e-3 * np.abs(expected).max())


def test_the_papers_recipe_runs_in_int8_and_stays_near(tmp_path: Path) -> None:
    twin, pixels = build_float_twin(checkpoint("resnet")), images(16, seed=2)
    np.save(tmp_path / "c.npy", pixels)
    options = {"form": "paper", "calibration": str(tmp_path / "c.npy")}
    session = open_form("torch", twin, threads=1, options=options)
    network = session._run  # type: ignore[attr-defined]
    kinds = {type(module).__module__ for module in network.modules()}
    assert any("quantized" in kind for kind in kinds)
    found, expected = session.infer(pixels), ours(twin, pixels)
    correlation = np.corrcoef(found.ravel(), expected.ravel())[0, 1]
    assert correlation > 0.9
    assert not np.array_equal(found, expected)


def made(name: str, tmp_path: Path) -> Cell:
    twin = tmp_path / "demo.float.onnx"
    twin.write_bytes(build_float_twin(checkpoint("resnet")))
    return build_peer(name, "demo", twin, images(8, seed=3), tmp_path, {})


@pytest.mark.parametrize("name", ["ort-ptq", "nncf-ptq"])
def test_the_runtimes_own_quantizers(name: str, tmp_path: Path) -> None:
    if name == "nncf-ptq":
        pytest.importorskip("nncf", reason="pip install 'qdr-edge[peers]'")
    cell = made(name, tmp_path)
    assert cell.runnable, cell.failed
    assert cell.id == f"demo/{PEERS[name].form}/{PEERS[name].backend}"
    content = cell.model.read_bytes()
    assert len(content) < (tmp_path / "demo.float.onnx").stat().st_size
    session = open_form(cell.backend, content, threads=1, options=cell.options)
    pixels = images(8, seed=4)
    expected = ours((tmp_path / "demo.float.onnx").read_bytes(), pixels)
    assert np.corrcoef(session.infer(pixels).ravel(), expected.ravel())[0, 1] > 0.9


def test_what_is_missing_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no float twin" in build_peer("ort-ptq", "x", None, images(1), tmp_path, {}).unavailable
    monkeypatch.setattr(nncf_ptq, "is_installed", lambda: False)
    assert "pip install nncf" in made("nncf-ptq", tmp_path).unavailable
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "twin.onnx").write_bytes(b"no model")
    cell = build_peer("ort-ptq", "x", tmp_path / "bad" / "twin.onnx", images(1), tmp_path, {})
    assert "could not be made" in cell.failed
    with pytest.raises(BenchmarkError, match="no peer 'tflite'"):
        made("tflite", tmp_path)


def test_threads_are_pinned_and_forms_are_known() -> None:
    twin, before = build_float_twin(checkpoint("student")), torch.get_num_threads()
    try:
        session = open_form("torch", twin, threads=2, options={"form": "eager"})
        assert (session.threads, torch.get_num_threads()) == (2, 2)
    finally:
        torch.set_num_threads(before)
    with pytest.raises(BackendError, match="form 'jit'"):
        open_form("torch", twin, threads=1, options={"form": "jit"})
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no CUDA device"):
            open_form("torch", twin, threads=1, options={"device": "cuda"})
