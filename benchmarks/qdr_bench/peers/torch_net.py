"""A float twin as a torch network: its ONNX file, node by node, with torch's own modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from qdr_edge.errors import BackendError

Step = tuple[str, str, tuple[str, ...], str, dict[str, Any]]
"""Operator, key of its module if it has one, what it reads, what it makes, its attributes."""


class TwinNetwork(nn.Module):
    """uint8 pixels [N, 3, S, S] → logits [N, K], as the ONNX file says.

    Convolutions, linear layers, ReLUs and sums are modules: what torch offers for modules – memory
    formats, compilation, eager quantization – applies to them as to a network written by hand.

    Args:
        model: The float twin: what `qdr-edge export` writes beside a bundle.

    Raises:
        BackendError: It has an operator that no float twin has.
    """

    def __init__(self, model: ModelProto) -> None:
        super().__init__()
        self.constants = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
        self.steps: list[Step] = []
        self.layers = nn.ModuleDict()
        for number, node in enumerate(model.graph.node):
            settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            key = f"n{number}"
            module = self._module(node, settings)
            if module is not None:
                self.layers[key] = module
            self.steps.append((node.op_type, key, tuple(node.input), node.output[0], settings))
        self.input = model.graph.input[0].name
        self.output = model.graph.output[0].name
        # What a module holds is not kept again: a peer's memory must be its own.
        read = {
            name for _, key, names, *_ in self.steps if key not in self.layers for name in names
        }
        self.constants = {name: self.constants[name] for name in read & self.constants.keys()}
        for name, array in self.constants.items():
            if array.dtype == np.float32:
                self.register_buffer(f"c_{self._safe(name)}", torch.from_numpy(array))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self.follow(self.steps, {self.input: pixels})[self.output]

    def follow(self, steps: Iterable[Step], values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run some steps, in their order; `values` gets what they compute."""
        for op, key, inputs, output, settings in steps:
            values[output] = self._run(op, key, inputs, settings, values)
        return values

    def _run(
        self,
        op: str,
        key: str,
        inputs: tuple[str, ...],
        settings: dict[str, Any],
        values: dict[str, Tensor],
    ) -> Tensor:
        if key in self.layers:
            read = [values[name] for name in inputs if name in values]
            result: Tensor = self.layers[key](*read)
            return result
        x = self._value(inputs[0], values)
        match op:
            case "Cast":
                return x.to(self._dtype())
            case "Sub":
                return x - self._value(inputs[1], values)
            case "Mul":
                return x * self._value(inputs[1], values)
            case "Concat":
                return torch.cat([self._value(name, values) for name in inputs], settings["axis"])
            case "Clip":
                low, high = (float(self.constants[name]) for name in inputs[1:3])
                return torch.clamp(x, low, high)
            case "Sigmoid":
                return torch.sigmoid(x)
            case "HardSigmoid":
                return torch.clamp(x / 6 + 0.5, 0, 1)
            case "HardSwish":
                return F.hardswish(x)
            case "ReduceMean":
                return x.mean((2, 3), keepdim=bool(settings.get("keepdims", 1)))
            case "Flatten":
                return x.flatten(1)
            case "Resize":
                rows, columns = (int(f) for f in self.constants[inputs[2]][2:])
                return x.repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3)
        raise _unknown(op)

    def _module(self, node: NodeProto, settings: dict[str, Any]) -> nn.Module | None:
        match node.op_type:
            case "Conv":
                return self._conv(node, settings)
            case "Gemm":
                return self._linear(node, settings)
            case "Relu":
                return nn.ReLU()
            case "Add" if all(name not in self.constants for name in node.input):
                return Sum()
            case "Add":
                return Shift(torch.from_numpy(self.constants[node.input[1]]))
            case "MaxPool":
                return nn.MaxPool2d(*_window(settings))
            case "AveragePool":
                counted = bool(settings.get("count_include_pad", 0))
                return nn.AvgPool2d(*_window(settings), count_include_pad=counted)
            case "GlobalAveragePool":
                return nn.AdaptiveAvgPool2d(1)
        return None

    def _conv(self, node: NodeProto, settings: dict[str, Any]) -> nn.Conv2d:
        weight = self.constants[node.input[1]]
        groups = int(settings.get("group", 1))
        pads = settings.get("pads", [0, 0, 0, 0])
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            tuple(settings.get("strides", (1, 1))),
            tuple(pads[:2]),
            tuple(settings.get("dilations", (1, 1))),
            groups,
            bias=len(node.input) > 2,
        )
        layer.weight.data = torch.from_numpy(weight)
        if layer.bias is not None:
            layer.bias.data = torch.from_numpy(self.constants[node.input[2]])
        return layer

    def _linear(self, node: NodeProto, settings: dict[str, Any]) -> nn.Linear:
        weight = self.constants[node.input[1]]
        weight = weight if settings.get("transB", 0) else weight.T
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight))
        layer.bias.data = torch.from_numpy(self.constants[node.input[2]])
        return layer

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        found: Tensor = getattr(self, f"c_{self._safe(name)}")
        return found

    def _dtype(self) -> torch.dtype:
        # A converted network has packed weights and no parameters left.
        return next((parameter.dtype for parameter in self.parameters()), torch.float32)

    @staticmethod
    def _safe(name: str) -> str:
        return "".join(character if character.isalnum() else "_" for character in name)


class Sum(nn.Module):
    """A residual sum that eager quantization can see."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b."""
        total: Tensor = self.sum.add(a, b)
        return total


class Shift(nn.Module):
    """A summand that is no activation."""

    def __init__(self, summand: Tensor) -> None:
        super().__init__()
        self.register_buffer("summand", summand)

    def forward(self, x: Tensor) -> Tensor:
        """x + summand."""
        summand: Tensor = self.summand  # type: ignore[assignment]
        return x + summand


def load_twin(content: bytes) -> TwinNetwork:
    """The network of a float twin, in eval mode.

    Raises:
        BackendError: It has an operator that no float twin has.
    """
    return TwinNetwork(onnx.load_model_from_string(content)).eval()


def _window(settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    kernel = tuple(settings["kernel_shape"])
    pads = settings.get("pads", [0, 0, 0, 0])
    return kernel, tuple(settings.get("strides", (1, 1))), tuple(pads[:2])


def _unknown(op: str) -> BackendError:
    return BackendError(
        f"operator {op} of the float twin is not known here",
        expected="a float twin that `qdr-edge export` wrote",
        fix="leave the torch peers out",
    )
