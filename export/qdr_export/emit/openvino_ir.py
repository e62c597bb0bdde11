"""OpenVINO's own format: the OpenVINO form, converted on the workstation instead of on the device.

A device then needs no ONNX frontend. Nothing is compressed: float constants stay float32, or logits
would differ.
"""

from __future__ import annotations

from qdr_edge.runtime.openvino import onnx_to_ir
from qdr_export.emit import openvino


def emit(canonical: bytes) -> bytes:
    """The OpenVINO IR of a canonical model, XML and weights in one entry (ir_check.py)."""
    return onnx_to_ir(openvino.emit(canonical))
