"""Open whatever a cell is, in its own process."""

from __future__ import annotations

from collections.abc import Mapping

from qdr_edge.runtime import Session, open_model


def open_form(backend: str, content: bytes, *, threads: int, options: Mapping[str, str]) -> Session:
    """Open a cell's file.

    Args:
        backend: A runtime of qdr_edge, or "torch" for a float twin in torch.
        content: Its bytes; the child has checked their hash.
        threads: Threads of one inference.
        options: Of the runtime, or of the form.

    Raises:
        BackendError: It cannot be opened here.
        BundleError: It is not what the runtime may parse.
    """
    if backend == "torch":
        from qdr_bench.peers.torch_form import TorchForm

        return TorchForm(content, threads, options)
    return open_model(backend, content, threads=threads, options=options)
