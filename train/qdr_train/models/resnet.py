"""ResNet-18, -34 and -50, with torchvision's parameter names below `backbone`.

The stride of a bottleneck stands on its 3x3 convolution (ResNet v1.5), as in torchvision. Source:
He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from qdr_train.models.blocks import Add, Classifier, GlobalAvgPool, initialise, scale_width


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion: ClassVar[int] = 1
    fuse: ClassVar[tuple[tuple[str, ...], ...]] = (("conv1", "bn1", "relu"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample
        self.add = Add(relu=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.add(self.bn2(self.conv2(y)), self.downsample(x))
        return result


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3, 1x1 expansion and a shortcut."""

    expansion: ClassVar[int] = 4
    fuse: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("conv1", "bn1", "relu1"),
        ("conv2", "bn2", "relu2"),
        ("conv3", "bn3"),
    )

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = downsample
        self.add = Add(relu=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        result: Tensor = self.add(self.bn3(self.conv3(y)), self.downsample(x))
        return result


class ResNetBackbone(nn.Module):
    """Image [N, 3, S, S] -> features [N, C].

    Args:
        block: BasicBlock or Bottleneck.
        depths: Blocks in each of the four stages.
        width: Multiplies every channel count, rounded to multiples of 16.
        fc_features: Width of a linear layer after pooling (the paper's 1000 features); 0 for none.
    """

    fuse: ClassVar[tuple[tuple[str, ...], ...]] = (("conv1", "bn1", "relu"),)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        width: float,
        fc_features: int,
    ) -> None:
        super().__init__()
        base = scale_width(64, width, 16)
        self.conv1 = _conv(3, base, 7, 2)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, previous = [], base
        for stage, depth in enumerate(depths):
            channels = base * 2**stage
            stages.append(_stage(block, previous, channels, depth, 1 if stage == 0 else 2))
            previous = channels * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = GlobalAvgPool()
        self.flatten = nn.Flatten(1)
        self.fc: nn.Module = nn.Linear(previous, fc_features) if fc_features else nn.Identity()
        self.feature_dim = fc_features or previous

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return features


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    out_channels = channels * block.expansion
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            _conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
        )
    blocks = [block(in_channels, channels, stride, shortcut)]
    blocks += [block(out_channels, channels, 1, nn.Identity()) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
    depths: tuple[int, int, int, int],
    num_classes: int,
    width: float,
    dropout: float,
    fc_features: int,
) -> Classifier:
    backbone = ResNetBackbone(block, depths, width=width, fc_features=fc_features)
    model = Classifier(backbone, backbone.feature_dim, num_classes, dropout)
    initialise(model)
    return model


def resnet18(num_classes: int, *, width: float = 1.0, dropout: float = 0.2) -> Classifier:
    """ResNet-18; features are the pooled channels."""
    return _resnet(BasicBlock, (2, 2, 2, 2), num_classes, width, dropout, 0)


def resnet34(num_classes: int, *, width: float = 1.0, dropout: float = 0.2) -> Classifier:
    """ResNet-34; features are the pooled channels."""
    return _resnet(BasicBlock, (3, 4, 6, 3), num_classes, width, dropout, 0)


def resnet50(num_classes: int, *, width: float = 1.0, dropout: float = 0.5) -> Classifier:
    """The paper's ResNet-50: a 1000-wide linear layer gives the features. Source: QD-RetNet."""
    return _resnet(Bottleneck, (3, 4, 6, 3), num_classes, width, dropout, 1000)
