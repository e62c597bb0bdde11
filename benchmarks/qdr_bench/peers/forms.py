"""Open whatever a cell is, in its own process."""

from __future__ import annotations

from collections.abc import Mapping

from qdr_edge.runtime import Session, open_model

TOLD = ("device", "transfers")
"""What a cell's options tell a reader and this module, and no runtime."""


def open_form(backend: str, content: bytes, *, threads: int, options: Mapping[str, str]) -> Session:
    """Open a cell's file.

    Args:
        backend: A runtime of qdr_edge, or "torch" for a float twin in torch.
        content: Its bytes; the child has checked their hash.
        threads: Threads of one inference.
        options: Of the runtime, or of the form; `device` other than "cpu" names where it runs.

    Raises:
        BackendError: It cannot be opened here.
        BundleError: It is not what the runtime may parse.
    """
    if backend == "torch":
        from qdr_bench.peers.torch_form import TorchForm

        return TorchForm(content, threads, options)
    device = options.get("device", "cpu")
    if backend == "onnxruntime" and device == "cuda":
        from qdr_bench.peers.ort_cuda import OrtCudaSession

        return OrtCudaSession(content, options)
    chosen = {name: value for name, value in options.items() if name not in TOLD}
    if backend == "openvino" and device != "cpu":
        from qdr_edge.runtime.openvino import open_on

        return open_on(device, content, chosen)
    return open_model(backend, content, threads=threads, options=chosen)
