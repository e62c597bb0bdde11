"""OpenVINO, from ONNX or from its own format (ir_check.py): on the CPU, or a device by name."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import BackendError
from qdr_edge.runtime import Availability, Session
from qdr_edge.runtime.ir_check import check_ir, is_ir, pack_ir, split_ir
from qdr_edge.runtime.onnx_check import MAX_TENSOR_ELEMENTS, check_onnx
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
    """Open checked bytes, ONNX or IR.

    Raises:
        BackendError: OpenVINO is missing or refuses the model.
    """
    return OpenVinoSession(model, threads, options)


def open_on(device: str, model: bytes, options: Mapping[str, str]) -> Session:
    """Open bytes on a device other than the CPU; they are checked first.

    Args:
        device: One of `devices`, e.g. "GPU" or "NPU".
        model: ONNX or IR.
        options: Of OpenVINO. What is not said is pinned: float16 where it is not int8, as these
            devices compute by default, and the hint to latency.

    Raises:
        BackendError: OpenVINO or the device is missing, or it refuses the model.
        BundleError: The model is not what a runtime may parse.
    """
    check = check_ir if is_ir(model) else check_onnx
    check(model, where=f"model for openvino on {device}")
    return OpenVinoSession(model, 1, options, device)


def devices() -> tuple[str, ...]:
    """What OpenVINO finds here, e.g. ("CPU", "GPU.0", "NPU"); none without OpenVINO."""
    if not availability().ok:
        return ()
    import openvino

    return tuple(openvino.Core().available_devices)


def onnx_to_ir(model: bytes) -> bytes:
    """OpenVINO's own form of a checked ONNX model, nothing compressed, as one entry.

    Raises:
        BackendError: OpenVINO is missing or refuses the model.
    """
    import re
    import tempfile
    from pathlib import Path

    here = _demand()
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "m.xml"), Path(folder, "m.bin")
        try:
            openvino.serialize(openvino.Core().read_model(model), str(xml), str(weights))
        except Exception as error:
            raise _refuses(here, error) from error
        # Names that OpenVINO counts up within a process would differ from export to export.
        named = re.sub(rb'(<layer id="(\d+)" name=)"[^"]*"', rb'\1"l\2"', xml.read_bytes())
        return pack_ir(named, weights.read_bytes())


class OpenVinoSession:
    """A model compiled by OpenVINO for a device."""

    backend = "openvino"

    def __init__(
        self, model: bytes, threads: int, options: Mapping[str, str], device: str = "CPU"
    ) -> None:
        here = _demand()
        import openvino

        settings = _cpu_settings(model, threads) if device == "CPU" else dict(_DEVICE_SETTINGS)
        settings |= options
        try:
            core = openvino.Core()
            self._model: Any = core.compile_model(_read(core, model), device, settings)
            self._request: Any = self._model.create_infer_request()
            # The request's own tensors: handing over an array and taking the answer as a dict costs
            # 0.15 ms an image, a fifteenth of a small student's time.
            self._input = self._request.get_input_tensor(0).data
            self._outputs = [
                self._request.get_output_tensor(n).data for n in range(len(self._model.outputs))
            ]
        except Exception as error:
            # OpenVINO raises RuntimeError for everything, imports included.
            raise _refuses(here, error) from error
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
                np.copyto(self._input, images[index : index + 1])
                # Not start_async and wait, which hand the work to another thread: 0.14 ms more.
                # Shared, since the binding would copy the answer, which is copied below.
                self._request.infer(share_outputs=True)
                for row, output in zip(rows, self._outputs, strict=False):
                    row.append(output.astype(np.float32))  # a copy: the tensor is used again
        return tuple(row[0] if len(row) == 1 else np.concatenate(row) for row in rows)

    def close(self) -> None:
        """See Session."""
        with self._lock:
            # The arrays lie in the request's memory.
            self._input, self._outputs = None, []
            self._request = None
            self._model = None


# A GPU's own default, written out; an NPU knows nothing else.
_DEVICE_SETTINGS = {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}


def _cpu_settings(model: bytes, threads: int) -> dict[str, str]:
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
    return settings


def _demand() -> Availability:
    here = availability()
    if not here.ok:
        raise BackendError(
            f"OpenVINO cannot be used: {here.reason}",
            expected="the openvino package",
            fix=f"run `{INSTALL}`",
        )
    return here


def _refuses(here: Availability, error: Exception) -> BackendError:
    return BackendError(
        f"OpenVINO {here.version} refuses the model: {error}",
        expected="a model of its operators and opset",
        fix="export again with the release of this bundle, or update openvino",
    )


def _read(core: Any, model: bytes) -> Any:
    """Parse a model; of IR, hold the shapes that OpenVINO infers to what one tensor may have.

    In the check of ONNX that is done beforehand, along every path.
    """
    import math

    if not is_ir(model):
        return core.read_model(model)
    xml, weights = split_ir(model)
    network = core.read_model(model=xml, weights=bytes(weights))
    for operation in network.get_ops():
        for output in operation.outputs():
            shape = output.get_partial_shape()
            if shape.is_dynamic or math.prod(shape.to_shape()) > MAX_TENSOR_ELEMENTS:
                raise ValueError(f"{operation.get_type_name()} makes a tensor of shape {shape}")
    return network
