"""The native form: a plan, which libqdr runs with integer kernels of its own on any processor.

    file           step
    lowering.py    canonical graph → steps: one for each layer, with integers only
    fusing.py      an addition joins the convolution before it
    constants.py   weights, biases and shifts as the kernels read them
    memory.py      where each activation lies in one arena
    writer.py      steps → bytes (export/firmware/src/plan/format.h is the other side)

Scales must be powers of two, as under `exact` and `exact-wide`: then every requantization is a
shift, and a plan computes what the reference interpreter computes, bit for bit.
"""

from __future__ import annotations

from qdr_export.emit.native.fusing import fuse
from qdr_export.emit.native.lowering import lower
from qdr_export.emit.native.steps import Steps
from qdr_export.emit.native.writer import write


def emit(canonical: bytes) -> bytes:
    """The plan of a canonical model.

    Raises:
        ExportError: A scale is no power of two, a layer stays in float, or an operator has no
            kernel.
    """
    return write(steps_of(canonical))


def steps_of(canonical: bytes, *, fused: bool = True) -> Steps:
    """The steps of a canonical model; not fused, every quantized tensor of it is made."""
    steps = lower(canonical)
    return fuse(steps) if fused else steps
