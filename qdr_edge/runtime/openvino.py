"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import BackendError
from qdr_edge.runtime import Availability, Session
from qdr_edge.runtime.pixels import check_images, closed, no_maps
from qdr_edge.runtime.saturation import saturates_here

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INSTALL = "pip install 'qdr-edge[openvino]'"


def availability() -> Availability:
    """Whether OpenVINO can be imported, and its version."""
    try:
        import openvino
    except (ImportError, OSError) as error:
        return Availability(False, reason=str(error), install=INSTALL)
    # 2026.4.1-22982-e213a147257-releases/2026/4: the first part is the release.
    return Availability(True, str(openvino.__version__).split("-")[0])


def open_onnx(model: bytes, threads: int, options: Mapping[str, str]) -> Session:
    """Open checked ONNX bytes.

    Raises:
        BackendError: OpenVINO is missing or refuses the model.
    """
    return OpenVinoSession(model, threads, options)


class OpenVinoSession:
    """A model compiled by OpenVINO for the CPU."""

    backend = "openvino"

    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None:
        here = availability()
        if not here.ok:
            raise BackendError(
                f"OpenVINO cannot be used: {here.reason}",
                expected="the openvino package",
                fix=f"run `{INSTALL}`",
            )
        import openvino

        settings = {
            # bf16, the default where the CPU has it, moves logits by up to 0.5.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(threads),
        }
        if saturates_here(model):
            # OpenVINO has no exact int8 kernels for such a CPU: it then computes the graph as it
            # is written, in float with every rounding. Slower, and right.
            settings["LP_TRANSFORMS_MODE"] = "NO"
        settings |= options
        try:
            core = openvino.Core()
            self._model: Any = core.compile_model(core.read_model(model), "CPU", settings)
            self._request: Any = self._model.create_infer_request()
        except Exception as error:
            # OpenVINO raises RuntimeError for everything, imports included.
            raise BackendError(
                f"OpenVINO {here.version} refuses the model: {error}",
                expected="a model of its operators and opset",
                fix="export again with the release of this bundle, or update openvino",
            ) from error
        self.has_maps = len(self._model.outputs) > 1
        self._size = int(self._model.input(0).shape[-1])
        self._lock = threading.Lock()
        self.version = here.version
        self.threads = threads

    @property
    def compiled(self) -> Any:
        """The compiled model, whose execution graph tells what runs in int8."""
        return self._model

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session."""
        return self._run(images, 1)[0]

    def infer_maps(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """See MapSession."""
        if not self.has_maps:
            raise no_maps()
        return self._run(images, 2)

    def _run(self, images: NDArray[np.uint8], outputs: int) -> tuple[NDArray[np.float32], ...]:
        import numpy as np

        check_images(images, self._size)
        rows: list[list[NDArray[np.float32]]] = [[] for _ in range(outputs)]
        for index in range(len(images)):
            # One request has one set of buffers: a second thread must wait.
            with self._lock:
                if self._request is None:
                    raise closed()
                found = self._request.infer({0: np.ascontiguousarray(images[index : index + 1])})
                for position, row in enumerate(rows):
                    row.append(np.array(found[position], dtype=np.float32))
        return tuple(np.concatenate(row) for row in rows)

    def close(self) -> None:
        """See Session."""
        with self._lock:
            self._request = None
            self._model = None
