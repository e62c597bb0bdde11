"""The CUDA runtime calls that TensorRT needs, through ctypes: nothing more to install."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_HOST_TO_DEVICE: Final = 1
_DEVICE_TO_HOST: Final = 2
# cudaDeviceAttr
_MULTIPROCESSORS: Final = 16
_MAJOR: Final = 75
_MINOR: Final = 76


class Cuda:
    """libcudart, loaded. Every call that fails raises BackendError.

    Raises:
        BackendError: the library or a device is missing.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def device(self) -> str:
        """What an engine is bound to: compute capability, multiprocessors, driver, runtime."""
        values = []
        for attribute in (_MAJOR, _MINOR, _MULTIPROCESSORS):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            values.append(value.value)
        driver, runtime = ctypes.c_int(), ctypes.c_int()
        self._call("cudaDriverGetVersion", ctypes.byref(driver))
        self._call("cudaRuntimeGetVersion", ctypes.byref(runtime))
        major, minor, processors = values
        return f"sm_{major}{minor} x{processors} driver {driver.value} runtime {runtime.value}"

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

    def copy_to_device(self, address: int, array: NDArray[np.generic], stream: int) -> None:
        """Queue a copy of a C-contiguous array into device memory."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE, stream)

    def copy_to_host(self, array: NDArray[np.generic], address: int, stream: int) -> None:
        """Queue a copy of device memory into a C-contiguous array."""
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST, stream)

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
    names = [*_LIBRARIES, ctypes.util.find_library("cudart") or ""]
    for name in filter(None, names):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise BackendError(
        "CUDA's runtime library is not installed",
        expected=f"one of {', '.join(_LIBRARIES)} on the library path",
        fix="install JetPack or the CUDA toolkit, or run `pip install nvidia-cuda-runtime-cu12` "
        "and add its lib folder to LD_LIBRARY_PATH",
    )
