"""The CUDA runtime calls that TensorRT needs, through ctypes: nothing more to install."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_HOST_TO_DEVICE: Final = 1
_DEVICE_TO_HOST: Final = 2
# cudaDeviceScheduleSpin and cudaDeviceScheduleBlockingSync
_SPIN: Final = 1
_BLOCK: Final = 4
# cudaDeviceAttr
_MULTIPROCESSORS: Final = 16
_INTEGRATED: Final = 18
_MAJOR: Final = 75
_MINOR: Final = 76
# cudaStreamCaptureModeThreadLocal: what other threads do with the GPU is not our graph's business.
_CAPTURE_THREAD_LOCAL: Final = 1
# cudaDeviceProp begins with the name in every version; the rest changes, and never was this long.
_NAME_BYTES: Final = 256
_PROPERTIES_BYTES: Final = 16384
# CUDA 12 keeps CUDA 11's layout under the plain name and its own under the other one.
_PROPERTIES: Final = ("cudaGetDeviceProperties_v2", "cudaGetDeviceProperties")


@dataclass(frozen=True)
class Device:
    """The GPU an engine is bound to.

    Args:
        name: As NVIDIA calls it.
        capability: Compute capability, e.g. (8, 7).
        processors: Multiprocessors.
        driver: Newest CUDA version of the driver, as 1000 · major + 10 · minor.
        runtime: CUDA version of the runtime library, likewise.
        integrated: Whether it shares the system's memory.
    """

    name: str
    capability: tuple[int, int]
    processors: int
    driver: int
    runtime: int
    integrated: bool

    def __str__(self) -> str:
        major, minor = self.capability
        return (
            f"{self.name} sm_{major}{minor} x{self.processors} "
            f"driver {self.driver} runtime {self.runtime}"
        )


class Cuda:
    """libcudart, loaded. Every call that fails raises BackendError.

    Raises:
        BackendError: the library or a device is missing.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def device(self) -> Device:
        """The first GPU."""
        driver, runtime = ctypes.c_int(), ctypes.c_int()
        self._call("cudaDriverGetVersion", ctypes.byref(driver))
        self._call("cudaRuntimeGetVersion", ctypes.byref(runtime))
        major, minor, processors, integrated = (
            self._attribute(number) for number in (_MAJOR, _MINOR, _MULTIPROCESSORS, _INTEGRATED)
        )
        return Device(
            self._name(),
            (major, minor),
            processors,
            driver.value,
            runtime.value,
            bool(integrated),
        )

    def free_memory(self) -> int:
        """Bytes of device memory that are free."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Allocate device memory and return its address."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        if pointer.value is None:
            raise BackendError(f"CUDA gave no memory for {size} bytes")
        return pointer.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def allocate_host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in page-locked memory, from which the GPU copies without a detour."""
        import numpy as np

        size = int(np.prod(shape)) * dtype.itemsize
        pointer = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
        if pointer.value is None:
            raise BackendError(f"CUDA gave no page-locked memory for {size} bytes")
        memory = (ctypes.c_uint8 * size).from_address(pointer.value)
        return np.asarray(memory).view(dtype).reshape(tuple(shape))

    def free_host(self, array: NDArray[Any]) -> None:
        """Give page-locked memory back; the array must not be touched afterwards."""
        self._call("cudaFreeHost", ctypes.c_void_p(array.ctypes.data))

    def wait_by(self, *, spinning: bool) -> None:
        """Say how this process waits for the GPU: asking again and again, or asleep."""
        self._call("cudaSetDeviceFlags", ctypes.c_uint(_SPIN if spinning else _BLOCK))

    def create_stream(self) -> int:
        """Make a stream and return its handle."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until everything in the stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """From here on, what is queued in the stream is recorded instead of done."""
        mode = ctypes.c_int(_CAPTURE_THREAD_LOCAL)
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), mode)

    def end_capture(self, stream: int) -> int:
        """End recording; returns what was recorded as a handle for `launch`."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            self._call(
                "cudaGraphInstantiateWithFlags",
                ctypes.byref(executable),
                graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            self._call("cudaGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Queue everything that was recorded."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Free what was recorded."""
        self._call("cudaGraphExecDestroy", ctypes.c_void_p(graph))

    def copy_to_device(self, address: int, array: NDArray[np.generic], stream: int) -> None:
        """Queue a copy of a C-contiguous array into device memory."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE, stream)

    def copy_to_host(self, array: NDArray[np.generic], address: int, stream: int) -> None:
        """Queue a copy of device memory into a C-contiguous array."""
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST, stream)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), number, 0)
        return value.value

    def _name(self) -> str:
        function = next(name for name in _PROPERTIES if hasattr(self._library, name))
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call(function, properties, 0)
        return properties.raw[:_NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")

    def _copy(self, to: int, origin: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(origin),
            ctypes.c_size_t(size),
            kind,
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            text = self._library.cudaGetErrorString(status).decode("ascii", "replace")
            raise BackendError(
                f"{name} failed: {text} ({status})",
                expected="a working NVIDIA GPU and driver",
                fix="see `qdr-edge doctor` and `nvidia-smi`",
            )


def _load() -> ctypes.CDLL:
    """The newest CUDA runtime here that the driver can serve; the newest one if it serves none."""
    found = []
    for name in filter(None, [*_LIBRARIES, ctypes.util.find_library("cudart")]):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        driver, runtime = ctypes.c_int(), ctypes.c_int()
        library.cudaDriverGetVersion(ctypes.byref(driver))
        library.cudaRuntimeGetVersion(ctypes.byref(runtime))
        if driver.value // 1000 >= runtime.value // 1000:
            return library
        found.append(library)
    if found:
        return found[0]
    raise BackendError(
        "CUDA's runtime library is not installed",
        expected=f"one of {', '.join(_LIBRARIES)} on the library path",
        fix="install JetPack or the CUDA toolkit, or run `pip install nvidia-cuda-runtime-cu12` "
        "and add its lib folder to LD_LIBRARY_PATH",
    )
