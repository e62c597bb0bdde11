"""Building blocks that every network here is made of.

Additions, products, pooling and the hard activations are modules, not functions: each has an
`output_quantizer` slot that is the identity in a float network and a fake quantizer in a prepared
one. A class that holds conv, BatchNorm and ReLU as named children lists them in `fuse`; in an
`nn.Sequential` neighbours are found by their types.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT

_PIXEL_MAX = 255.0


class Elementwise(nn.Module):
    """An operator with its own output grid.

    Attributes:
        op: Name of the operator in the network graph.
        attrs: Its attributes there.
        relu: Whether a ReLU follows it within the same step.
    """

    op: ClassVar[str]
    attrs: Mapping[str, int | tuple[int, int]] = MappingProxyType({})
    relu: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.output_quantizer: nn.Module = nn.Identity()


class Input(Elementwise):
    """Where pixels, as (pixel − 128) / 64, enter the network."""

    op = "input"

    def forward(self, x: Tensor) -> Tensor:
        quantized: Tensor = self.output_quantizer(x)
        return quantized


class Normalize(Elementwise):
    """Where pixels enter a network that was trained on (pixel / 255 − mean) / std.

    Args:
        mean: Of each colour, red, green, blue.
        std: Of each colour, above 0.
    """

    op = "normalize"

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        scale = 1 / (torch.tensor(std, dtype=torch.float64) * _PIXEL_MAX)
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        # Not part of a state: they are part of the architecture.
        self.register_buffer("weight", scale.to(torch.float32), persistent=False)
        self.register_buffer("bias", shift.to(torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x / INPUT_SCALE + INPUT_ZERO_POINT  # exact: the scale is a power of two
        weight, bias = (self.get_buffer(n).view(1, 3, 1, 1) for n in ("weight", "bias"))
        result: Tensor = self.output_quantizer(pixels * weight + bias)
        return result


class Add(Elementwise):
    """A residual sum, optionally with its ReLU."""

    op = "add"

    def __init__(self, *, relu: bool = False) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = a + b
        result: Tensor = self.output_quantizer(torch.relu(total) if self.relu else total)
        return result


class Mul(Elementwise):
    """A product; [N, C, 1, 1] broadcasts over the image."""

    op = "mul"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(a * b)
        return result


class Concat(Elementwise):
    """Two or more inputs side by side in the channels."""

    op = "concat"

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(torch.cat(inputs, 1))
        return result


class AvgPool(Elementwise):
    """The mean of each window, [N, C, H, W] -> [N, C, H', W'].

    Args:
        kernel: Height and width.
        stride: Down and across.
        padding: Zeros above and below, left and right.
        count_include_pad: Whether the zeros count in the mean.
    """

    op = "avg_pool"

    def __init__(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        *,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.attrs = {
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
            "count_include_pad": int(count_include_pad),
        }

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(average_windows(x, self.attrs))
        return result


class GlobalAvgPool(Elementwise):
    """The mean over height and width, [N, C, H, W] -> [N, C, 1, 1]."""

    op = "global_avg_pool"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(x.mean((2, 3), keepdim=True))
        return result


class Hardswish(Elementwise):
    """x · clip(x/6 + 1/2, 0, 1)."""

    op = "hardswish"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(F.hardswish(x))
        return result


class Hardsigmoid(Elementwise):
    """clip(x/6 + 1/2, 0, 1)."""

    op = "hardsigmoid"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(F.hardsigmoid(x))
        return result


class Relu6(Elementwise):
    """clip(x, 0, 6), where no layer before it can take it in."""

    op = "relu6"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(F.relu6(x))
        return result


class Sigmoid(Elementwise):
    """1 / (1 + exp(−x))."""

    op = "sigmoid"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(torch.sigmoid(x))
        return result


class Silu(Elementwise):
    """x · sigmoid(x)."""

    op = "silu"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_quantizer(F.silu(x))
        return result


class ConvBnRelu(nn.Sequential):
    """Convolution, BatchNorm and, unless told otherwise, ReLU; "same" padding for odd kernels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        relu: bool = True,
        eps: float = 1e-5,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel,
                stride,
                kernel // 2 if padding is None else padding,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels, eps=eps),
        ]
        super().__init__(*layers, *([nn.ReLU()] if relu else []))


class Classifier(nn.Module):
    """A backbone and a linear head.

    `backbone` maps an image, float32 [N, 3, S, S] holding (pixel − 128) / 64, to features
    [N, feature_dim]; distillation needs features and logits from one pass.

    Args:
        backbone: Ends in features [N, feature_dim].
        feature_dim: Width of the features.
        num_classes: Number of labels K.
        dropout: Share of features zeroed before the head in training.
    """

    def __init__(
        self, backbone: nn.Module, feature_dim: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.input: Elementwise = Input()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_dim, num_classes)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, feature_dim], before dropout, and logits [N, K]."""
        features = self.backbone(self.input(x))
        return features, self.head(self.dropout(features))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self.forward_features(x)[1]


def average_windows(x: Tensor, attrs: Mapping[str, int | tuple[int, int]]) -> Tensor:
    """The means of AvgPool's windows."""
    return F.avg_pool2d(
        x,
        attrs["kernel"],
        attrs["stride"],
        attrs["padding"],
        count_include_pad=bool(attrs["count_include_pad"]),
    )


def initialise(model: nn.Module) -> None:
    """He-normal convolutions, as for ReLU networks trained from scratch; BatchNorm as identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def scale_width(channels: int, width: float, multiple: int) -> int:
    """Channels times `width`, rounded to a multiple that fills the device's vector registers."""
    # Halves go up, as in the published networks; round() would send them to the even multiple.
    return max(multiple, int(channels * width / multiple + 0.5) * multiple)
