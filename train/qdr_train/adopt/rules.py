"""What each torch operation becomes, or why it cannot be quantized.

A rule takes an operation's arguments as its author wrote them and gives a Draft, or says why there
is none. Modules, functions and methods that do the same share a rule.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qdr_train.adopt.trace import Traced
from qdr_train.recipe.schema import STRIDE

SUPPORTED = (
    "convolution (grouped, depthwise), BatchNorm2d, linear, +, *, cat over channels, max, average "
    "and adaptive pooling, mean over height and width, nearest upsampling by whole factors, "
    "flatten, dropout, ReLU, ReLU6, Hardswish, Hardsigmoid, Sigmoid, SiLU"
)


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

# Functions that torch.fx takes for one operation, and that leave an image alone in evaluation.
_ONLY_IN_TRAINING = ("stochastic_depth", "drop_path", "drop_block2d")


def draft_of(node: fx.Node, traced: Traced) -> Draft:
    """What an operation becomes.

    Raises:
        UnsupportedError: It is not supported.
    """
    call = Call(node, traced)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _value(n, traced))
    if node.op == "call_module":
        module = traced.model.get_submodule(str(node.target))
        rule = MODULES.get(type(module))
        if rule is None:
            raise UnsupportedError("")
        return rule(call, module, *args, **kwargs)
    if getattr(node.target, "__name__", "") in _ONLY_IN_TRAINING:
        return _same(call, args[0])
    table: Mapping[Any, Rule] = METHODS if node.op == "call_method" else FUNCTIONS
    found = table.get(node.target)
    if found is None:
        raise UnsupportedError("")
    try:
        return found(call, *args, **kwargs)
    except TypeError as error:
        raise UnsupportedError(f"called in a way that is not known here ({error})") from error


def _value(node: fx.Node, traced: Traced) -> Any:
    return node if traced.shape(node) is not None else traced.values[node]


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = (int(v) for v in value)
    return first, (rest[0] if rest else first)


# --- without weights ------------------------------------------------------------------------------


def _activation(op: str) -> Rule:
    def rule(call: Call, x: Any, inplace: bool = False) -> Draft:
        return Draft(op, (_tensor(call, x),), {})

    return rule


def _tensor(call: Call, x: Any) -> fx.Node:
    call.shape(x)
    node: fx.Node = x
    return node


def _same(call: Call, x: Any, *_: Any, **__: Any) -> Draft:
    return Draft("same", (_tensor(call, x),), {})


def _hardtanh(
    call: Call, x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Draft:
    return _clamp(call, x, min_val, max_val)


def _clamp(call: Call, x: Any, min: Any = None, max: Any = None) -> Draft:
    limits = {(0, None): "relu", (0, 6): "relu6"}
    if (min, max) not in limits:
        raise UnsupportedError(f"to {min}..{max}; only to 0..6 (ReLU6), or from 0 on (ReLU)")
    return Draft(limits[min, max], (_tensor(call, x),), {})


def _add(call: Call, a: Any, b: Any, alpha: float = 1) -> Draft:
    if alpha != 1:
        raise UnsupportedError("with alpha; scale one side's convolution instead")
    if call.shape(a) != call.shape(b):
        raise UnsupportedError(
            f"of shapes {call.shape(a)[1:]} and {call.shape(b)[1:]}; only of equal ones"
        )
    return Draft("add", (a, b), {})


def _mul(call: Call, a: Any, b: Any) -> Draft:
    shapes = [call.shape(a), call.shape(b)]
    if shapes[0] != shapes[1] and shapes[0][2:] == (1, 1):
        a, b, shapes = b, a, shapes[::-1]
    if shapes[0] != shapes[1] and (shapes[1][2:] != (1, 1) or shapes[0][:2] != shapes[1][:2]):
        raise UnsupportedError(
            f"of shapes {shapes[0][1:]} and {shapes[1][1:]}; only of equal ones, or by a factor "
            "for each channel [C, 1, 1]"
        )
    return Draft("mul", (a, b), {})


def _concat(call: Call, tensors: Any, dim: int = 0, axis: int | None = None) -> Draft:
    dim = dim if axis is None else axis
    rank = len(call.out)
    if dim % rank != 1:
        raise UnsupportedError(f"over axis {dim}; only over the channels, axis 1")
    inputs = tuple(_tensor(call, x) for x in tensors)
    if len(inputs) == 1:
        return Draft("same", inputs, {})
    return Draft("concat", inputs, {})


def _dropout(
    call: Call, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Draft:
    return Draft("dropout", (_tensor(call, x),), {"share": float(p)})


def _max_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Draft:
    if _pair(dilation) != (1, 1) or return_indices:
        raise UnsupportedError("with dilation or indices; without them")
    options = _window(call, x, kernel_size, stride, padding, ceil_mode)
    return Draft("max_pool", (_tensor(call, x),), options)


def _avg_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Draft:
    if divisor_override is not None:
        raise UnsupportedError("with divisor_override; without it")
    options = _window(call, x, kernel_size, stride, padding, ceil_mode)
    if options["kernel"] == call.shape(x)[2:] and options["padding"] == (0, 0):
        return Draft("global_avg_pool", (_tensor(call, x),), {})
    options["count_include_pad"] = bool(count_include_pad)
    return Draft("avg_pool", (_tensor(call, x),), options)


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


def _adaptive(op: str) -> Rule:
    def rule(call: Call, x: Any, output_size: Any, return_indices: bool = False) -> Draft:
        have, want = call.shape(x)[2:], call.out[2:]
        if want == (1, 1) and op == "avg_pool":
            return Draft("global_avg_pool", (_tensor(call, x),), {})
        if want == have:
            return Draft("same", (_tensor(call, x),), {})
        if any(h % w for h, w in zip(have, want, strict=True)):
            down = max(call.traced.image // have[0], 1)
            unit = math.lcm(*want) * down
            sizes = [unit * n for n in range(1, 65) if unit * n % STRIDE == 0]
            near = sorted(sizes, key=lambda s: abs(s - call.traced.image))[:2]
            raise UnsupportedError(
                f"from {have[0]} × {have[1]} to {want[0]} × {want[1]}, which windows of one size "
                "do not tile; use a size whose maps are a multiple, e.g. --size "
                f"{' or '.join(map(str, sorted(near)))}, or pool to 1 × 1"
            )
        kernel = have[0] // want[0], have[1] // want[1]
        options: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": (0, 0)}
        if op == "avg_pool":
            options["count_include_pad"] = True
        return Draft(op, (_tensor(call, x),), options)

    return rule


def _mean(call: Call, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Draft:
    shape = call.shape(x)
    dims = {d % 4 for d in (dim if isinstance(dim, (tuple, list)) else [dim]) if d is not None}
    if len(shape) != 4 or dims != {2, 3}:
        raise UnsupportedError("over other axes than height and width; write x.mean((2, 3))")
    return Draft("global_avg_pool", (x,), {})


def _interpolate(
    call: Call,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Draft:
    have, want = call.shape(x)[2:], call.out[2:]
    factors = tuple(w // h for h, w in zip(have, want, strict=True))
    fits = all(h * f == w for h, f, w in zip(have, factors, want, strict=True))
    if not mode.startswith("nearest") or not fits:
        raise UnsupportedError(
            f"by {mode} from {have} to {want}; only mode nearest by a whole factor"
        )
    if factors == (1, 1):
        return Draft("same", (_tensor(call, x),), {})
    return Draft("upsample", (_tensor(call, x),), {"factor": factors})


def _reshape(call: Call, x: Any, *_: Any, **__: Any) -> Draft:
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


def _conv(call: Call, module: nn.Conv2d, x: Any) -> Draft:
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
    return Draft("conv", (_tensor(call, x),), options, module)


def _batch_norm(call: Call, module: nn.BatchNorm2d, x: Any) -> Draft:
    if module.running_mean is None:
        raise UnsupportedError("without running statistics; set track_running_stats=True")
    if module.momentum is None:
        raise UnsupportedError("with momentum None; give it a number")
    options = {
        "features": module.num_features,
        "eps": float(module.eps),
        "momentum": float(module.momentum),
    }
    return Draft("batch_norm", (_tensor(call, x),), options, module)


def _linear(call: Call, module: nn.Linear, x: Any) -> Draft:
    if len(call.shape(x)) != 2:
        raise UnsupportedError(f"on {call.shape(x)[1:]}; only on flat features")
    options = {
        "inputs": module.in_features,
        "outputs": module.out_features,
        "bias": module.bias is not None,
    }
    return Draft("linear", (_tensor(call, x),), options, module)


def _plain(op: str) -> Rule:
    return lambda call, _module, x: Draft(op, (_tensor(call, x),), {})


def _with(rule: Rule, *names: str) -> Rule:
    """A rule for a module that calls a function with its own attributes."""
    return lambda call, module, x: rule(call, x, **{n: getattr(module, n) for n in names})


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
_UPSAMPLE = _with(_interpolate, "mode")

MODULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.ReLU: _plain("relu"),
    nn.ReLU6: _plain("relu6"),
    nn.Hardtanh: _with(_hardtanh, "min_val", "max_val"),
    nn.Hardswish: _plain("hardswish"),
    nn.Hardsigmoid: _plain("hardsigmoid"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.SiLU: _plain("silu"),
    nn.Identity: _with(_same),
    nn.Dropout: _with(_dropout, "p"),
    nn.Dropout2d: _with(_dropout, "p"),
    nn.MaxPool2d: _with(_max_pool, *_POOL, "dilation", "return_indices"),
    nn.AvgPool2d: _with(_avg_pool, *_POOL, "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: _with(_adaptive("avg_pool"), "output_size"),
    nn.AdaptiveMaxPool2d: _with(_adaptive("max_pool"), "output_size", "return_indices"),
    nn.Flatten: _with(_reshape),
    nn.Upsample: _UPSAMPLE,
    nn.UpsamplingNearest2d: _UPSAMPLE,
}

FUNCTIONS: Mapping[Any, Rule] = {
    torch.relu: _activation("relu"),
    torch.relu_: _activation("relu"),
    F.relu: _activation("relu"),
    F.relu_: _activation("relu"),
    F.relu6: _activation("relu6"),
    F.hardswish: _activation("hardswish"),
    F.hardsigmoid: _activation("hardsigmoid"),
    F.sigmoid: _activation("sigmoid"),
    F.silu: _activation("silu"),
    torch.sigmoid: _activation("sigmoid"),
    torch.special.expit: _activation("sigmoid"),
    F.hardtanh: _hardtanh,
    torch.clamp: _clamp,
    torch.clip: _clamp,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    operator.mul: _mul,
    operator.imul: _mul,
    torch.mul: _mul,
    torch.multiply: _mul,
    torch.cat: _concat,
    torch.concat: _concat,
    torch.concatenate: _concat,
    torch.mean: _mean,
    torch.flatten: _reshape,
    torch.reshape: _reshape,
    torch.squeeze: _reshape,
    torch.unsqueeze: _reshape,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive("avg_pool"),
    F.adaptive_max_pool2d: _adaptive("max_pool"),
    F.interpolate: _interpolate,
}

METHODS: Mapping[Any, Rule] = {
    "relu": _activation("relu"),
    "relu_": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "sigmoid_": _activation("sigmoid"),
    "clamp": _clamp,
    "clamp_": _clamp,
    "clip": _clamp,
    "add": _add,
    "add_": _add,
    "mul": _mul,
    "mul_": _mul,
    "multiply": _mul,
    "mean": _mean,
    "flatten": _reshape,
    "view": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "contiguous": _same,
    "clone": _same,
    "float": _same,
    # A factor for each channel is broadcast by the product itself.
    "expand_as": _same,
}
