"""A folded torch network as the neutral graph of docs/checkpoint.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from qdr_edge.errors import CheckpointError
from qdr_edge.graph import INPUT, WEIGHTED, Graph, Node
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT, QuantScheme
from qdr_train.models.blocks import Elementwise
from qdr_train.quant.folded import (
    ExactElementwise,
    FoldedConv2d,
    FoldedLayer,
    FoldedNormalize,
    Requantize,
)

_PREFIX = "backbone."  # in every name of a Classifier; left out to keep artefacts small


@dataclass(frozen=True)
class Network:
    """A traced network.

    Args:
        graph: Its nodes.
        tensors: `NODE.weight`, `NODE.bias` and, if in int8, `NODE.weight_scale`, float32.
        layers: The torch module behind each conv and linear node.
    """

    graph: Graph
    tensors: Mapping[str, NDArray[np.float32]]
    layers: Mapping[str, FoldedLayer]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (FoldedLayer, FoldedNormalize, Elementwise, ExactElementwise))
        return ours or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> Network:
    """Trace a folded model's `forward`.

    Args:
        model: As `qdr_train.quant.qat` folds it: every conv and linear layer a FoldedLayer.

    Raises:
        CheckpointError: The model does something the graph has no operator for.
    """
    nodes: list[Node] = []
    layers: dict[str, FoldedLayer] = {}
    constants: dict[str, torch.Tensor] = {}
    names: dict[fx.Node, str] = {}
    requantizers = [module for module in model.modules() if isinstance(module, Requantize)]
    quantized = bool(requantizers)
    unsigned = any(module.qmin + module.zero_point == 0 for module in requantizers)
    grids: dict[str, tuple[float | None, int]] = {
        INPUT: (INPUT_SCALE, INPUT_ZERO_POINT if unsigned else 0)
    }
    for step in _Tracer().trace(model).nodes:
        if step.op == "placeholder":
            names[step] = INPUT
            continue
        if step.op == "output":
            if names.get(step.args[0]) != nodes[-1].name:
                raise CheckpointError("the last operator is not the output", where="network")
            continue
        where = f"network, step {step.name}"
        if step.op != "call_module" or step.kwargs:
            raise CheckpointError(
                f"{step.op} {step.target}", where=where, expected="modules only (models/blocks.py)"
            )
        module = model.get_submodule(step.target)
        inputs = tuple(names[argument] for argument in step.args)
        if isinstance(module, (nn.Identity, nn.Dropout)) or getattr(module, "op", "") == "input":
            names[step] = inputs[0]
            continue
        name = step.target.removeprefix(_PREFIX)
        op, attrs = _operator(module, where)
        scale, zero_point = _output_grid(module, grids[inputs[0]]) if quantized else (None, 0)
        in_float = quantized and isinstance(module, FoldedLayer) and module.quantization is None
        nodes.append(
            Node(name, op, inputs, attrs, _activation(module), scale, in_float, zero_point)
        )
        names[step], grids[name] = name, (scale, zero_point)
        if isinstance(module, FoldedLayer):
            layers[name] = module
        elif isinstance(module, FoldedNormalize):
            constants |= {f"{name}.{part}": module.get_buffer(part) for part in ("weight", "bias")}
    graph, tensors = Graph(tuple(nodes)), _tensors(layers, constants)
    graph.check(tensors, quantized=quantized)
    return Network(graph, tensors, layers)


def _operator(module: nn.Module, where: str) -> tuple[str, dict[str, int | tuple[int, int]]]:
    """Operator and attributes of a leaf module."""
    if isinstance(module, FoldedConv2d):
        return "conv", {
            "stride": module.stride,
            "padding": module.padding,
            "dilation": module.dilation,
            "groups": module.groups,
        }
    if isinstance(module, (Elementwise, ExactElementwise)):
        return module.op, dict(module.attrs)
    if isinstance(module, (FoldedLayer, FoldedNormalize)):
        return module.op, {}
    if isinstance(module, nn.MaxPool2d) and module.dilation == 1 and not module.ceil_mode:
        return "max_pool", {
            "kernel": _pair(module.kernel_size),
            "stride": _pair(module.stride),
            "padding": _pair(module.padding),
        }
    if isinstance(module, nn.Upsample) and module.mode == "nearest":
        return "upsample", {"factor": _one_or_pair(module.scale_factor)}
    if isinstance(module, nn.Flatten) and module.start_dim == 1:
        return "flatten", {}
    if isinstance(module, nn.ReLU):
        return "relu", {}
    raise CheckpointError(
        f"no operator for {module}", where=where, expected="see qdr_edge/graph.py"
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _one_or_pair(value: Any) -> int | tuple[int, int]:
    pair = _pair(value)
    return pair[0] if pair[0] == pair[1] else pair


def _activation(module: nn.Module) -> str:
    if isinstance(module, FoldedLayer):
        return module.activation
    return "relu" if getattr(module, "relu", False) else ""


def _output_grid(
    module: nn.Module, input_grid: tuple[float | None, int]
) -> tuple[float | None, int]:
    """Scale and zero point of a module's output."""
    if isinstance(module, (nn.MaxPool2d, nn.Upsample, nn.Flatten, nn.ReLU)):
        return input_grid
    quantizer = getattr(module, "output_quantizer", None)
    if isinstance(quantizer, Requantize):
        return quantizer.scale, quantizer.zero_point
    return None, 0


def _tensors(
    layers: Mapping[str, FoldedLayer], constants: Mapping[str, torch.Tensor]
) -> dict[str, NDArray[np.float32]]:
    def array(tensor: torch.Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)

    tensors = {name: array(value) for name, value in constants.items()}
    for name, layer in layers.items():
        tensors[f"{name}.weight"] = array(layer.weight)
        tensors[f"{name}.bias"] = array(layer.bias)
        if layer.quantization is not None:
            tensors[f"{name}.weight_scale"] = array(layer.quantization.scale)
    return tensors


def accumulator_bounds(
    graph: Graph, tensors: Mapping[str, NDArray[np.float32]], scheme: QuantScheme
) -> dict[str, int]:
    """The largest magnitude any partial sum of integers can reach, per int8 node, for any image.

    Below 2**24 float32 arithmetic on the codes is exact; int32 needs it below 2**31.

    Raises:
        CheckpointError: A bound does not fit int32.
    """
    scales: dict[str, float | None] = {INPUT: INPUT_SCALE}
    largest_code = max(-scheme.activation_qmin, scheme.activation_qmax)
    bounds = {}
    for node in graph.nodes:
        scales[node.name] = node.scale
        if node.op not in WEIGHTED or node.in_float:
            continue
        weight = (
            tensors[f"{node.name}.weight"]
            .astype(np.float64)
            .reshape(len(tensors[f"{node.name}.weight"]), -1)
        )
        scale = tensors[f"{node.name}.weight_scale"].astype(np.float64)
        codes = np.clip(np.rint(weight / scale[:, None]), -scheme.weight_qmax, scheme.weight_qmax)
        bias = np.rint(tensors[f"{node.name}.bias"] / (scale * (scales[node.inputs[0]] or 1.0)))
        bounds[node.name] = int((np.abs(codes).sum(1) * largest_code + np.abs(bias)).max())
        if bounds[node.name] >= 2**31:
            raise CheckpointError(
                f"a sum can reach {bounds[node.name]}",
                where=f"node {node.name}",
                expected="below 2**31, what an int32 accumulator holds",
                fix="train with weight decay or a lower learning rate",
            )
    return bounds


def max_accumulator(
    graph: Graph, tensors: Mapping[str, NDArray[np.float32]], scheme: QuantScheme
) -> int:
    """The largest of `accumulator_bounds`."""
    return max(accumulator_bounds(graph, tensors, scheme).values(), default=0)
