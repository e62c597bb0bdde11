"""Emitters: canonical graph → the form one target runs fast, computing the same integers."""

from __future__ import annotations

from collections.abc import Callable

from qdr_edge.errors import ExportError


def emitter(name: str) -> Callable[[bytes], bytes]:
    """The emitter of a form, by the name that target profiles use, e.g. "onnxruntime-x86".

    Raises:
        ExportError: There is none of that name.
    """
    # Imported here: reading a target profile must not load ONNX.
    from qdr_export.emit import (
        native,
        onnxruntime,
        openvino,
        openvino_ir,
        ort_arm64,
        tensorrt,
        tensorrt11,
    )

    emitters = {
        "native": native.emit,
        "onnxruntime-x86": onnxruntime.emit,
        "onnxruntime-arm64": ort_arm64.emit,
        "openvino": openvino.emit,
        "openvino-ir": openvino_ir.emit,
        "tensorrt-10": tensorrt.emit,
        "tensorrt-11": tensorrt11.emit,
    }
    if name not in emitters:
        raise ExportError(
            f"no emitter {name!r}", expected=f"one of {', '.join(emitters)}", where="target profile"
        )
    return emitters[name]
