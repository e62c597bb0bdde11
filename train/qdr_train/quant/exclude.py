"""Which layers of a quantized network stay in float."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from torch import nn

from qdr_edge.errors import RecipeError
from qdr_train.recipe.parts import Quantization

_PREFIX = "backbone."


def weighted_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the convolutions and linear layers, in the order they were made."""
    return tuple(name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def float_layers(model: nn.Module, settings: Quantization) -> tuple[str, ...]:
    """Names of the layers that the settings keep in float, in the network's order.

    Args:
        model: A float network; its first layer reads the pixels and its last makes the logits.
        settings: Globs, with or without the leading `backbone.`, and first and last layer.

    Raises:
        RecipeError: A glob matches no convolution and no linear layer; near names are given.
    """
    layers = weighted_layers(model)
    chosen = set()
    if settings.first_layer == "float":
        chosen.add(layers[0])
    if settings.last_layer == "float":
        chosen.add(layers[-1])
    for glob in settings.exclude:
        found = {name for name in layers if _matches(name, glob)}
        if not found:
            raise RecipeError(
                f"exclude: {glob!r} matches no layer",
                where="quantization",
                expected="a glob over convolutions and linear layers",
                fix=f"the nearest are {', '.join(_near(glob, layers))}",
            )
        chosen |= found
    return tuple(name for name in layers if name in chosen)


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name.removeprefix(_PREFIX), glob)


def _near(glob: str, layers: tuple[str, ...]) -> list[str]:
    plain = glob.replace("*", "").removeprefix(_PREFIX)
    short = {name.removeprefix(_PREFIX): name for name in layers}
    close = difflib.get_close_matches(plain, short, n=3, cutoff=0.0)
    return [short[name] for name in close]
