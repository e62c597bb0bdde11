"""The native backend: a plan in libqdr, with integer kernels of our own and no other runtime."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError, BundleError
from qdr_edge.runtime import Availability, Session, libqdr
from qdr_edge.runtime.pixels import check_images, closed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC: Final = b"QDRPLAN1"
# Called with a tensor's number and its codes, [C, H, W].
Watch = Callable[[int, "NDArray[np.int16]"], None]


def is_plan(model: bytes) -> bool:
    """Whether bytes claim to be a plan."""
    return model[: len(MAGIC)] == MAGIC


def availability() -> Availability:
    """Whether libqdr can be loaded, and its version."""
    try:
        return Availability(True, libqdr.version())
    except OSError as error:
        return Availability(False, reason=str(error), install=libqdr.INSTALL)


def open_onnx(model: bytes, threads: int, options: Mapping[str, str]) -> Session:
    """Open a plan; libqdr checks every offset and shape in it.

    Raises:
        BackendError: libqdr is missing, or has not the instruction set that was asked for.
        BundleError: The plan is damaged or of another version.
    """
    return NativeSession(model, threads, options)


class NativeSession:
    """A plan in libqdr. One arena: a second thread that infers must wait.

    Args:
        model: The plan's bytes.
        threads: That one inference is divided among.
        options: {"isa": "plain"}: another instruction set than the best.
    """

    backend = "native"
    has_maps = False

    def __init__(self, model: bytes, threads: int, options: Mapping[str, str]) -> None:
        import numpy as np

        here = availability()
        if not here.ok:
            raise BackendError(
                f"the native backend cannot be used: {here.reason}",
                expected="libqdr",
                fix=f"run `{libqdr.INSTALL}`, or name the library in {libqdr.VARIABLE}",
            )
        isa = options.get("isa", "best")
        if isa not in libqdr.ISAS or set(options) - {"isa"}:
            raise BackendError(
                f"options {dict(options)}",
                expected=f"isa: one of {', '.join(libqdr.ISAS)}",
                fix="correct it",
            )
        self._library = libqdr.library()
        self._model, self._plan = model, libqdr.Plan()
        status = self._library.qdr_plan_open(ctypes.byref(self._plan), model, len(model))
        if status != libqdr.OK:
            raise BundleError(
                f"libqdr {here.version} refuses the plan: {libqdr.sentence(status)}",
                expected="a plan of `qdr-edge export --target native` of this release",
                fix="export again",
            )
        # Beyond its number of threads the library divides nothing.
        self.threads = max(1, min(threads, 16))
        self.version = here.version
        best = libqdr.ISAS[isa] or self._library.qdr_plan_best_isa(ctypes.byref(self._plan))
        self.isa = str(self._library.qdr_isa_name(best).decode())
        size = self._library.qdr_plan_arena_bytes(ctypes.byref(self._plan), self.threads)
        self._arena_memory = np.empty(size + libqdr.ALIGNMENT, np.uint8)
        self._arena = -(-self._arena_memory.ctypes.data // libqdr.ALIGNMENT) * libqdr.ALIGNMENT
        self._arena_bytes = size
        self._options = libqdr.RunOptions(None, None, best)
        self._lock = threading.Lock()
        self._pool: Any = None
        if self.threads > 1:
            self._start_pool()

    def _start_pool(self) -> None:
        self._pool = ctypes.create_string_buffer(self._library.qdr_pool_bytes())
        status = self._library.qdr_pool_start(self._pool, self.threads)
        if status != libqdr.OK:
            raise BackendError(
                f"{self.threads} threads: {libqdr.sentence(status)}",
                expected="a system that starts them",
                fix="ask for fewer threads",
            )
        self._options.parallel = ctypes.addressof(self._pool)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session."""
        import numpy as np

        check_images(images, int(self._plan.side))
        logits = np.empty((len(images), int(self._plan.classes)), np.float32)
        with self._lock:
            for row, image in zip(logits, np.ascontiguousarray(images), strict=True):
                self._run(image, row, self._options)
        return logits

    def watch(self, image: NDArray[np.uint8], see: Watch) -> NDArray[np.float32]:
        """The logits of one image [3, S, S]; `see` is given each tensor's number and its codes,
        int16 [C, H, W], in the order in which they are made. For proofs."""
        import numpy as np

        def seen(_: object, made: Any) -> None:
            view = made.contents
            shape = (view.height, view.width, view.stride)
            codes = np.ctypeslib.as_array(view.codes, shape)[:, :, : view.channels]
            see(view.tensor, codes.transpose(2, 0, 1).astype(np.int16) - np.int16(view.zero))

        observer = libqdr.Observer(libqdr.See(seen), None)
        options = libqdr.RunOptions(
            self._options.parallel, ctypes.pointer(observer), self._options.isa
        )
        logits = np.empty(int(self._plan.classes), np.float32)
        with self._lock:
            self._run(np.ascontiguousarray(image), logits, options)
        return logits

    def _run(self, image: NDArray[np.uint8], logits: NDArray[np.float32], how: Any) -> None:
        if self._arena == 0:
            raise closed()
        status = self._library.qdr_plan_infer(
            ctypes.byref(self._plan),
            image.ctypes.data,
            self._arena,
            self._arena_bytes,
            ctypes.byref(how),
            logits.ctypes.data,
        )
        if status != libqdr.OK:
            raise BackendError(
                f"libqdr {self.version}, {self.isa}: {libqdr.sentence(status)}",
                expected="an instruction set that this processor has and the plan allows",
                fix='leave "isa" to the library',
            )

    def close(self) -> None:
        """See Session."""
        with self._lock:
            if self._pool is not None:
                self._library.qdr_pool_stop(self._pool)
                self._pool = None
            self._arena = 0
