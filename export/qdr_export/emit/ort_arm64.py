"""ONNX Runtime on Arm: int8 stays int8, whose products the dot-product instructions do natively.

ONNX Runtime turns int8 into uint8 on x86 only, so nothing has to be rewritten for that. What has to
is a Relu or ReLU6 between a convolution and its quantization, which would keep the convolution in
float: it becomes Clip(code, 0, 127) behind the quantization, which is the same because quantization
is monotone and 0 has the code 0. The pixels become int8 codes too: a kernel reads and writes codes
of one type. Float layers and the weights of a Gemm are as on x86 (onnxruntime.py).
"""

from __future__ import annotations

from qdr_export.emit.onnxruntime import emit_codes


def emit(canonical: bytes) -> bytes:
    """The ONNX Runtime Arm form of a canonical model."""
    return emit_codes(canonical, "ort-arm64", signed=True)
