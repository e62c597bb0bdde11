"""Networks as other people write them: every spelling that adoption must read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 64
CLASSES = 4


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """As torchvision's MobileNetV2 writes it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv_bn(inputs, inputs * 2, 1),
            conv_bn(inputs * 2, inputs * 2, 3, stride, inputs * 2),
            nn.Conv2d(inputs * 2, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8, 3, 2), InvertedResidual(8, 16, 2), InvertedResidual(16, 16, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        return self.classifier(x)


class SqueezeExciteConv(nn.Module):
    """As torchvision's MobileNetV3 writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // 2, 1)
        self.fc2 = nn.Conv2d(channels // 2, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def _scale(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self._scale(x) * x


class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16, eps=1e-3),
            nn.Hardswish(inplace=True),
            nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.Hardswish(),
            SqueezeExciteConv(16),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16, 24), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(24, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class DenseLayer(nn.Module):
    """BatchNorm and ReLU stand before the convolution."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv1(self.relu1(self.norm1(x)))], 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 4, 3, bias=False)
        self.dense = nn.Sequential(DenseLayer(8), DenseLayer(16))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 12, 1), nn.AvgPool2d(2, 2)
        )
        self.norm5 = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm5(self.transition(self.dense(self.stem(x))))
        x = F.relu(x, inplace=True)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(x.view(x.size(0), -1))


class BasicConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Branches, an average pool that counts its padding, and concatenation of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = BasicConv2d(3, 8, kernel_size=3, stride=4, padding=1)
        self.branch1 = BasicConv2d(8, 4, kernel_size=1)
        self.branch3 = nn.Sequential(
            BasicConv2d(8, 4, kernel_size=1), BasicConv2d(4, 8, kernel_size=3, padding=1)
        )
        self.pool = BasicConv2d(8, 4, kernel_size=1)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        outputs = [self.branch1(x), self.branch3(x), pooled]
        x = self.maxpool(torch.cat(outputs, dim=1))
        return self.fc(torch.mean(x, dim=(-2, -1)))


class UNetClassifier(nn.Module):
    """Down, up again by nearest neighbours, and a skip; SiLU throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.down2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.fuse = nn.Conv2d(24, 8, 3, padding="same")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(a)
        b = F.interpolate(F.max_pool2d(b, 2), scale_factor=2, mode="nearest")
        x = F.silu(self.fuse(torch.cat((self.up(b), a), dim=1)))
        return self.head(x.mean(dim=(2, 3), keepdim=True).flatten(1))


class ClassicSqueezeExcite(nn.Module):
    """Linear layers on flat features that become a map again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 2, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SEResNet(nn.Module):
    """One ReLU for all uses, += for the shortcut, layers in ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)) for _ in range(2)
        )
        self.se = ClassicSqueezeExcite(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:
            identity = x
            out = self.se(block(x)) if block is self.blocks[0] else block(x)
            out += identity
            x = self.relu(out)
        x = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        return self.fc(F.dropout(x, p=0.1, training=self.training))


class VGG(nn.Module):
    """Pooling to a fixed size, and hidden linear layers with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (8, 16, 16):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 4))
        self.classifier = nn.Sequential(
            nn.Linear(16 * 8, 24),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(24, 16),
            nn.ReLU6(),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = torch.flatten(x, 1)
        return self.classifier(x)


class Spellings(nn.Module):
    """Operators, torch functions, tensor methods, and ReLU6 that no layer can take in."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=(2, 4), padding=(1, 0))
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.c = nn.Conv2d(8, 8, 1, bias=False)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        y = F.relu6(self.b(x))
        y = y.add(torch.clamp(x, 0, 6))
        z = torch.mul(self.c(y), torch.sigmoid(y))
        z *= x.sigmoid()
        z = F.hardtanh(torch.add(z, y), 0.0, 6.0)
        z = torch.concat([z.clamp(min=0), F.hardswish(z)], axis=1)
        z = nn.functional.max_pool2d(z, 2, 2).contiguous()
        z = F.adaptive_max_pool2d(z, 1)
        return self.out(z.reshape(z.shape[0], -1))


class Nested(nn.Sequential):
    """Sequentials in sequentials, and an activation after a sum after a pool."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)), nn.ReLU()),
            nn.Identity(),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.Sequential(nn.Conv2d(8, 12, 3, 2), nn.Sigmoid(), nn.Dropout2d(0.1)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        )


class NamesInTheWay(nn.Module):
    """Modules called as parts of our own classifier are, and a layer that two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, 8, 3, 4, 1)
        self.dropout = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 8, 1)
        self.add = nn.ReLU()
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        y = self.add(self.head(x) + self.dropout(x))
        return self.last(self.add(y + x).mean((3, 2)))


@torch.fx.wrap
def stochastic_depth(x: Tensor, p: float, training: bool) -> Tensor:
    """As torchvision's: one operation to a tracer, nothing in evaluation."""
    return x * (torch.rand(len(x), 1, 1, 1) > p) if training else x


class SqueezeNet(nn.Module):
    """The mean of a map for each label makes the logits; a branch that is now and then left out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4)
        self.expand = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(8, CLASSES, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + stochastic_depth(self.expand(x), 0.2, self.training)
        return torch.flatten(self.classifier(x), 1)


STRANGERS: Mapping[str, Callable[[], nn.Module]] = {
    "mobilenetv2": MobileNetV2,
    "mobilenetv3": MobileNetV3,
    "densenet": DenseNet,
    "inception": Inception,
    "unet": UNetClassifier,
    "se-resnet": SEResNet,
    "vgg": VGG,
    "spellings": Spellings,
    "nested": Nested,
    "names": NamesInTheWay,
    "squeezenet": SqueezeNet,
}


def stranger(name: str) -> nn.Module:
    """A network whose BatchNorm knows images, in evaluation mode."""
    torch.manual_seed(sum(map(ord, name)))
    network = STRANGERS[name]().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # not the identity that it begins as
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    with torch.no_grad():
        network(torch.randn(16, 3, SIZE, SIZE))
    return network.eval()
