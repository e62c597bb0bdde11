"""Networks by the name a recipe gives them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from qdr_edge.errors import RecipeError
from qdr_train.models.blocks import Classifier
from qdr_train.models.mobilenetv3 import mobilenetv3_small
from qdr_train.models.resnet import resnet18, resnet34, resnet50
from qdr_train.models.student import qdr_small

MIN_SIZE = 32  # every network here halves the image five times


class Builder(Protocol):
    """Makes a network of a width; every builder has its own default dropout."""

    def __call__(self, num_classes: int, *, width: float = ..., dropout: float = ...) -> Classifier:
        """A network with freshly initialised weights."""


MODELS: Mapping[str, Builder] = MappingProxyType(
    {
        "qdr-small": qdr_small,
        "resnet18": resnet18,
        "resnet34": resnet34,
        "resnet50": resnet50,
        "mobilenetv3-small": mobilenetv3_small,
    }
)


def build(
    name: str,
    num_classes: int,
    *,
    in_size: int | None = None,
    width: float = 1.0,
    dropout: float | None = None,
) -> Classifier:
    """A network with freshly initialised weights (seed torch before).

    Args:
        name: A key of MODELS.
        num_classes: Number of labels K, at least 1.
        in_size: Side of the images in pixels, to check that it fits; the network itself takes any.
        width: Multiplies every channel count.
        dropout: Share of features zeroed before the head in training; None for the model's own.

    Raises:
        RecipeError: Unknown name, or a value out of range.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        raise RecipeError(
            f"unknown model {name!r}",
            expected=f"one of {', '.join(MODELS)}",
            fix=f"did you mean {near[0]}?" if near else "",
        )
    if num_classes < 1:
        raise RecipeError(f"{num_classes} labels", where=f"model {name}", expected="at least 1")
    if in_size is not None and in_size < MIN_SIZE:
        raise RecipeError(
            f"image size {in_size} px", where=f"model {name}", expected=f"at least {MIN_SIZE} px"
        )
    if not 0.05 <= width <= 8:
        raise RecipeError(f"width {width}", where=f"model {name}", expected="0.05 to 8")
    if dropout is not None and not 0 <= dropout < 1:
        raise RecipeError(f"dropout {dropout}", where=f"model {name}", expected="0 to below 1")
    if dropout is None:
        return MODELS[name](num_classes, width=width)
    return MODELS[name](num_classes, width=width, dropout=dropout)
