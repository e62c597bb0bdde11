"""TensorRT 10.3 to 11, on the GPU that the process sees first.

The bundle carries ONNX with Q/DQ; the engine is built here, on the device it is bound to, from the
verified bytes (tensorrt_build.py), and cached (engine_cache.py).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError
from qdr_edge.files import sha256_bytes
from qdr_edge.runtime import Availability, Session
from qdr_edge.runtime.engine_cache import EngineKey, load_engine, store_engine
from qdr_edge.runtime.pixels import check_images, closed
from qdr_edge.runtime.tensorrt_build import FLAGS, build_engine, free_memory, plan_build
from qdr_edge.runtime.tensorrt_messages import Log, logger, refused
from qdr_edge.target import host, version_in

if TYPE_CHECKING:
    import numpy as np
    import tensorrt
    from numpy.typing import NDArray

    from qdr_edge.runtime.cuda import Cuda

SUPPORTED: Final = ">=10.3,<12"
# Turing, the first with int8 tensor cores, and the oldest that TensorRT 11 knows.
MINIMUM_CAPABILITY: Final = (7, 5)
# How an inference is launched and waited for, where nothing else is asked for. CUDA's own way of
# waiting depends on the machine; a spinning thread burns the core that preprocessing needs.
LAUNCH: Final[Mapping[str, str]] = {"cuda_graph": "0", "spin_wait": "0"}
OPTIONS: Final = ("workspace_mib", "optimization_level", *LAUNCH)
# In place of a model's hash: how fast kernels are depends on the device and the version only.
_TIMING: Final = "timing cache"


@dataclass(frozen=True)
class PreparedEngine:
    """An engine for this device.

    Args:
        engine: What TensorRT deserializes.
        cached: It was there already.
        kept: It is in the cache.
    """

    engine: bytes
    cached: bool
    kept: bool = True


def availability() -> Availability:
    """Whether TensorRT can be imported and a GPU is there."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        reason = "it is not installed" if missing else f"its libraries cannot be loaded: {error}"
        return Availability(False, reason=reason, install=_install())
    version = str(tensorrt.__version__)
    if not version_in(version, SUPPORTED):
        reason = f"version {version} is not one of {SUPPORTED}"
        return Availability(False, version, reason, _install())
    from qdr_edge.runtime.cuda import Cuda

    try:
        device = Cuda().device()
    except BackendError as error:
        return Availability(False, version, str(error))
    if device.capability < MINIMUM_CAPABILITY:
        older = "{}.{}".format(*device.capability)
        reason = f"{device.name} has compute capability {older}; int8 needs 7.5 or newer"
        return Availability(False, version, reason)
    return Availability(True, version)


def open_onnx(model: bytes, threads: int, options: Mapping[str, str]) -> Session:
    """Build the engine of checked ONNX bytes, or take it from the cache, and open it.

    Args:
        model: ONNX with Q/DQ, one input: uint8, or float32 that takes the same 0..255.
        threads: not used; the GPU does the work.
        options: "workspace_mib" and "optimization_level" bound the build; "cuda_graph" of "1"
            launches an inference as one recorded graph; "spin_wait" of "1" waits for it awake.

    Raises:
        BackendError: TensorRT or a GPU is missing, or TensorRT refuses the model.
    """
    prepared = prepare_engine(model, options)
    cuda, version = _ready()
    launch = {**LAUNCH, **options}
    cuda.wait_by(spinning=launch["spin_wait"] == "1")
    recorded = launch["cuda_graph"] == "1"
    try:
        return TensorRtSession(prepared.engine, cuda, version, recorded=recorded)
    except BackendError:
        if not prepared.cached:
            raise
    # Authentic and yet refused: driver or libraries changed in a way that the key does not show.
    prepared = prepare_engine(model, options, rebuild=True)
    return TensorRtSession(prepared.engine, cuda, version, recorded=recorded)


def prepare_engine(
    model: bytes,
    options: Mapping[str, str],
    *,
    rebuild: bool = False,
    progress: Callable[[str], None] | None = None,
) -> PreparedEngine:
    """The engine of checked ONNX bytes for this device, from the cache or built and cached.

    Args:
        model: See open_onnx.
        options: See open_onnx. They bound the build and are not part of the cache's key: an engine
            that was built within other bounds is as valid.
        rebuild: Build it in any case.
        progress: Told the name of each phase of a build.

    Raises:
        BackendError: See open_onnx.
    """
    cuda, version = _ready()
    unknown = set(options) - set(OPTIONS)
    if unknown or not {options.get(name, "0") for name in LAUNCH} <= {"0", "1"}:
        raise BackendError(
            f"options {dict(options)}",
            expected=f"at most {', '.join(OPTIONS)}, the last two 0 or 1",
            fix="export the bundle again with this release",
        )
    device = str(cuda.device())
    key = EngineKey(sha256_bytes(model), device, version, FLAGS)
    cached = None if rebuild else load_engine(key)
    if cached is not None:
        return PreparedEngine(cached, cached=True)
    plan = plan_build(free_memory(cuda), options)
    timing_key = EngineKey(_TIMING, device, version, FLAGS)
    engine = build_engine(model, plan, timing_key, progress)
    return PreparedEngine(engine, cached=False, kept=store_engine(key, engine))


def describe_layers(model: bytes, options: Mapping[str, str]) -> str:
    """What TensorRT made of a model: its own JSON, a record a layer; see prepare_engine.

    Raises:
        BackendError: See open_onnx.
    """
    import tensorrt

    engine = prepare_engine(model, options).engine
    log = Log()
    # The runtime must outlive its engine.
    runtime = _runtime(log)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise refused(log.messages, "load the engine")
    inspector = loaded.create_engine_inspector()
    return str(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


class TensorRtSession:
    """A deserialized engine with its stream and buffers, page-locked on the host's side."""

    backend = "tensorrt"

    def __init__(self, engine: bytes, cuda: Cuda, version: str, *, recorded: bool = False) -> None:
        self.version = version
        self.threads = 1
        self._lock = threading.Lock()
        self._cuda = cuda
        self._log = Log()
        # Undone in reverse order by close, and here if opening fails half way.
        self._resources = ExitStack()
        self._runtime: tensorrt.Runtime | None = None
        self._engine: tensorrt.ICudaEngine | None = None
        self._context: tensorrt.IExecutionContext | None = None
        self._stream = self._graph = 0
        try:
            self._open(engine)
            if recorded:
                self._record()
        except BaseException:
            self.close()
            raise

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
                if self._graph:
                    self._cuda.launch(self._graph, self._stream)
                else:
                    self._enqueue()
                self._cuda.synchronize(self._stream)
                rows.append(self._logits.copy())
        return np.concatenate(rows)

    def infer_stages(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], Mapping[str, int]]:
        """See DeviceSession. Queued step by step also where `infer` launches a recorded graph."""
        import numpy as np

        check_images(images, self._size)
        marks = []
        with self._lock:
            if self._context is None:
                raise closed()
            marks.append(time.perf_counter_ns())
            np.copyto(self._pixels, images, casting="safe")
            for step in self._steps():
                step()
                self._cuda.synchronize(self._stream)
                marks.append(time.perf_counter_ns())
            logits = self._logits.copy()
        spans = (after - before for before, after in itertools.pairwise(marks))
        return logits, dict(zip(("h2d", "infer", "d2h"), spans, strict=True))

    def close(self) -> None:
        """See Session."""
        with self._lock:
            # A context must go before its engine, an engine before its runtime.
            self._context = self._engine = self._runtime = None
            self._resources.close()

    def _open(self, engine: bytes) -> None:
        import numpy as np
        import tensorrt

        self._runtime = _runtime(self._log)
        self._engine = loaded = self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise refused(self._log.messages, "load the engine")
        image, logits = _input_and_output(loaded)
        shape = _shape(loaded, image)
        if shape[0] != 1 or min(shape) < 1:
            raise refused([f"input shape {list(shape)} is not static with batch 1"], "run it")
        self._size = shape[-1]
        types: dict[Any, np.dtype[Any]] = {
            tensorrt.DataType.UINT8: np.dtype(np.uint8),
            tensorrt.DataType.FLOAT: np.dtype(np.float32),
        }
        pixels = types.get(loaded.get_tensor_dtype(image))
        if pixels is None or loaded.get_tensor_dtype(logits) != tensorrt.DataType.FLOAT:
            what = "its input is neither uint8 nor float32, or its output not float32"
            raise refused([what], "run it")
        self._context = loaded.create_execution_context()
        if self._context is None:
            raise refused(self._log.messages, "make room for an inference")
        self._stream = self._cuda.create_stream()
        self._resources.callback(self._cuda.destroy_stream, self._stream)
        rows = _shape(loaded, logits)
        self._pixels, self._input = self._buffers(image, shape, pixels)
        self._logits, self._output = self._buffers(logits, rows, np.dtype(np.float32))

    def _buffers(
        self, tensor: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[NDArray[Any], int]:
        """A tensor's memory: a page-locked array here, and its address on the device."""
        array = self._cuda.allocate_host(shape, dtype)
        self._resources.callback(self._cuda.free_host, array)
        address = self._cuda.allocate(array.nbytes)
        self._resources.callback(self._cuda.free, address)
        assert self._context is not None
        if not self._context.set_tensor_address(tensor, address):
            raise refused(self._log.messages, f"take an address for {tensor}")
        return array, address

    def _enqueue(self) -> None:
        for step in self._steps():
            step()

    def _steps(self) -> tuple[Callable[[], None], ...]:
        """What an inference queues: the copy to the device, the network, the copy back."""
        cuda, stream = self._cuda, self._stream
        return (
            lambda: cuda.copy_to_device(self._input, self._pixels, stream),
            self._execute,
            lambda: cuda.copy_to_host(self._logits, self._output, stream),
        )

    def _execute(self) -> None:
        assert self._context is not None
        if not self._context.execute_async_v3(self._stream):
            raise refused(self._log.messages, "run an inference")

    def _record(self) -> None:
        # The first inference sets up what may not be recorded.
        self._enqueue()
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        self._enqueue()
        self._graph = self._cuda.end_capture(self._stream)
        self._resources.callback(self._cuda.destroy_graph, self._graph)


def _ready() -> tuple[Cuda, str]:
    """CUDA and TensorRT's version.

    Raises:
        BackendError: TensorRT or a GPU is missing.
    """
    here = availability()
    if not here.ok:
        raise BackendError(
            f"TensorRT cannot be used: {here.reason}",
            expected=f"tensorrt {SUPPORTED} and an NVIDIA GPU",
            fix=f"run `{here.install}`" if here.install else "see `qdr-edge doctor`",
        )
    from qdr_edge.runtime.cuda import Cuda

    return Cuda(), here.version


def _runtime(log: Log) -> tensorrt.Runtime:
    import tensorrt

    # The binding turns a null pointer of the library into a TypeError.
    try:
        return tensorrt.Runtime(logger())
    except TypeError as error:
        raise refused(log.messages, "start its runtime") from error


def _input_and_output(loaded: tensorrt.ICudaEngine) -> tuple[str, str]:
    """Names of an engine's one input and one output."""
    import tensorrt

    names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
    inputs = [n for n in names if loaded.get_tensor_mode(n) == tensorrt.TensorIOMode.INPUT]
    outputs = [n for n in names if n not in inputs]
    if len(inputs) != 1 or len(outputs) != 1:
        what = f"it has {len(inputs)} inputs and {len(outputs)} outputs instead of 1 and 1"
        raise refused([what], "run it")
    return inputs[0], outputs[0]


def _shape(loaded: tensorrt.ICudaEngine, tensor: str) -> tuple[int, ...]:
    dims = loaded.get_tensor_shape(tensor)
    return tuple(int(dims[axis]) for axis in range(len(dims)))


def _install() -> str:
    if host().jetson:
        # On Jetson TensorRT comes with JetPack; PyPI's wheels are for discrete GPUs.
        return "sudo apt-get install tensorrt python3-libnvinfer"
    return "pip install 'qdr-edge[tensorrt]'"
