"""The reference: what the canonical graph computes, defined completely, in NumPy.

It interprets the bytes of the canonical ONNX model, one function an operator, and is the oracle of
every parity test. The definition:

* A convolution or matrix product adds integers, codes minus zero point, so that padding is the real
  value 0. Its real value is accumulator × input scale × weight scale. One that stays in float is
  computed in float64, which no runtime does: there the reference is what they come near to, not
  what they equal.
* Quantization divides by the scale, rounds half to even, adds the zero point and saturates.
* Normalizing pixels takes two float32 operations: the product is rounded, then the sum.
* Everything else between is computed on the dequantized values as exactly as float64 allows. Under
  power-of-two scales that is exactly, up to divisions by 6 and by a pool's size, which are rounded
  correctly, and up to the exponential function.

Speed comes from float32 matrix products *where a bound proves them exact*: as long as
Σ|w|·max|x| + |bias| < 2²⁴, every partial sum in any order is an integer that float32 holds.
"""

from __future__ import annotations

from qdr_export.reference.elementwise import (
    add,
    cast,
    clip,
    dequantize,
    hardsigmoid,
    hardswish,
    mul,
    quantize,
    relu,
    sigmoid,
)
from qdr_export.reference.interpreter import Reference
from qdr_export.reference.products import conv, gemm
from qdr_export.reference.spatial import (
    average_pool,
    concat,
    flatten,
    global_average_pool,
    max_pool,
    resize,
)
from qdr_export.reference.values import Quantized

__all__ = [
    "Quantized",
    "Reference",
    "add",
    "average_pool",
    "cast",
    "clip",
    "concat",
    "conv",
    "dequantize",
    "flatten",
    "gemm",
    "global_average_pool",
    "hardsigmoid",
    "hardswish",
    "max_pool",
    "mul",
    "quantize",
    "relu",
    "resize",
    "sigmoid",
]
