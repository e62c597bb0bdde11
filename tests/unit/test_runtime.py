"""The runtimes agree, serve several threads, and say what is missing."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnx
import pytest

from qdr_edge.errors import BackendError
from qdr_edge.runtime import Session, availability, open_model
from tests.bundles import SIZE, onnx_model

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
