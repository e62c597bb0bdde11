"""Quantization-aware training, and what comes out of it.

This file, quantizers.py and conv_bn.py alone touch `torch.ao.quantization`, which torch has
announced it will remove: moving to its successor is a change of these three. A prepared network
computes with fake quantization from its first step; `reference_form` is the network that ships,
with BatchNorm folded and every number an integer, and every validation figure comes from it.

Source of the scheme: `qdr_edge.scheme`; of the integer semantics: docs/checkpoint.md.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.ao.nn.intrinsic as nni
import torch.ao.nn.intrinsic.qat as nniqat
import torch.ao.nn.qat as nnqat
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao import quantization

from qdr_edge.errors import CheckpointError
from qdr_edge.graph import Graph
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT, QuantScheme
from qdr_train.models.blocks import Classifier, Elementwise, Input, Normalize
from qdr_train.quant import conv_bn
from qdr_train.quant.exclude import float_layers
from qdr_train.quant.folded import (
    ExactElementwise,
    FoldedConv2d,
    FoldedLayer,
    FoldedNormalize,
    Requantize,
    WeightQuantization,
)
from qdr_train.quant.network import Network, accumulator_bounds, trace
from qdr_train.quant.quantizers import (
    SMALLEST_SCALE,
    FakeQuantizeInput,
    activation_quantizer,
    output_scale,
    output_zero_point,
    weight_quantizer,
)
from qdr_train.recipe.parts import Quantization

tq: Any = quantization  # most of it carries no types

_QAT_LAYERS = (
    nniqat.ConvBn2d,
    nniqat.ConvBnReLU2d,
    nniqat.ConvReLU2d,
    nniqat.LinearReLU,
    nnqat.Conv2d,
    nnqat.Linear,
)
_BN_LAYERS = (nniqat.ConvBn2d, nniqat.ConvBnReLU2d)
_RELU_LAYERS = (
    nniqat.ConvBnReLU2d,
    nniqat.ConvReLU2d,
    nniqat.LinearReLU,
    nni.ConvReLU2d,
    nni.LinearReLU,
)

_CAPPED = "relu6"  # set on a layer whose fused ReLU is a ReLU6


def prepare_qat(
    model: nn.Module, scheme: QuantScheme, settings: Quantization | None = None
) -> Classifier:
    """A copy of a float network that trains with fake quantization.

    Args:
        model: A network of `qdr_train.models`, freshly made or trained in float.
        scheme: The numeric policy to train under.
        settings: Observed or learned scales, layers in float; None for observed and none.

    Returns:
        The prepared network in training mode: all observers on, BatchNorm live. Learned scales
        are observed in passes without gradients, until the first pass with them.

    Raises:
        RecipeError: A glob of `settings.exclude` matches no layer, or scales cannot be learned
            under this scheme.
    """
    settings = settings or Quantization()
    activation = activation_quantizer(scheme, learned=settings.scales == "learned")
    weight = weight_quantizer(scheme)
    in_float = float_layers(model, settings)
    prepared = cast(Any, copy.deepcopy(model).train())
    _lift_zero_gammas(prepared)
    with _deprecation_known():
        prepared, capped = _fused(prepared, tq.fuse_modules_qat)
        prepared.qconfig = tq.QConfig(activation=activation, weight=weight)
        for module in prepared.modules():
            if isinstance(module, nn.Dropout):  # torch.ao would quantize what it leaves
                cast(Any, module).qconfig = None
        # Logits stay float: a decision threshold must not sit on an int8 grid.
        prepared.head.qconfig = tq.QConfig(activation=nn.Identity, weight=weight)
        mapping = {**tq.get_default_qat_module_mappings(), **conv_bn.CLASSES}
        prepared = tq.prepare_qat(prepared, mapping=mapping)
        for module in prepared.modules():
            # torch.ao leaves pooling and our own modules alone, and their consumers would be float.
            if isinstance(module, Input):
                module.output_quantizer = FakeQuantizeInput()
            elif isinstance(module, Elementwise):
                module.output_quantizer = activation()
        for name in capped:
            _cap(prepared.get_submodule(name))
        for name in in_float:
            # It reads and writes int8 like any other layer; only its arithmetic is float.
            prepared.get_submodule(name).weight_fake_quant = nn.Identity()
    prepared.scheme = scheme
    return cast(Classifier, prepared)


def set_phase(
    model: nn.Module, *, observers: bool, bn_frozen: bool, fake_quant: bool = True
) -> None:
    """Set what a prepared network adapts. Training mode is the caller's, by `train` and `eval`.

    Args:
        model: A prepared network.
        observers: Scales follow the data, or are learned; off near the end and in every evaluation.
        bn_frozen: BatchNorm uses its running statistics, so that folding it changes nothing.
        fake_quant: Off evaluates the same weights in float.
    """
    with _deprecation_known():
        model.apply(tq.enable_observer if observers else tq.disable_observer)
        model.apply(tq.enable_fake_quant if fake_quant else tq.disable_fake_quant)
    for module in model.modules():
        if isinstance(module, _BN_LAYERS):
            layer = cast(Any, module)
            layer.freeze_bn_stats() if bn_frozen else layer.update_bn_stats()


def is_prepared(model: nn.Module) -> bool:
    """Whether a network came from `prepare_qat`."""
    return isinstance(getattr(model, "scheme", None), QuantScheme)


def reference_form(prepared: nn.Module) -> nn.Module:
    """What ships, in torch: BatchNorm folded, weights and bias integers, exact sums.

    Args:
        prepared: A network from `prepare_qat` that has seen data; it is left as it is.

    Returns:
        A network in eval mode with the interface of a Classifier.

    Raises:
        CheckpointError: A scale was never observed, or a sum would not fit int32.
    """
    folded, network = _folded(prepared, quantized=True)
    scales = {node.name: node.scale for node in network.graph.nodes}
    for node in network.graph.nodes:
        if node.name in network.layers:
            network.layers[node.name].connect(scales.get(node.inputs[0]) or INPUT_SCALE)
    return folded


def float_form(model: nn.Module) -> nn.Module:
    """The same weights with BatchNorm folded and no quantization, in eval mode."""
    return _folded(model, quantized=False)[0]


def to_network(model: nn.Module) -> tuple[Graph, Mapping[str, NDArray[np.float32]]]:
    """The graph and tensors of a checkpoint.

    Args:
        model: A prepared network (gives a quantized graph) or a float one (no scales).

    Raises:
        CheckpointError: A scale was never observed, or a sum would not fit int32.
    """
    network = _folded(model, quantized=is_prepared(model))[1]
    return network.graph, network.tensors


def _folded(model: nn.Module, *, quantized: bool) -> tuple[nn.Module, Network]:
    with _deprecation_known(), torch.no_grad():
        folded = copy.deepcopy(model).eval()
        if not is_prepared(model):
            folded, capped = _fused(folded, tq.fuse_modules)
            for name in capped:
                _cap(folded.get_submodule(name))
        scheme = cast(Any, model).scheme if quantized else None
        _replace_children(folded, scheme, prefix="")
        folded = folded.eval()
    network = trace(folded)
    if scheme is not None:
        accumulator_bounds(network.graph, network.tensors, scheme)
    return folded, network


def _replace_children(parent: nn.Module, scheme: QuantScheme | None, prefix: str) -> None:
    for name, child in list(parent.named_children()):
        where = f"{prefix}{name}"
        if isinstance(child, (*_QAT_LAYERS, nni.ConvReLU2d, nni.LinearReLU, nn.Conv2d, nn.Linear)):
            setattr(parent, name, _fold_layer(child, scheme, where))
        elif isinstance(child, Normalize):
            grid = _requantize(child.output_quantizer, scheme, where) if scheme else None
            parts = child.get_buffer("weight"), child.get_buffer("bias")
            setattr(parent, name, FoldedNormalize(*parts, requantize=grid))
        elif isinstance(child, Elementwise):
            if scheme is None:
                child.output_quantizer = nn.Identity()
                continue
            grid = _requantize(child.output_quantizer, scheme, where)
            if grid is None:
                raise CheckpointError("output is not quantized", where=where)
            exact = ExactElementwise(child.op, relu=child.relu, requantize=grid, attrs=child.attrs)
            setattr(parent, name, exact)
        else:
            _replace_children(child, scheme, f"{where}.")


def _fold_layer(layer: nn.Module, scheme: QuantScheme | None, where: str) -> FoldedLayer:
    inner: Any = layer[0] if isinstance(layer, (nni.ConvReLU2d, nni.LinearReLU)) else layer
    trained: Any = layer
    weight = inner.weight.detach().clone()
    bias = weight.new_zeros(len(weight)) if inner.bias is None else inner.bias.detach().clone()
    if isinstance(layer, _BN_LAYERS):
        # The same operations in the same order as in training, or a weight on the border between
        # two codes could change sides.
        bn = trained.bn
        factor = (bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach()
        weight = weight * factor.reshape(-1, 1, 1, 1)
        bias = ((bias.to(factor) - bn.running_mean) * factor + bn.bias).detach()
    options: dict[str, Any] = {
        "activation": "",
        "quantization": None,
        "requantize": None,
    }
    if isinstance(layer, _RELU_LAYERS):
        options["activation"] = "relu6" if hasattr(layer, _CAPPED) else "relu"
    if scheme is not None:
        if not isinstance(trained.weight_fake_quant, nn.Identity):
            scale = trained.weight_fake_quant.scale.detach().clone()
            if scale.shape != (len(weight),):
                raise _never_observed(where)
            options["quantization"] = WeightQuantization(scale.to(torch.float32), scheme)
        options["requantize"] = _requantize(trained.activation_post_process, scheme, where)
    if not isinstance(inner, nn.Conv2d):
        return FoldedLayer(weight, bias, **options)
    return FoldedConv2d(
        weight,
        bias,
        stride=cast(tuple[int, int], inner.stride),
        padding=cast(tuple[int, int], inner.padding),
        dilation=cast(tuple[int, int], inner.dilation),
        groups=inner.groups,
        **options,
    )


def _requantize(quantizer: nn.Module, scheme: QuantScheme, where: str) -> Requantize | None:
    """The grid a fake quantizer has learnt; None where the output is float."""
    if isinstance(quantizer, nn.Identity):
        return None
    if isinstance(quantizer, FakeQuantizeInput):
        return Requantize(INPUT_SCALE, scheme, INPUT_ZERO_POINT if scheme.unsigned else 0)
    scale = output_scale(quantizer)
    if scale is None:
        raise _never_observed(where)
    return Requantize(scale, scheme, output_zero_point(quantizer))


def _lift_zero_gammas(model: nn.Module) -> None:
    """torch.ao divides by every BatchNorm weight, and 0/0 would poison the whole network."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[module.weight == 0] = SMALLEST_SCALE


def _never_observed(where: str) -> CheckpointError:
    return CheckpointError(
        "no data passed here, so it has no scale",
        where=where,
        expected="a prepared network that ran with observers on",
        fix="train at least one step",
    )


def _fused(model: nn.Module, fuse: Callable[..., nn.Module]) -> tuple[Any, list[str]]:
    """A model with its groups fused, and the names of layers that end in ReLU6.

    torch.ao fuses ReLU alone: ReLU6 goes in as one, and is capped afterwards.
    """
    groups = list(_fusion_groups(model))
    capped = []
    for group in groups:
        if isinstance(model.get_submodule(group[-1]), nn.ReLU6):
            relu = nn.ReLU().train(model.get_submodule(group[0]).training)
            model.set_submodule(group[-1], relu)
            capped.append(group[0])
    return fuse(model, groups) if groups else model, capped


def _cap(layer: nn.Module) -> None:
    """Make a layer's ReLU a ReLU6, before its output is quantized."""
    setattr(layer, _CAPPED, True)
    layer.register_forward_hook(_at_most_six, prepend=True)


def _at_most_six(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.clamp(max=6.0)


def _fusion_groups(model: nn.Module) -> Iterator[list[str]]:
    """Names of conv, BatchNorm and ReLU modules that become one operator."""
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        declared = getattr(module, "fuse", ())
        # A layer of a user's network may be called fuse.
        for group in declared if isinstance(declared, tuple) else ():
            yield [f"{dot}{name}" for name in group]
        if not isinstance(module, nn.Sequential):
            continue
        group = []
        for name, child in module.named_children():
            starts = isinstance(child, nn.Conv2d)
            continues = bool(group) and isinstance(child, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6))
            if not continues:
                if len(group) > 1:
                    yield group
                group = []
            if starts or continues:
                group.append(f"{dot}{name}")
        if len(group) > 1:
            yield group


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """Silence the one warning this file is the answer to."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"torch\.ao\.quantization is deprecated", category=DeprecationWarning
        )
        yield
