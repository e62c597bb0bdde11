"""TensorRT 10.3 and later, on the GPU that the process sees first.

The bundle carries ONNX with Q/DQ; the engine is built here, on the device it is bound to, from the
verified bytes, and cached (engine_cache.py). TensorRT 10 builds a weakly typed network with INT8
and FP16 allowed; TensorRT 11 knows strongly typed networks only, and its enums have other numbers,
so everything is addressed by name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError
from qdr_edge.files import sha256_bytes
from qdr_edge.runtime import Availability, Session
from qdr_edge.runtime.engine_cache import EngineKey, load_engine, store_engine
from qdr_edge.runtime.pixels import check_images, closed
from qdr_edge.target import host, version_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.runtime.cuda import Cuda

SUPPORTED: Final = ">=10.3"
# Half of the memory that a 4 GB board has left once the system runs.
DEFAULT_WORKSPACE_MIB: Final = 512
WORKSPACE_OPTION: Final = "workspace_mib"


def availability() -> Availability:
    """Whether TensorRT can be imported and a GPU is there."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        return Availability(False, reason=str(error), install=_install())
    version = str(tensorrt.__version__)
    if not version_in(version, SUPPORTED):
        reason = f"version {version} is older than 10.3"
        return Availability(False, version, reason, _install())
    from qdr_edge.runtime.cuda import Cuda

    try:
        Cuda().device()
    except BackendError as error:
        return Availability(False, version, str(error))
    return Availability(True, version)


def open_onnx(model: bytes, threads: int, options: Mapping[str, str]) -> Session:
    """Build the engine of checked ONNX bytes, or take it from the cache, and open it.

    Args:
        model: ONNX with Q/DQ, one input: uint8, or float32 that takes the same 0..255.
        threads: not used; the GPU does the work.
        options: "workspace_mib" bounds the memory of building.

    Raises:
        BackendError: TensorRT or a GPU is missing, or TensorRT refuses the model.
    """
    here = availability()
    if not here.ok:
        raise BackendError(
            f"TensorRT cannot be used: {here.reason}",
            expected=f"tensorrt {SUPPORTED} and an NVIDIA GPU",
            fix=f"run `{here.install}`" if here.install else "see `qdr-edge doctor`",
        )
    from qdr_edge.runtime.cuda import Cuda

    workspace = options.get(WORKSPACE_OPTION, str(DEFAULT_WORKSPACE_MIB))
    if set(options) - {WORKSPACE_OPTION} or not workspace.isdigit() or int(workspace) < 1:
        raise BackendError(
            f"options {dict(options)}",
            expected=f"at most {WORKSPACE_OPTION}, a whole number of MiB",
            fix="export the bundle again with this release",
        )
    cuda = Cuda()
    flags = f"int8 fp16 workspace={workspace}MiB"
    key = EngineKey(sha256_bytes(model), cuda.device(), here.version, flags)
    engine = load_engine(key)
    if engine is None:
        engine = build_engine(model, int(workspace))
        store_engine(key, engine)
    return TensorRtSession(engine, cuda, here.version)


def build_engine(model: bytes, workspace_mib: int) -> bytes:
    """Build a serialized engine for the current GPU; takes seconds to minutes.

    Raises:
        BackendError: the parser or the builder refuses; their first message is given.
    """
    import tensorrt

    logger = _make_logger()
    builder = tensorrt.Builder(logger)
    creation = tensorrt.NetworkDefinitionCreationFlag
    weakly_typed = hasattr(tensorrt.BuilderFlag, "INT8")
    flags = 0 if weakly_typed else 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model):
        messages = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise _refused(messages or logger.messages)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    # TF32 keeps 10 bits of mantissa: float layers would differ from the other backends'.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    if weakly_typed:
        config.set_flag(tensorrt.BuilderFlag.INT8)
        config.set_flag(tensorrt.BuilderFlag.FP16)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise _refused(logger.messages)
    return bytes(serialized)


class TensorRtSession:
    """A deserialized engine with its device buffers."""

    backend = "tensorrt"

    def __init__(self, engine: bytes, cuda: Cuda, version: str) -> None:
        import numpy as np
        import tensorrt

        self._logger = _make_logger()
        self._runtime: Any = tensorrt.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise _refused(self._logger.messages)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._is_input(name)]
        outputs = [name for name in names if not self._is_input(name)]
        if len(inputs) != 1 or len(outputs) != 1:
            raise _refused([f"{len(inputs)} inputs and {len(outputs)} outputs instead of 1 and 1"])
        input_types: dict[Any, np.dtype[Any]] = {
            tensorrt.DataType.UINT8: np.dtype(np.uint8),
            tensorrt.DataType.FLOAT: np.dtype(np.float32),
        }
        input_type = input_types.get(self._engine.get_tensor_dtype(inputs[0]))
        if input_type is None or (
            self._engine.get_tensor_dtype(outputs[0]) != tensorrt.DataType.FLOAT
        ):
            raise _refused(["its input is neither uint8 nor float32, or its output not float32"])
        image = tuple(self._engine.get_tensor_shape(inputs[0]))
        if image[0] != 1 or min(image) < 1:
            raise _refused([f"input shape {list(image)} is not static with batch 1"])
        self._size = int(image[-1])
        self._pixels = np.empty(image, dtype=input_type)
        self._logits = np.empty(tuple(self._engine.get_tensor_shape(outputs[0])), dtype=np.float32)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise _refused(self._logger.messages)
        self._lock = threading.Lock()
        self._cuda = cuda
        self._buffers: list[int] = []
        self._stream = cuda.create_stream()
        for name, array in ((inputs[0], self._pixels), (outputs[0], self._logits)):
            self._buffers.append(cuda.allocate(array.nbytes))
            self._context.set_tensor_address(name, self._buffers[-1])
        self.version = version
        self.threads = 1

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session."""
        import numpy as np

        check_images(images, self._size)
        rows = []
        for index in range(len(images)):
            with self._lock:
                if self._context is None:
                    raise closed()
                np.copyto(self._pixels, images[index : index + 1], casting="safe")
                self._cuda.copy_to_device(self._buffers[0], self._pixels, self._stream)
                if not self._context.execute_async_v3(self._stream):
                    raise _refused(self._logger.messages)
                self._cuda.copy_to_host(self._logits, self._buffers[1], self._stream)
                self._cuda.synchronize(self._stream)
                rows.append(self._logits.copy())
        return np.concatenate(rows)

    def close(self) -> None:
        """See Session."""
        with self._lock:
            if self._context is None:
                return
            self._context = self._engine = self._runtime = None
            for buffer in self._buffers:
                self._cuda.free(buffer)
            self._cuda.destroy_stream(self._stream)

    def _is_input(self, name: str) -> bool:
        import tensorrt

        return bool(self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT)


def _make_logger() -> Any:
    """A logger that keeps errors for our own message instead of printing them."""
    import tensorrt

    class Collector(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (self.Severity.INTERNAL_ERROR, self.Severity.ERROR):
                self.messages.append(message)

    return Collector()


def _refused(messages: list[str]) -> BackendError:
    return BackendError(
        f"TensorRT refuses the model: {messages[0] if messages else 'no reason given'}",
        expected="a Q/DQ network within TensorRT's rules, built on this GPU and version",
        fix="check it with `qdr-edge lint`; delete the engine cache if TensorRT was updated",
    )


def _install() -> str:
    jetson = host().jetson
    if jetson:
        # On Jetson TensorRT comes with JetPack; PyPI's wheels are for discrete GPUs.
        return "sudo apt-get install tensorrt python3-libnvinfer"
    return "pip install 'qdr-edge[tensorrt]'"
