"""Convolution and BatchNorm in quantization-aware training, without passes over whole activations.

torch.ao divides each convolution's output by the factor that its weights were multiplied with,
then normalises. Here the weights, thousands of times smaller, are divided instead; and where
BatchNorm is frozen, its shift is the convolution's bias: what ships, and no normalisation at all.
The classes stay torch.ao's in type, parameters and gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.nn.intrinsic.qat as nniqat
from torch import Tensor, nn


class _Folding:
    """The forward pass of both classes below."""

    def _forward(self, x: Tensor) -> Tensor:
        layer = cast(Any, self)
        bn = layer.bn
        # The order of operations is also that of folding: a weight on the border between two codes
        # must fall on the same side (qat.py).
        factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        by_channel = factor.reshape(-1, 1, 1, 1)
        weight = layer.weight_fake_quant(layer.weight * by_channel)
        if bn.training:
            weight = weight * by_channel.reciprocal()
            return cast(Tensor, bn(layer._conv_forward(x, weight, layer.bias)))
        shift = bn.running_mean if layer.bias is None else bn.running_mean - layer.bias
        return cast(Tensor, layer._conv_forward(x, weight, bn.bias - shift * factor))


class ConvBn2d(_Folding, nniqat.ConvBn2d):
    """Convolution and BatchNorm, weights fake-quantized as they will be folded."""


class ConvBnReLU2d(_Folding, nniqat.ConvBnReLU2d):
    """Convolution, BatchNorm and ReLU, weights fake-quantized as they will be folded."""


CLASSES: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {nni.ConvBn2d: ConvBn2d, nni.ConvBnReLU2d: ConvBnReLU2d}
)
"""What stands in for which fused float module."""
