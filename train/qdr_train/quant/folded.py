"""The folded network: BatchNorm gone, weights as codes, every output on its int8 grid.

These modules compute what an integer device computes (docs/checkpoint.md, "Integer semantics"):
accumulators are exact integers held in floating point, the bias is an integer on the grid of the
products, and one requantization (round half to even, saturate) follows each operator. Run the
reference on the CPU: a GPU may pick a convolution algorithm that is not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT, QuantScheme
from qdr_train.models.blocks import average_windows

EXACT_FLOAT32 = 2**24
"""Below it every integer is a float32, so a float32 convolution of codes is exact."""

_LARGEST_CODE = 128  # of the schemes with powers of two, whose sums may be float32


class Requantize(nn.Module):
    """Rounds to the 8-bit grid and saturates: what a stored activation is.

    Args:
        scale: Real value of one step.
        scheme: Gives the range of codes.
        zero_point: Code of the real value 0.
    """

    def __init__(self, scale: float, scheme: QuantScheme, zero_point: int = 0) -> None:
        super().__init__()
        self.scale = scale
        self.zero_point = zero_point
        # Codes are counted from the zero point, which is added after rounding.
        self.qmin = scheme.activation_qmin - zero_point
        self.qmax = scheme.activation_qmax - zero_point
        self.power_of_two = scheme.power_of_two

    def forward(self, x: Tensor) -> Tensor:
        codes = torch.round(x / self.scale).clamp(self.qmin, self.qmax)
        # A code times a free scale is no float32, and a later sum would inherit the error.
        return (codes * self.scale).to(torch.float32 if self.power_of_two else torch.float64)


class WeightQuantization:
    """How a weight becomes codes.

    Args:
        scale: Real value of one step per output channel, float32 [Cout], above 0.
        scheme: Gives the largest code and whether scales are powers of two.
    """

    def __init__(self, scale: Tensor, scheme: QuantScheme) -> None:
        self.scale = scale
        self.qmax = scheme.weight_qmax
        self.power_of_two = scheme.power_of_two

    def codes(self, weight: Tensor) -> Tensor:
        """Integer codes of a weight [Cout, ...], as float32."""
        scale = self.scale.view(-1, *[1] * (weight.ndim - 1))
        return torch.round(weight / scale).clamp(-self.qmax, self.qmax)


class FoldedLayer(nn.Module):
    """A convolution or linear layer with its activation and requantization.

    Args:
        weight: Folded weight, float32 [Cout, ...].
        bias: Folded bias, float32 [Cout].
        activation: "relu" or "relu6" if one follows, else "".
        quantization: None for a layer in float.
        requantize: The output's grid; None for a float output.
    """

    op = "linear"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        activation: str,
        quantization: WeightQuantization | None,
        requantize: Requantize | None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.activation = activation
        self.quantization = quantization
        self.output_quantizer: nn.Module = requantize or nn.Identity()
        self.input_scale: float | None = None

    def connect(self, input_scale: float) -> None:
        """Tell the layer its input's scale and store weight and bias as integer codes.

        A layer that stays in float takes float64 instead: float32 sums differ with their order.
        """
        quantization = self.quantization
        if quantization is None:
            self.double()
            return
        codes = quantization.codes(self.weight)
        accumulator_scale = quantization.scale.double() * input_scale
        # An exported bias stores its scale, so its grid is the product rounded to float32.
        bias_codes = torch.round(self.bias.double() / accumulator_scale.float().double())
        bound = codes.double().abs().flatten(1).sum(1) * _LARGEST_CODE + bias_codes.abs()
        # Free scales need float64 for the products that follow, and very wide layers for the sum.
        exact = quantization.power_of_two and float(bound.max()) < EXACT_FLOAT32
        dtype = torch.float32 if exact else torch.float64
        self.register_buffer("weight_codes", codes.to(dtype))
        self.register_buffer("bias_codes", bias_codes.to(dtype))
        self.register_buffer("accumulator_scale", accumulator_scale.to(dtype))
        self.input_scale = input_scale

    def accumulate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer's sum of products."""
        return F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.quantization is None:
            y = self.accumulate(x.to(self.weight.dtype), self.weight, self.bias)
        else:
            if self.input_scale is None:
                raise RuntimeError("connect() every layer before running the reference")
            weight = self.get_buffer("weight_codes")
            scale = self.get_buffer("accumulator_scale")
            codes = torch.round(x / self.input_scale).to(weight.dtype)
            total = self.accumulate(codes, weight, self.get_buffer("bias_codes"))
            y = total * scale.view(-1, *[1] * (total.ndim - 2))
        if self.activation:
            y = y.clamp(0, 6) if self.activation == "relu6" else torch.relu(y)
        if isinstance(self.output_quantizer, Requantize):
            return cast(Tensor, self.output_quantizer(y))
        return y.to(torch.float32)


class FoldedConv2d(FoldedLayer):
    """A convolution, [N, Cin, H, W] -> [N, Cout, H', W']."""

    op = "conv"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        activation: str,
        quantization: WeightQuantization | None,
        requantize: Requantize | None,
    ) -> None:
        super().__init__(
            weight,
            bias,
            activation=activation,
            quantization=quantization,
            requantize=requantize,
        )
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    def accumulate(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The layer's sum of products; padding is the code 0."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class ExactElementwise(nn.Module):
    """An operator without weights on the exact real values, then one requantization.

    Args:
        op: Operator in the network graph.
        relu: A ReLU follows.
        requantize: The output's grid.
        attrs: Attributes of the operator.
    """

    def __init__(
        self,
        op: str,
        *,
        relu: bool,
        requantize: Requantize,
        attrs: Mapping[str, int | tuple[int, int]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.op = op
        self.relu = relu
        self.attrs = attrs
        self.output_quantizer: nn.Module = requantize

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0].double()
        if self.op == "add":
            y = x + inputs[1].double()
        elif self.op == "mul":
            y = x * inputs[1].double()
        elif self.op == "concat":
            y = torch.cat([x.double() for x in inputs], 1)
        elif self.op == "avg_pool":
            y = average_windows(x, self.attrs)
        elif self.op == "global_avg_pool":
            y = x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
        elif self.op == "hardswish":
            # One division of exact numerators, so that a tie in the real value is a tie here.
            y = x * (x + 3).clamp(0, 6) / 6
        elif self.op == "hardsigmoid":
            y = (x + 3).clamp(0, 6) / 6
        elif self.op == "relu6":
            y = x.clamp(0, 6)
        elif self.op == "sigmoid":
            y = torch.sigmoid(x)
        elif self.op == "silu":
            y = x * torch.sigmoid(x)
        elif self.op == "input":
            y = x
        else:
            raise RuntimeError(f"no exact form of {self.op}")
        result: Tensor = self.output_quantizer(torch.relu(y) if self.relu else y)
        return result


class FoldedNormalize(nn.Module):
    """weight · pixel + bias for each colour, each rounded to float32, then one requantization.

    Args:
        weight: Float32 [3].
        bias: Float32 [3].
        requantize: The output's grid; None for a float output.
    """

    op = "normalize"

    def __init__(self, weight: Tensor, bias: Tensor, *, requantize: Requantize | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())
        self.output_quantizer: nn.Module = requantize or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pixels = x / INPUT_SCALE + INPUT_ZERO_POINT  # exact: the scale is a power of two
        weight, bias = (self.get_buffer(n).view(1, 3, 1, 1) for n in ("weight", "bias"))
        y = pixels * weight + bias
        if isinstance(self.output_quantizer, Requantize):
            return cast(Tensor, self.output_quantizer(y.double()))
        return y
