"""ONNX Runtime on an NVIDIA GPU, as a Session; never on the CPU in its place."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import BackendError
from qdr_edge.runtime import availability
from qdr_edge.runtime.onnx_check import check_onnx
from qdr_edge.runtime.pixels import check_images, closed

PROVIDER = "CUDAExecutionProvider"
# The two packages share one module: the CPU's must go first.
INSTALL = "pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
# Of the provider; every one is written out, so that no release's default decides.
OPTIONS = {
    "device_id": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "use_tf32": "0",
    "do_copy_in_default_stream": "1",
    "enable_cuda_graph": "0",
}


def has_provider() -> bool:
    """Whether the ONNX Runtime that is installed was built for CUDA."""
    import onnxruntime

    return PROVIDER in onnxruntime.get_available_providers()


class OrtCudaSession:
    """A model that ONNX Runtime computes on the GPU, every node of it.

    Images and logits are arrays of the host: `run` copies in, computes, copies out and waits.

    Args:
        content: The float twin or an artefact with Q/DQ.
        options: Values for OPTIONS.

    Raises:
        BackendError: The GPU, its driver or a library is missing, or it lacks a node's operator.
        BundleError: The model is not what a runtime may parse.
    """

    backend = "onnxruntime"
    threads = 1  # the GPU does the work

    def __init__(self, content: bytes, options: Mapping[str, str]) -> None:
        check_onnx(content, where="model for ONNX Runtime on CUDA")
        self.version = availability()["onnxruntime"].version
        self._session: Any = _create(content, {name: options[name] for name in OPTIONS})
        image = self._session.get_inputs()[0]
        self._input: str = image.name
        self._size: int = image.shape[-1] if isinstance(image.shape[-1], int) else 0
        self._output: str = self._session.get_outputs()[0].name
        self._lock = threading.Lock()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session; one image after the other, as the file's batch of 1 asks for."""
        check_images(images, self._size)
        rows = []
        for index in range(len(images)):
            with self._lock:
                if self._session is None:
                    raise closed()
                pixels = {self._input: images[index : index + 1]}
                rows.append(self._session.run([self._output], pixels)[0])
        return np.concatenate(rows).astype(np.float32, copy=False)

    def close(self) -> None:
        """See Session."""
        with self._lock:
            self._session = None


def _create(content: bytes, provider: Mapping[str, str]) -> Any:
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        # CUDA and cuDNN from pip lie where the loader does not look.
        onnxruntime.preload_dlls()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # By default a provider that cannot be loaded, or a node that it lacks, is the CPU's, and the
    # session opens all the same.
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            content, settings, providers=[(PROVIDER, dict(provider))], enable_fallback=0
        )
    except Exception as error:
        # ONNX Runtime raises a dozen unrelated classes.
        raise _refused(str(error)) from error
    if session.get_providers()[0] != PROVIDER:
        raise _refused(f"it chose {', '.join(session.get_providers())}")
    return session


def _refused(why: str) -> BackendError:
    return BackendError(
        f"ONNX Runtime does not compute the model on CUDA: {why}",
        expected=f"every node on {PROVIDER}",
        fix=f"run `{INSTALL}`, with the driver that this CUDA needs; what it prints says more",
    )
