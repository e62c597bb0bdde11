"""libqdr, the C library of export/firmware, through ctypes: found, loaded once, declared.

It is looked for in the file that QDR_LIBRARY names, then beside this file (where `make` in the
repository puts it), then where the system looks for libraries.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "QDR_LIBRARY"
INSTALL: Final = (
    "cmake -S export/firmware -B build/libqdr && cmake --build build/libqdr --target qdr"
)
ALIGNMENT: Final = 64
OK: Final = 0
# The same numbers as qdr_isa in qdr/plan.h.
ISAS: Final = {
    "best": 0,
    "plain": 1,
    "avx2": 2,
    "vnni": 3,
    "neon": 4,
    "avx-vnni": 5,
    "i8mm": 6,
}


class Plan(ctypes.Structure):
    """qdr_plan."""

    _fields_ = (
        ("content", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
        ("operations", ctypes.c_uint32),
        ("tensors", ctypes.c_uint32),
        ("activation_bytes", ctypes.c_uint32),
        ("scratch_bytes", ctypes.c_uint32),
        ("side", ctypes.c_uint32),
        ("classes", ctypes.c_uint32),
        ("narrow", ctypes.c_uint32),
    )


class TensorView(ctypes.Structure):
    """qdr_tensor_view."""

    _fields_ = (
        ("codes", ctypes.POINTER(ctypes.c_uint8)),
        ("tensor", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("channels", ctypes.c_uint32),
        ("stride", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
    )


See = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(TensorView))


class Observer(ctypes.Structure):
    """qdr_observer."""

    _fields_ = (("see", See), ("context", ctypes.c_void_p))


class RunOptions(ctypes.Structure):
    """qdr_run_options."""

    _fields_ = (
        ("parallel", ctypes.c_void_p),
        ("observer", ctypes.POINTER(Observer)),
        ("isa", ctypes.c_int),
    )


@cache
def library() -> Any:
    """The loaded library, its functions declared.

    Raises:
        OSError: It is not there, cannot be loaded, or is another version's.
    """
    path = _path()
    if path is None:
        raise OSError(f"libqdr is not there: neither {VARIABLE} nor the system names one")
    found = ctypes.CDLL(path)
    plan, size = ctypes.POINTER(Plan), ctypes.c_size_t
    try:
        for name, result, arguments in (
            ("qdr_version", ctypes.c_char_p, ()),
            ("qdr_status_text", ctypes.c_char_p, (ctypes.c_int,)),
            ("qdr_plan_open", ctypes.c_int, (plan, ctypes.c_void_p, size)),
            ("qdr_plan_arena_bytes", size, (plan, ctypes.c_uint32)),
            ("qdr_plan_best_isa", ctypes.c_int, (plan,)),
            ("qdr_isa_name", ctypes.c_char_p, (ctypes.c_int,)),
            (
                "qdr_plan_infer",
                ctypes.c_int,
                (
                    plan,
                    ctypes.c_void_p,
                    ctypes.c_void_p,
                    size,
                    ctypes.POINTER(RunOptions),
                    ctypes.c_void_p,
                ),
            ),
            ("qdr_pool_bytes", size, ()),
            ("qdr_pool_start", ctypes.c_int, (ctypes.c_void_p, ctypes.c_uint32)),
            ("qdr_pool_stop", None, (ctypes.c_void_p,)),
        ):
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise OSError(f"{path} is no libqdr of this release: {error}") from error
    return found


def version() -> str:
    """Its version.

    Raises:
        OSError: As `library`.
    """
    return str(library().qdr_version().decode())


def sentence(status: int) -> str:
    """What a status means."""
    return str(library().qdr_status_text(status).decode())


def _path() -> str | None:
    named = os.environ.get(VARIABLE)
    if named:
        return named
    beside = Path(__file__).with_name("lib") / "libqdr.so"
    return str(beside) if beside.is_file() else ctypes.util.find_library("qdr")
