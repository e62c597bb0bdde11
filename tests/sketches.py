"""Networks for the operators that no family of students has: one for each, and random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qdr_edge.graph import INPUT
from tests.networks import LABELS, Sketch

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pyramid(seed: int = 0) -> Sketch:
    """All of them: normalized pixels, ReLU6, SiLU, gates, average pools, upsampling and joining."""
    s = Sketch(seed)
    x = s.conv("c0", s.normalize("norm", *IMAGENET), 16, 3, stride=2, activation="relu6")
    fine = s.op("silu", "silu", s.conv("c1", x, 24, 3, stride=2))
    coarse = s.op("pool", "avg_pool", fine, **window(3, 2, 1), count_include_pad=0)
    coarse = s.conv("c2", coarse, 24, 1, activation="relu6")
    y = s.conv("c3", s.op("cat", "concat", fine, s.op("up", "upsample", coarse, factor=2)), 32, 3,
               relu=True)  # fmt: skip
    z = s.op("six", "relu6", s.conv("c4", y, 32, 3, groups=32))
    z = s.op("add", "add", y, z, activation="relu6")
    gate = s.op("sig", "sigmoid", s.conv("c5", s.op("squeeze", "global_avg_pool", z), 32, 1))
    z = s.op("pool2", "avg_pool", s.op("mul", "mul", z, gate), **window(2, 2, 0),
             count_include_pad=1)  # fmt: skip
    return head(s, s.op("cat2", "concat", z, s.op("max", "max_pool", y, **window(2, 2, 0))))


def window(kernel: int, stride: int, padding: int) -> dict[str, tuple[int, int]]:
    """Attributes of a pool."""
    return {
        "kernel": (kernel, kernel),
        "stride": (stride, stride),
        "padding": (padding, padding),
    }


def head(s: Sketch, x: str) -> Sketch:
    """Global average pool and classifier."""
    s.linear("fc", s.op("flat", "flatten", s.op("gap", "global_avg_pool", x)), len(LABELS))
    return s


def _stem(seed: int, *, relu: bool) -> tuple[Sketch, str]:
    s = Sketch(seed)
    return s, s.conv("c0", INPUT, 12, 3, stride=2, relu=relu)


def _normalize(seed: int) -> Sketch:
    s = Sketch(seed)
    return head(s, s.conv("c0", s.normalize("norm", *IMAGENET), 12, 3, stride=2, relu=True))


def _fused_relu6(seed: int) -> Sketch:
    s = Sketch(seed)
    x = s.conv("c0", INPUT, 12, 3, stride=2, activation="relu6")
    y = s.conv("c2", s.conv("c1", x, 12, 3, groups=12, activation="relu6"), 12, 1)
    return head(s, s.op("add", "add", x, y, activation="relu6"))


def _unary(op: str) -> Callable[[int], Sketch]:
    def build(seed: int) -> Sketch:
        s, x = _stem(seed, relu=False)
        return head(s, s.conv("c1", s.op("y", op, x), 12, 3, relu=True))

    return build


def _avg_pool(
    kernel: int, stride: int, padding: int, counted: int, *, relu: bool
) -> Callable[[int], Sketch]:
    def build(seed: int) -> Sketch:
        s, x = _stem(seed, relu=relu)
        attrs = window(kernel, stride, padding)
        x = s.op("pool", "avg_pool", x, **attrs, count_include_pad=counted)
        return head(s, s.conv("c1", x, 12, 3, relu=True))

    return build


def _upsample(seed: int) -> Sketch:
    s, x = _stem(seed, relu=False)
    x = s.op("up", "upsample", x, factor=(2, 3))
    return head(s, s.conv("c1", x, 12, 3, relu=True))


def _concat(first: bool, second: bool) -> Callable[[int], Sketch]:
    def build(seed: int) -> Sketch:
        s, x = _stem(seed, relu=first)
        y = s.conv("c1", x, 8, 3, relu=first)
        z = s.conv("c2", x, 5, 1, relu=second)
        x = s.op("cat", "concat", y, z, x)
        x = s.op("max", "max_pool", x, **window(3, 2, 1))
        return head(s, s.conv("c3", x, 12, 3, relu=True))

    return build


OPERATORS: dict[str, Callable[[int], Sketch]] = {
    "pyramid": pyramid,
    "normalize": _normalize,
    "fused relu6": _fused_relu6,
    "relu": _unary("relu"),
    "relu6": _unary("relu6"),
    "sigmoid": _unary("sigmoid"),
    "silu": _unary("silu"),
    "hardswish": _unary("hardswish"),
    "hardsigmoid": _unary("hardsigmoid"),
    "upsample": _upsample,
    "avg_pool": _avg_pool(2, 2, 0, 1, relu=True),
    "avg_pool padded": _avg_pool(3, 2, 1, 0, relu=True),
    "avg_pool padded signed": _avg_pool(3, 1, 1, 0, relu=False),
    "avg_pool counting padding": _avg_pool(3, 2, 1, 1, relu=True),
    "avg_pool counting padding signed": _avg_pool(3, 1, 1, 1, relu=False),
    "concat": _concat(False, False),
    "concat of relu": _concat(True, True),
    "concat of both": _concat(True, False),
}


Choose = Callable[[Sequence[Any]], Any]
"""Returns one of the options: a property test's source of choices."""

FUSED = ("", "relu", "relu6")
UNARY = ("relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu")


def random_network(choose: Choose, seed: int, operators: int) -> Sketch:
    """A network of so many random blocks between a strided stem and a head, for 32 px images."""
    s = Sketch(seed)
    source = choose((INPUT, "norm"))
    if source == "norm":
        s.normalize("norm", *IMAGENET)
    x, side = s.conv("stem", source, 8, 3, stride=2, activation=choose(FUSED)), 16
    for index in range(operators):
        x, side = _block(s, choose, f"n{index}", x, side)
    return head(s, x)


def _block(s: Sketch, choose: Choose, name: str, x: str, side: int) -> tuple[str, int]:
    channels = s.channels[x]
    kind = choose(("conv", "depthwise", "grouped", "residual", "concat", "pool", "unary", "gate",
                   "upsample"))  # fmt: skip
    stride = choose((1, 2)) if side > 4 else 1
    match kind:
        case "conv" | "depthwise" | "grouped":
            groups = {"conv": 1, "depthwise": channels, "grouped": 2 - channels % 2}[kind]
            out = channels if groups > 1 else choose((8, 12))
            x = s.conv(name, x, out, choose((1, 3)), stride=stride, groups=groups,
                       activation=choose(FUSED))  # fmt: skip
            return x, -(-side // stride)
        case "residual":
            y = s.conv(f"{name}a", x, 8, 3, activation=choose(FUSED))
            y = s.conv(f"{name}b", y, channels, choose((1, 3)), activation=choose(FUSED))
            return s.op(name, "add", x, y, activation=choose(FUSED)), side
        case "concat":
            y = s.conv(f"{name}a", x, 6, choose((1, 3)), activation=choose(FUSED))
            return s.op(name, "concat", *choose(((x, y), (y, x), (y, x, y)))), side
        case "pool":
            kernel, padding = choose(((2, 0), (3, 1)))
            counted = choose((None, 0, 1))
            if counted is None:
                x = s.op(name, "max_pool", x, **window(kernel, stride, padding))
            else:
                settings = window(kernel, stride, padding)
                x = s.op(name, "avg_pool", x, **settings, count_include_pad=counted)
            return x, (side + 2 * padding - kernel) // stride + 1
        case "unary":
            return s.op(name, choose(UNARY), x), side
        case "gate":
            y = s.conv(f"{name}a", s.op(f"{name}g", "global_avg_pool", x), channels, 1)
            return s.op(name, "mul", x, s.op(f"{name}s", choose(UNARY), y)), side
    if side > 16:
        return s.op(name, "relu", x), side
    return s.op(name, "upsample", x, factor=2), 2 * side


def uniform(seed: int) -> Choose:
    """Choices by chance."""
    random = np.random.default_rng(seed)
    return lambda options: options[int(random.integers(len(options)))]
