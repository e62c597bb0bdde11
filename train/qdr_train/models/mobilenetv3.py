"""MobileNetV3-small, for comparison, with torchvision's parameter names below `backbone`.

Source: Howard et al., Searching for MobileNetV3, ICCV 2019, table 2.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from qdr_train.models.blocks import (
    Add,
    Classifier,
    ConvBnRelu,
    GlobalAvgPool,
    Hardsigmoid,
    Hardswish,
    Mul,
    initialise,
    scale_width,
)

# BatchNorm's momentum stays torch's 0.1: MobileNet's 0.01 needs thousands of steps to settle,
# which a data set of hundreds of images does not give.
_BN_EPS = 1e-3


class _Row(NamedTuple):
    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hardswish: bool
    stride: int


_ROWS = (
    _Row(3, 16, 16, True, False, 2),
    _Row(3, 72, 24, False, False, 2),
    _Row(3, 88, 24, False, False, 1),
    _Row(5, 96, 40, True, True, 2),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 240, 40, True, True, 1),
    _Row(5, 120, 48, True, True, 1),
    _Row(5, 144, 48, True, True, 1),
    _Row(5, 288, 96, True, True, 2),
    _Row(5, 576, 96, True, True, 1),
    _Row(5, 576, 96, True, True, 1),
)


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled image, [N, C, H, W] -> the same."""

    fuse: ClassVar[tuple[tuple[str, ...], ...]] = (("fc1", "relu"),)

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scale_width(channels // 4, 1.0, 8)
        self.avgpool = GlobalAvgPool()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = Hardsigmoid()
        self.mul = Mul()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(self.fc2(self.relu(self.fc1(self.avgpool(x)))))
        result: Tensor = self.mul(x, gate)
        return result


def _conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: str = "",
) -> nn.Sequential:
    layer = ConvBnRelu(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        groups=groups,
        relu=activation == "relu",
        eps=_BN_EPS,
    )
    if activation == "hardswish":
        layer.append(Hardswish())
    return layer


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-excite, project, and a shortcut where the shape allows."""

    def __init__(self, in_channels: int, row: _Row, width: float) -> None:
        super().__init__()
        expanded = scale_width(row.expanded, width, 8)
        self.out_channels = scale_width(row.out, width, 8)
        activation = "hardswish" if row.hardswish else "relu"
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(_conv(in_channels, expanded, 1, activation=activation))
        layers.append(
            _conv(
                expanded,
                expanded,
                row.kernel,
                stride=row.stride,
                groups=expanded,
                activation=activation,
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcite(expanded))
        layers.append(_conv(expanded, self.out_channels, 1))
        self.block = nn.Sequential(*layers)
        self.shortcut = row.stride == 1 and in_channels == self.out_channels
        if self.shortcut:
            self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return self.add(y, x) if self.shortcut else y


class MobileNetV3Backbone(nn.Module):
    """Image [N, 3, S, S] -> features [N, 1024 x width]."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = scale_width(16, width, 8)
        layers: list[nn.Module] = [_conv(3, channels, 3, stride=2, activation="hardswish")]
        for row in _ROWS:
            block = InvertedResidual(channels, row, width)
            layers.append(block)
            channels = block.out_channels
        last = 6 * channels
        layers.append(_conv(channels, last, 1, activation="hardswish"))
        self.features = nn.Sequential(*layers)
        self.avgpool = GlobalAvgPool()
        self.flatten = nn.Flatten(1)
        self.feature_dim = scale_width(1024, width, 8)
        self.classifier = nn.Sequential(nn.Linear(last, self.feature_dim), Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return features


def mobilenetv3_small(num_classes: int, *, width: float = 1.0, dropout: float = 0.2) -> Classifier:
    """MobileNetV3-small; features are its 1024-wide linear layer."""
    backbone = MobileNetV3Backbone(width)
    model = Classifier(backbone, backbone.feature_dim, num_classes, dropout)
    initialise(model)
    return model
