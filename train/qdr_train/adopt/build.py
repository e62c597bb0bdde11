"""A user's network from its description: the building blocks, under the user's own names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from qdr_edge.errors import RecipeError
from qdr_train.models import blocks
from qdr_train.models.blocks import Classifier
from qdr_train.recipe.own import Own, Step

IMAGE = ""
"""The name of the image among a step's inputs."""


class OwnBackbone(nn.Module):
    """The steps before the last layer, image [N, 3, S, S] -> features [N, F].

    Attributes:
        fuse: Groups of convolution, BatchNorm and ReLU that are one operator.

    Args:
        steps: In topological order.
    """

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.fuse = fusion_groups(steps)
        taken_in = {name for group in self.fuse for name in group[1:]}
        self._plan = tuple((step.name, step.inputs) for step in steps)
        for step in steps:
            parent: nn.Module = self
            *path, last = step.name.split(".")
            for part in path:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            alone = step.op == "relu6" and step.name not in taken_in
            parent.add_module(last, blocks.Relu6() if alone else module_of(step))

    def forward(self, x: Tensor) -> Tensor:
        values = {IMAGE: x}
        for name, inputs in self._plan:
            # Looked up each time: preparing and folding replace modules.
            x = self.get_submodule(name)(*(values[source] for source in inputs))
            values[name] = x
        return x


def build_own(own: Own) -> Classifier:
    """The network with freshly initialised weights (seed torch before)."""
    network = Classifier(OwnBackbone(own.steps), own.features, own.classes, own.dropout)
    if own.mean is not None and own.std is not None:
        network.input = blocks.Normalize(own.mean, own.std)
    return network


def require_fits(own: Own, *, size: int, classes: int) -> None:
    """Check a network against the images and the labels.

    Raises:
        RecipeError: It was made for others.
    """
    if own.classes != classes:
        raise RecipeError(
            f"its last layer has {own.classes} outputs, the data {classes} labels",
            where=own.source,
            expected="one output for each label, in the data's order",
            fix=f"let build() return the network with {classes} outputs",
        )
    if own.size != size:
        raise RecipeError(
            f"it was read for images of {own.size} px, the recipe has {size} px",
            where=own.source,
            expected="the same size: pooling was fixed to it",
            fix="begin a new run from the Python file",
        )


def fusion_groups(steps: Iterable[Step]) -> tuple[tuple[str, ...], ...]:
    """Convolutions and linear layers with the BatchNorm and ReLU that only they feed."""
    steps = tuple(steps)
    after = {step.name: [s for s in steps if step.name in s.inputs] for step in steps}
    groups = []
    for step in steps:
        if step.op not in ("conv", "linear"):
            continue
        group, wanted = [step.name], ("batch_norm",) if step.op == "conv" else ()
        for ops in (wanted, ("relu", "relu6")):
            following = after[group[-1]]
            if len(following) == 1 and following[0].op in ops:
                group.append(following[0].name)
        if len(group) > 1:
            groups.append(tuple(group))
    return tuple(groups)


def module_of(step: Step) -> nn.Module:
    """The module of a step."""
    options = cast(Mapping[str, Any], step.options)
    match step.op:
        case "conv":
            return _conv(options)
        case "batch_norm":
            return nn.BatchNorm2d(
                options["features"], eps=options["eps"], momentum=options["momentum"]
            )
        case "linear":
            return nn.Linear(options["inputs"], options["outputs"], bias=options["bias"])
        case "add":
            return blocks.Add(relu=options.get("relu", False))
        case "max_pool":
            return nn.MaxPool2d(options["kernel"], options["stride"], options["padding"])
        case "avg_pool":
            return blocks.AvgPool(
                options["kernel"],
                options["stride"],
                options["padding"],
                count_include_pad=options["count_include_pad"],
            )
        case "upsample":
            return nn.Upsample(scale_factor=options["factor"], mode="nearest")
        case "dropout":
            return nn.Dropout(options["share"])
        case _:
            return _PLAIN[step.op]()


def _conv(options: Mapping[str, Any]) -> nn.Conv2d:
    conv = nn.Conv2d(
        options["inputs"],
        options["outputs"],
        options["kernel"],
        options["stride"],
        options["padding"],
        options["dilation"],
        options["groups"],
        bias=options["bias"],
    )
    if options.get("identity", False):
        # It stands before a BatchNorm that no convolution feeds, which scales and shifts alone.
        conv.weight.requires_grad_(False)
        with torch.no_grad():
            conv.weight.fill_(1.0)
    return conv


_PLAIN: Mapping[str, type[nn.Module]] = {
    "mul": blocks.Mul,
    "concat": blocks.Concat,
    "global_avg_pool": blocks.GlobalAvgPool,
    "flatten": nn.Flatten,
    # On its input's grid, which holds 0 in every scheme: no grid of its own is needed.
    "relu": nn.ReLU,
    # The form that fusion looks for; where no layer takes it in, Relu6 stands instead.
    "relu6": nn.ReLU6,
    "hardswish": blocks.Hardswish,
    "hardsigmoid": blocks.Hardsigmoid,
    "sigmoid": blocks.Sigmoid,
    "silu": blocks.Silu,
}
