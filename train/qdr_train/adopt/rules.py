"""What each torch operation becomes, or why it cannot be quantized.

A rule takes an operation's arguments as its author wrote them and gives a Draft, or says why there
is none. Modules, functions and methods that do the same share a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qdr_train.adopt.trace import Traced


class UnsupportedError(Exception):
    """Why an operation is not supported, and what to do."""


@dataclass(frozen=True)
class Draft:
    """An operation in our words.

    Args:
        op: An operator of `qdr_train.recipe.own`, or "same": its input as it is.
        inputs: What it reads.
        options: Of the operator.
        module: The user's module that holds its weights; None for none.
    """

    op: str
    inputs: tuple[fx.Node, ...]
    options: Mapping[str, Any]
    module: nn.Module | None = None


@dataclass(frozen=True)
class Call:
    """An operation with what is known about it."""

    node: fx.Node
    traced: Traced

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.traced.shape(self.node) or ()

    def shape(self, value: Any) -> tuple[int, ...]:
        """Shape of an argument that must be a tensor the network computed."""
        shape = self.traced.shape(value) if isinstance(value, fx.Node) else None
        if shape is None:
            raise UnsupportedError(
                "with a number or a constant; only tensors of the network itself"
            )
        return shape


Rule = Callable[..., Draft]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = (int(v) for v in value)
    return first, (rest[0] if rest else first)


# --- without weights ------------------------------------------------------------------------------


def activation(op: str) -> Rule:
    """A function of every value on its own."""

    def rule(call: Call, x: Any, inplace: bool = False) -> Draft:
        return Draft(op, (tensor(call, x),), {})

    return rule


def tensor(call: Call, x: Any) -> fx.Node:
    """An argument that is a tensor."""
    call.shape(x)
    node: fx.Node = x
    return node


def same(call: Call, x: Any, *_: Any, **__: Any) -> Draft:
    """Nothing, in evaluation."""
    return Draft("same", (tensor(call, x),), {})


def hardtanh(
    call: Call, x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Draft:
    """Hardtanh: ReLU6 by another name."""
    return clamp(call, x, min_val, max_val)


def clamp(call: Call, x: Any, min: Any = None, max: Any = None) -> Draft:
    """Clamp: ReLU or ReLU6 by another name."""
    limits = {(0, None): "relu", (0, 6): "relu6"}
    if (min, max) not in limits:
        raise UnsupportedError(f"to {min}..{max}; only to 0..6 (ReLU6), or from 0 on (ReLU)")
    return Draft(limits[min, max], (tensor(call, x),), {})


def add(call: Call, a: Any, b: Any, alpha: float = 1) -> Draft:
    """A sum of two tensors."""
    if alpha != 1:
        raise UnsupportedError("with alpha; scale one side's convolution instead")
    if call.shape(a) != call.shape(b):
        raise UnsupportedError(
            f"of shapes {call.shape(a)[1:]} and {call.shape(b)[1:]}; only of equal ones"
        )
    return Draft("add", (a, b), {})


def mul(call: Call, a: Any, b: Any) -> Draft:
    """A product of two tensors."""
    shapes = [call.shape(a), call.shape(b)]
    if shapes[0] != shapes[1] and shapes[0][2:] == (1, 1):
        a, b, shapes = b, a, shapes[::-1]
    if shapes[0] != shapes[1] and (shapes[1][2:] != (1, 1) or shapes[0][:2] != shapes[1][:2]):
        raise UnsupportedError(
            f"of shapes {shapes[0][1:]} and {shapes[1][1:]}; only of equal ones, or by a factor "
            "for each channel [C, 1, 1]"
        )
    return Draft("mul", (a, b), {})


def concat(call: Call, tensors: Any, dim: int = 0, axis: int | None = None) -> Draft:
    """Tensors side by side in the channels."""
    dim = dim if axis is None else axis
    rank = len(call.out)
    if dim % rank != 1:
        raise UnsupportedError(f"over axis {dim}; only over the channels, axis 1")
    inputs = tuple(tensor(call, x) for x in tensors)
    if len(inputs) == 1:
        return Draft("same", inputs, {})
    return Draft("concat", inputs, {})


def dropout(
    call: Call, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Draft:
    """Dropout; that of whole channels trains as that of values."""
    return Draft("dropout", (tensor(call, x),), {"share": float(p)})


def max_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Draft:
    """The largest value of each window."""
    if _pair(dilation) != (1, 1) or return_indices:
        raise UnsupportedError("with dilation or indices; without them")
    options = _window(call, x, kernel_size, stride, padding, ceil_mode)
    return Draft("max_pool", (tensor(call, x),), options)


def avg_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Draft:
    """The mean of each window."""
    if divisor_override is not None:
        raise UnsupportedError("with divisor_override; without it")
    options = _window(call, x, kernel_size, stride, padding, ceil_mode)
    if options["kernel"] == call.shape(x)[2:] and options["padding"] == (0, 0):
        return Draft("global_avg_pool", (tensor(call, x),), {})
    options["count_include_pad"] = bool(count_include_pad)
    return Draft("avg_pool", (tensor(call, x),), options)


def _window(
    call: Call, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool
) -> dict[str, Any]:
    kernel, padding = _pair(kernel), _pair(padding)
    stride = kernel if stride is None or stride == [] else _pair(stride)
    sizes = zip(call.shape(x)[2:], kernel, stride, padding, strict=True)
    floor = tuple((size + 2 * p - k) // s + 1 for size, k, s, p in sizes)
    if ceil_mode and floor != call.out[2:]:
        raise UnsupportedError(
            "with ceil_mode where windows hang over the edge; set ceil_mode=False"
        )
    return {"kernel": kernel, "stride": stride, "padding": padding}


def adaptive(op: str) -> Rule:
    """Pooling to a size: with this size of images, pooling with windows of one size."""

    def rule(call: Call, x: Any, output_size: Any, return_indices: bool = False) -> Draft:
        have, want = call.shape(x)[2:], call.out[2:]
        if want == (1, 1) and op == "avg_pool":
            return Draft("global_avg_pool", (tensor(call, x),), {})
        if want == have:
            return Draft("same", (tensor(call, x),), {})
        if any(h % w for h, w in zip(have, want, strict=True)):

            def tiles(shape: tuple[int, ...]) -> bool:
                return all(h % w == 0 for h, w in zip(shape[2:], want, strict=True))

            sizes = call.traced.sizes(call.node, tiles)
            near = sorted(sizes, key=lambda s: abs(s - call.traced.image))[:2]
            instead = f"use --size {' or '.join(map(str, sorted(near)))}, or " if near else ""
            raise UnsupportedError(
                f"from {have[0]} × {have[1]} to {want[0]} × {want[1]}, which windows of one size "
                f"do not tile; {instead}pool to 1 × 1"
            )
        kernel = have[0] // want[0], have[1] // want[1]
        options: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": (0, 0)}
        if op == "avg_pool":
            options["count_include_pad"] = True
        return Draft(op, (tensor(call, x),), options)

    return rule


def mean(call: Call, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Draft:
    """The mean over height and width."""
    shape = call.shape(x)
    dims = {d % 4 for d in (dim if isinstance(dim, (tuple, list)) else [dim]) if d is not None}
    if len(shape) != 4 or dims != {2, 3}:
        raise UnsupportedError("over other axes than height and width; write x.mean((2, 3))")
    return Draft("global_avg_pool", (x,), {})


def interpolate(
    call: Call,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Draft:
    """Larger maps by repeating values."""
    have, want = call.shape(x)[2:], call.out[2:]
    factors = tuple(w // h for h, w in zip(have, want, strict=True))
    fits = all(h * f == w for h, f, w in zip(have, factors, want, strict=True))
    if not mode.startswith("nearest") or not fits:
        raise UnsupportedError(
            f"by {mode} from {have} to {want}; only mode nearest by a whole factor"
        )
    if factors == (1, 1):
        return Draft("same", (tensor(call, x),), {})
    return Draft("upsample", (tensor(call, x),), {"factor": factors})


def reshape(call: Call, x: Any, *_: Any, **__: Any) -> Draft:
    """Flatten in every spelling; and flat values that become maps again."""
    have, out = call.shape(x), call.out
    count = 1
    for length in have[1:]:
        count *= length
    if out in (have, (have[0], count)):
        return Draft("same" if out == have else "flatten", (x,), {})
    # The same channels with or without axes of length 1: convert.py keeps them as maps.
    plain = have[:2] == out[:2] and all(n == 1 for n in (*have[2:], *out[2:]))
    if plain:
        return Draft("same", (x,), {})
    raise UnsupportedError(f"from {have[1:]} to {out[1:]}; only to a flat [features]")


# --- with weights ---------------------------------------------------------------------------------


def conv(call: Call, module: nn.Conv2d, x: Any) -> Draft:
    """A convolution."""
    if module.padding_mode != "zeros":
        raise UnsupportedError(f"with padding_mode {module.padding_mode}; only zeros")
    padding = module.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise UnsupportedError("with padding 'same' and an even kernel; use an odd one")
        padding = tuple(r // 2 for r in reach) if padding == "same" else (0, 0)
    options = {
        "inputs": module.in_channels,
        "outputs": module.out_channels,
        "kernel": _pair(module.kernel_size),
        "stride": _pair(module.stride),
        "padding": _pair(padding),
        "dilation": _pair(module.dilation),
        "groups": module.groups,
        "bias": module.bias is not None,
    }
    return Draft("conv", (tensor(call, x),), options, module)


def batch_norm(call: Call, module: nn.BatchNorm2d, x: Any) -> Draft:
    """BatchNorm of maps."""
    if module.running_mean is None:
        raise UnsupportedError("without running statistics; set track_running_stats=True")
    if module.momentum is None:
        raise UnsupportedError("with momentum None; give it a number")
    options = {
        "features": module.num_features,
        "eps": float(module.eps),
        "momentum": float(module.momentum),
    }
    return Draft("batch_norm", (tensor(call, x),), options, module)


def linear(call: Call, module: nn.Linear, x: Any) -> Draft:
    """A linear layer."""
    if len(call.shape(x)) != 2:
        raise UnsupportedError(f"on {call.shape(x)[1:]}; only on flat features")
    options = {
        "inputs": module.in_features,
        "outputs": module.out_features,
        "bias": module.bias is not None,
    }
    return Draft("linear", (tensor(call, x),), options, module)
