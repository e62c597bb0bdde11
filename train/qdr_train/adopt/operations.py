"""Which torch operation follows which rule: modules, functions and methods that do the same."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qdr_train.adopt.rules import (
    Call,
    Draft,
    Rule,
    UnsupportedError,
    activation,
    adaptive,
    add,
    avg_pool,
    batch_norm,
    clamp,
    concat,
    conv,
    dropout,
    hardtanh,
    interpolate,
    linear,
    max_pool,
    mean,
    mul,
    reshape,
    same,
    tensor,
)
from qdr_train.adopt.trace import Traced

SUPPORTED = (
    "convolution (grouped, depthwise), BatchNorm2d, linear, +, *, cat over channels, max, average "
    "and adaptive pooling, mean over height and width, nearest upsampling by whole factors, "
    "flatten, dropout, ReLU, ReLU6, Hardswish, Hardsigmoid, Sigmoid, SiLU"
)


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
        return same(call, args[0])
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


def _plain(op: str) -> Rule:
    return lambda call, _module, x: Draft(op, (tensor(call, x),), {})


def _with(rule: Rule, *names: str) -> Rule:
    """A rule for a module that calls a function with its own attributes."""
    return lambda call, module, x: rule(call, x, **{n: getattr(module, n) for n in names})


_POOL = ("kernel_size", "stride", "padding", "ceil_mode")
_UPSAMPLE = _with(interpolate, "mode")

MODULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv2d: conv,
    nn.BatchNorm2d: batch_norm,
    nn.Linear: linear,
    nn.ReLU: _plain("relu"),
    nn.ReLU6: _plain("relu6"),
    nn.Hardtanh: _with(hardtanh, "min_val", "max_val"),
    nn.Hardswish: _plain("hardswish"),
    nn.Hardsigmoid: _plain("hardsigmoid"),
    nn.Sigmoid: _plain("sigmoid"),
    nn.SiLU: _plain("silu"),
    nn.Identity: _with(same),
    nn.Dropout: _with(dropout, "p"),
    nn.Dropout2d: _with(dropout, "p"),
    nn.MaxPool2d: _with(max_pool, *_POOL, "dilation", "return_indices"),
    nn.AvgPool2d: _with(avg_pool, *_POOL, "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: _with(adaptive("avg_pool"), "output_size"),
    nn.AdaptiveMaxPool2d: _with(adaptive("max_pool"), "output_size", "return_indices"),
    nn.Flatten: _with(reshape),
    nn.Upsample: _UPSAMPLE,
    nn.UpsamplingNearest2d: _UPSAMPLE,
}

FUNCTIONS: Mapping[Any, Rule] = {
    torch.relu: activation("relu"),
    torch.relu_: activation("relu"),
    F.relu: activation("relu"),
    F.relu_: activation("relu"),
    F.relu6: activation("relu6"),
    F.hardswish: activation("hardswish"),
    F.hardsigmoid: activation("hardsigmoid"),
    F.sigmoid: activation("sigmoid"),
    F.silu: activation("silu"),
    torch.sigmoid: activation("sigmoid"),
    torch.special.expit: activation("sigmoid"),
    F.hardtanh: hardtanh,
    torch.clamp: clamp,
    torch.clip: clamp,
    operator.add: add,
    operator.iadd: add,
    torch.add: add,
    operator.mul: mul,
    operator.imul: mul,
    torch.mul: mul,
    torch.multiply: mul,
    torch.cat: concat,
    torch.concat: concat,
    torch.concatenate: concat,
    torch.mean: mean,
    torch.flatten: reshape,
    torch.reshape: reshape,
    torch.squeeze: reshape,
    torch.unsqueeze: reshape,
    F.dropout: dropout,
    F.dropout2d: dropout,
    F.max_pool2d: max_pool,
    torch.max_pool2d: max_pool,
    F.avg_pool2d: avg_pool,
    F.adaptive_avg_pool2d: adaptive("avg_pool"),
    F.adaptive_max_pool2d: adaptive("max_pool"),
    F.interpolate: interpolate,
}

METHODS: Mapping[Any, Rule] = {
    "relu": activation("relu"),
    "relu_": activation("relu"),
    "sigmoid": activation("sigmoid"),
    "sigmoid_": activation("sigmoid"),
    "clamp": clamp,
    "clamp_": clamp,
    "clip": clamp,
    "add": add,
    "add_": add,
    "mul": mul,
    "mul_": mul,
    "multiply": mul,
    "mean": mean,
    "flatten": reshape,
    "view": reshape,
    "reshape": reshape,
    "squeeze": reshape,
    "unsqueeze": reshape,
    "contiguous": same,
    "clone": same,
    "float": same,
    # A factor for each channel is broadcast by the product itself.
    "expand_as": same,
}
