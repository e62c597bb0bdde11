"""qdr-small: the default student, designed for int8.

Dense convolutions and ReLU only, so that every step is one fused int8 kernel; the image is read
once, by a strided 6x6 convolution, because convolutions of three channels at full resolution cost
an int8 kernel as much as a float one; three residual additions; channels in multiples of 16.
docs/adr/0003-default-student.md has the measurements behind the numbers.
"""

from __future__ import annotations

from torch import Tensor, nn

from qdr_train.models.blocks import (
    Add,
    Classifier,
    ConvBnRelu,
    GlobalAvgPool,
    initialise,
    scale_width,
)

STEM_CHANNELS = 32  # at 1/4 of the input
STAGE_CHANNELS = (64, 128, 256)  # at 1/8, 1/16 and 1/32


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity, [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBnRelu(channels, channels, 3)
        self.conv2 = ConvBnRelu(channels, channels, 3, relu=False)
        self.add = Add(relu=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.add(self.conv2(self.conv1(x)), x)
        return result


class StudentBackbone(nn.Sequential):
    """Image [N, 3, S, S] -> features [N, C]."""

    feature_dim: int

    def __init__(self, width: float = 1.0) -> None:
        previous = scale_width(STEM_CHANNELS, width, 16)
        layers: list[tuple[str, nn.Module]] = [
            ("stem", ConvBnRelu(3, previous, 6, stride=4, padding=1)),
            ("conv1", ConvBnRelu(previous, previous, 3)),
        ]
        for number, base in enumerate(STAGE_CHANNELS, start=2):
            channels = scale_width(base, width, 16)
            layers.append((f"down{number}", ConvBnRelu(previous, channels, 3, stride=2)))
            layers.append((f"block{number}", Residual(channels)))
            previous = channels
        layers += [("avgpool", GlobalAvgPool()), ("flatten", nn.Flatten(1))]
        super().__init__()
        for name, layer in layers:
            self.add_module(name, layer)
        self.feature_dim = previous


def qdr_small(num_classes: int, *, width: float = 1.0, dropout: float = 0.2) -> Classifier:
    """The default student.

    Args:
        num_classes: Number of labels K.
        width: Multiplies every channel count, rounded to multiples of 16.
        dropout: Share of features zeroed before the head in training.
    """
    backbone = StudentBackbone(width)
    model = Classifier(backbone, backbone.feature_dim, num_classes, dropout)
    initialise(model)
    return model
