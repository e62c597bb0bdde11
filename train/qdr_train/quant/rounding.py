"""Fake quantization of activations: the values of torch's operator, several times sooner on a CPU.

torch's kernel rounds one number at a time and keeps a mask of bytes, whose product with a float
gradient converts every element. Whole-tensor operations and a gradient that compares with the ends
of the range are vectorised: the same bits in a fifth of the time (benchmarks/training.py).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor


def fake_quantize(x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """x on the grid of `scale`, ties to even, saturated; the gradient passes within the range.

    Args:
        x: Float32, any shape.
        scale: Float32 [1], above 0, not trained.
        qmin: Smallest code.
        qmax: Largest code.
    """
    if x.is_cuda:  # one fused kernel
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, qmin, qmax)
    return cast(Tensor, _FakeQuantize.apply(x, scale, qmin, qmax))  # type: ignore[no-untyped-call]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
        context.save_for_backward(x)
        step = float(scale)
        # Both ends are outside for hardtanh: −128.5 still rounds to −128, 127.5 no more to 127.
        context.range = math.nextafter((qmin - 0.5) * step, -math.inf), (qmax + 0.5) * step
        return x.mul(1 / scale).round_().clamp_(qmin, qmax).mul_(scale)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = context.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, x, *context.range), None, None, None
