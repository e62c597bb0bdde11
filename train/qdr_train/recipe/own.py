"""A user's own network as data: what the command line read once, so that no run names code.

`qdr_train.adopt` makes it from a traced torch module and builds the network from it again. It holds
operators and shapes, no weights.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from qdr_train.recipe.strict import Positive, Strict

Operator = Literal[
    "conv",
    "batch_norm",
    "linear",
    "add",
    "mul",
    "concat",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "upsample",
    "flatten",
    "dropout",
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "silu",
]
Colours = tuple[float, float, float]


class Step(Strict):
    """One operator of the network.

    Args:
        name: Path of its module, unique.
        op: What it does.
        inputs: Names of earlier steps; "" is the image.
        options: Shapes and constants, as the operator's module takes them.
    """

    name: Annotated[str, Field(min_length=1)]
    op: Operator
    inputs: tuple[str, ...]
    options: dict[str, bool | int | float | tuple[int, int]] = Field(default_factory=dict)

    @field_validator("inputs", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("options", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}


class Own(Strict):
    """A user's network.

    Args:
        source: Name of the Python file it was read from.
        sha256: Of that file.
        size: Side of the images in pixels; pooling to fixed sizes depends on it.
        classes: Width of its last layer.
        features: Width of what that layer reads.
        dropout: Before that layer, while training.
        mean: Of each colour in pixel / 255; null if the network sees (pixel − 128) / 64.
        std: Of each colour in pixel / 255; null with `mean`.
        steps: The operators before the last layer, in order; the last of them makes the features.
    """

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Positive
    classes: Positive
    features: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mean: Colours | None = None
    std: Colours | None = None
    steps: tuple[Step, ...]

    @field_validator("steps", "mean", "std", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value
