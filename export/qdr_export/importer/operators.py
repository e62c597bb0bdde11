"""One ONNX operator → one operator of the checkpoint's graph: names and attributes.

An operator that has no equal is refused with what was found, what would do and how to get it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from qdr_export.graph.onnx_graph import attributes
from qdr_export.importer.constants import Dequantized, Stored
from qdr_export.importer.reading import Source

Attrs = dict[str, int | tuple[int, int]]


ONE_BY_ONE: Attrs = {
    "kernel": (1, 1),
    "stride": (1, 1),
    "padding": (0, 0),
    "count_include_pad": 0,
}
"""An average pooling that only rounds again."""


class RefusedError(Exception):
    """An operator that the checkpoint's graph cannot say."""

    def __init__(self, found: str, expected: str, mend: str) -> None:
        super().__init__(found)
        self.found, self.expected, self.mend = found, expected, mend


@dataclass(frozen=True)
class Operator:
    """An ONNX node with its attributes, stored inputs and shapes at hand."""

    node: NodeProto
    source: Source
    known: Mapping[str, Stored]

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes as Python values."""
        return attributes(self.node)

    def stored(self, index: int) -> Any:
        """A constant input as an array; None if it is left out.

        Raises:
            RefusedError: It is computed at run time.
        """
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        name = self.node.input[index]
        if name not in self.known:
            raise RefusedError(
                f"input {name} is computed at run time", "a constant", "fold it into a constant"
            )
        value = self.known[name]
        return value.real() if isinstance(value, Dequantized) else value

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Known dimensions of a tensor.

        Raises:
            RefusedError: They are not known.
        """
        shape = self.source.shapes.get(tensor, (-1,))
        if any(size < 0 for size in shape):
            raise RefusedError(
                f"the shape of {tensor} is not known",
                "fixed shapes",
                "export the model for a fixed image size",
            )
        return shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Dimensions of the first input."""
        return self.shape(self.node.input[0])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Dimensions of the output."""
        return self.shape(self.node.output[0])


def conv(o: Operator, kernel: tuple[int, ...]) -> Attrs:
    """Attributes of a convolution with a kernel of this size."""
    if len(kernel) != 2:
        raise RefusedError(f"a kernel {kernel}", "two dimensions", "use a two-dimensional network")
    dilation = _pair(o.attrs.get("dilations", (1, 1)))
    stride = _pair(o.attrs.get("strides", (1, 1)))
    return {
        "stride": stride,
        "padding": _padding(o, kernel, stride, dilation),
        "dilation": dilation,
        "groups": int(o.attrs.get("group", 1)),
    }


def max_pool(o: Operator) -> tuple[str, Attrs]:
    """MaxPool without dilation and without indices."""
    if any(d != 1 for d in o.attrs.get("dilations", (1, 1))) or len(o.node.output) > 1:
        raise RefusedError("dilations or indices", "a plain max pooling", "replace it")
    return "max_pool", _window(o)


def average_pool(o: Operator) -> tuple[str, Attrs]:
    """AveragePool; over the whole image it is a global one."""
    if any(d != 1 for d in o.attrs.get("dilations", (1, 1))):
        raise RefusedError("dilations", "a plain average pooling", "replace it")
    window = _window(o)
    if window["kernel"] == o.input_shape[2:] and window["padding"] == (0, 0):
        return "global_avg_pool", {}
    return "avg_pool", window | {"count_include_pad": int(o.attrs.get("count_include_pad", 0))}


def reduce_mean(o: Operator) -> tuple[str, Attrs]:
    """ReduceMean over height and width."""
    axes = o.attrs.get("axes")
    if axes is None and len(o.node.input) > 1:
        axes = o.stored(1)
    rank = len(o.input_shape)
    over = sorted(int(axis) % rank for axis in axes) if axes is not None else list(range(rank))
    if rank != 4 or over != [2, 3]:
        raise RefusedError(
            f"a mean over axes {over} of {rank}",
            "a mean over height and width",
            "use global average pooling",
        )
    return "global_avg_pool", {}


def resize(o: Operator) -> tuple[str, Attrs]:
    """Resize or Upsample that repeats every position a whole number of times."""
    before, after = o.input_shape, o.output_shape
    mode = o.attrs.get("mode", b"nearest").decode()
    factor = tuple(out // size for out, size in zip(after[2:], before[2:], strict=True))
    whole = before[:2] == after[:2] and all(
        size * f == out for size, f, out in zip(before[2:], factor, after[2:], strict=True)
    )
    if mode != "nearest" or not whole or not all(_repeats(o, f) for f in factor):
        raise RefusedError(
            f"{mode} from {before[2:]} to {after[2:]}",
            "nearest neighbours, by a whole factor",
            "use nearest upsampling with coordinate mode asymmetric, rounding floor",
        )
    return "upsample", {"factor": (factor[0], factor[1])}


def hardsigmoid(o: Operator) -> tuple[str, Attrs]:
    """HardSigmoid as torch defines it: x/6 + 1/2."""
    alpha, beta = o.attrs.get("alpha", 0.2), o.attrs.get("beta", 0.5)
    if np.float32(alpha) != np.float32(1 / 6) or beta != 0.5:
        raise RefusedError(
            f"alpha {alpha:.6g}, beta {beta:.6g}",
            "alpha 1/6, beta 1/2",
            "train with torch's hardsigmoid, or replace it by sigmoid",
        )
    return "hardsigmoid", {}


def concat(o: Operator) -> tuple[str, Attrs]:
    """Concat of channels."""
    axis = o.attrs["axis"] % len(o.output_shape)
    if axis != 1:
        raise RefusedError(f"axis {axis}", "axis 1, the channels", "join channels only")
    return "concat", {}


def clip(o: Operator) -> str:
    """Which activation a Clip is: relu or relu6."""
    low, high = o.attrs.get("min"), o.attrs.get("max")
    low = o.stored(1) if low is None else low
    high = o.stored(2) if high is None else high
    if low is not None and float(low) == 0:
        if high is None or float(high) >= np.finfo(np.float32).max:
            return "relu"
        if float(high) == 6:
            return "relu6"
    raise RefusedError(f"limits {low} and {high}", "0 and 6, or 0 alone", "use ReLU or ReLU6")


TRANSLATED: dict[str, Callable[[Operator], tuple[str, Attrs]]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda _: ("global_avg_pool", {}),
    "ReduceMean": reduce_mean,
    "Resize": resize,
    "Upsample": resize,
    "HardSwish": lambda _: ("hardswish", {}),
    "HardSigmoid": hardsigmoid,
    "Sigmoid": lambda _: ("sigmoid", {}),
    "Concat": concat,
}
"""Operators without weights whose output is a tensor of its own."""


def _pair(value: Any) -> tuple[int, int]:
    first, second = (int(v) for v in value)
    return first, second


def _window(o: Operator) -> Attrs:
    kernel = _pair(o.attrs["kernel_shape"])
    stride = _pair(o.attrs.get("strides", (1, 1)))
    padding = _padding(o, kernel, stride, (1, 1))
    floor = tuple(
        (size + 2 * p - k) // s + 1
        for size, p, k, s in zip(o.input_shape[2:], padding, kernel, stride, strict=True)
    )
    if floor != o.output_shape[2:]:
        raise RefusedError(
            f"rounding up gives {o.output_shape[2:]}, rounding down {floor}",
            "ceil_mode 0, or a size where both agree",
            "train with ceil_mode off, or another image size",
        )
    return {"kernel": kernel, "stride": stride, "padding": padding}


def _padding(
    o: Operator, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Padding of both sides of height and width; it must be the same on both."""
    mode = o.attrs.get("auto_pad", b"NOTSET").decode()
    top, left, bottom, right = (int(p) for p in o.attrs.get("pads", (0, 0, 0, 0)))
    if mode.startswith("SAME"):
        # A surplus row goes to one side, which side depends on the mode: no mode is symmetric then.
        need = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(o.input_shape[2:], kernel, stride, dilation, strict=True)
        ]
        top, left = need[0] // 2, need[1] // 2
        bottom, right = need[0] - top, need[1] - left
    elif mode == "VALID":
        top = left = bottom = right = 0
    if (top, left) != (bottom, right):
        raise RefusedError(
            f"padding top {top}, left {left}, bottom {bottom}, right {right}",
            "the same on both sides",
            "train with symmetric padding, as torch pads",
        )
    return top, left


def _repeats(o: Operator, factor: int) -> bool:
    """Whether output position x reads input position x // factor."""
    x = np.arange(4 * factor)
    coordinates = o.attrs.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounding = o.attrs.get("nearest_mode", b"round_prefer_floor").decode()
    if o.node.op_type == "Upsample":
        coordinates, rounding = "asymmetric", "floor"
    if coordinates == "asymmetric":
        real = x / factor
    elif coordinates in ("half_pixel", "pytorch_half_pixel"):
        real = (x + 0.5) / factor - 0.5
    else:
        return False
    nearest = {
        "floor": np.floor(real),
        "ceil": np.ceil(real),
        "round_prefer_floor": np.ceil(real - 0.5),
        "round_prefer_ceil": np.floor(real + 0.5),
    }[rounding]
    return bool((np.clip(nearest, 0, 3) == x // factor).all())
