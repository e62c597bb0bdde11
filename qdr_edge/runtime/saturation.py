"""Whether int8 kernels of this CPU can give wrong sums for a model's weights.

x86 without VNNI multiplies unsigned activations by signed weights in pairs and adds each pair in 16
bits: 2·255·64 still fits, 2·255·127 does not and saturates without a word. What a runtime can do
about it differs; each asks here.
"""

from __future__ import annotations

import os
from typing import Final

from qdr_edge.runtime import ir_check, onnx_check
from qdr_edge.target import host

# How oneDNN, and so OpenVINO, is told to leave instructions of the processor unused.
_ISA_LIMITS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_VNNI: Final = frozenset({"SSE41", "AVX", "AVX2", "AVX512_CORE"})
SATURATION_FREE: Final = 64
"""The largest weight whose pairs of products cannot saturate."""


def saturates_here(model: bytes) -> bool:
    """Whether oneDNN's fast int8 kernels may saturate here on a checked model.

    The weights themselves decide, not what the model says of itself.
    """
    machine = host()
    held_back = any(os.environ.get(name, "").upper() in _WITHOUT_VNNI for name in _ISA_LIMITS)
    if machine.architecture != "x86_64" or ("vnni" in machine.features and not held_back):
        return False
    largest = ir_check.largest_int8 if ir_check.is_ir(model) else onnx_check.largest_int8
    return largest(model) > SATURATION_FREE
