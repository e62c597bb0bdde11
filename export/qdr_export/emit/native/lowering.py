"""Canonical graph → steps. Each QuantizeLinear ends one step; what stands before it says which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from qdr_edge.errors import ExportError
from qdr_export.emit.native.constants import clamp_range, layer_of, logits_of, ungrouped
from qdr_export.emit.native.steps import Addition, Step, Steps, Tensor, Window
from qdr_export.graph.canonical import is_power_of_two
from qdr_export.graph.onnx_graph import GraphView, attributes, label
from qdr_export.reference import elementwise
from qdr_export.reference.values import Quantized, Value

_ACTIVATIONS = ("Relu", "Clip")
# Functions of one code, which become a table.
_FUNCTIONS = {
    "Add": elementwise.add,
    "Cast": elementwise.cast,
    "Clip": elementwise.clip,
    "HardSigmoid": elementwise.hardsigmoid,
    "HardSwish": elementwise.hardswish,
    "Mul": elementwise.mul,
    "QuantizeLinear": elementwise.quantize,
    "Relu": elementwise.relu,
    "Sigmoid": elementwise.sigmoid,
}
_PIXELS = "pixels as codes"
_CODES = np.arange(-128, 128).astype(np.int8)


def lower(canonical: bytes) -> Steps:
    """The steps of a canonical model, one for each of its quantized tensors.

    Raises:
        ExportError: It cannot be computed in integers.
    """
    return _Lowering(GraphView(canonical)).run()


class _Lowering:
    def __init__(self, view: GraphView) -> None:
        self._view = view
        shape = [d.dim_value for d in view.inputs[0].type.tensor_type.shape.dim]
        classes = view.outputs[0].type.tensor_type.shape.dim[1].dim_value
        self._input = view.inputs[0].name
        self._steps = Steps(side=shape[-1], classes=classes)
        # Real tensors of the graph that are codes of a step's tensor: name → name of the codes.
        self._codes: dict[str, str] = {}

    def run(self) -> Steps:
        for node in self._view.nodes:
            if node.op_type == "DequantizeLinear":
                self._dequantize(node)
            elif node.op_type == "Flatten" and node.input[0] in self._codes:
                self._codes[node.output[0]] = self._codes[node.input[0]]
            elif node.op_type == "QuantizeLinear":
                self._quantize(node)
            elif node.op_type in ("Gemm", "Conv") and node.output[0] == self._output:
                self._logits(node)
        if not self._steps.steps or self._steps.steps[-1].kind != "logits":
            raise ExportError(
                "the logits are not those of a dense int8 layer on one position",
                where=self._output,
                expected="global pooling, then a linear layer, as the last two",
            )
        return self._steps

    @property
    def _output(self) -> str:
        return str(self._view.outputs[0].name)

    def _dequantize(self, node: NodeProto) -> None:
        source = node.input[0]
        if source == self._input:
            exponent = self._exponent(node)
            if int(self._view.zero_point(node)) != 128:
                raise self._unfit(node, "pixels are not centred on 128")
            self._add(self._pixels(exponent, unsigned=False), Step("input"))
            self._codes[node.output[0]] = _PIXELS
        elif source not in self._view.constants:
            self._codes[node.output[0]] = self._codes.get(source, source)

    def _pixels(self, exponent: int, *, unsigned: bool, name: str = _PIXELS) -> Tensor:
        side = self._steps.side
        return Tensor(name, side, side, 3, exponent, unsigned)

    def _quantize(self, node: NodeProto) -> None:
        """A step that ends in this QuantizeLinear."""
        if np.any(self._view.zero_point(node)) or self._view.zero_point(node).dtype != np.int8:
            raise self._unfit(node, "activations are not int8 with zero point 0")
        exponent, maker = self._exponent(node), self._view.producer(node.input[0])
        name, low, high = node.output[0], -128, 127
        sources = self._sources(node)
        if sources == [self._input]:
            self._normalized(node, exponent)
            return
        if len(sources) == 1 and self._is_function(node):
            self._function(node, sources[0], exponent)
            return
        while maker is not None and maker.op_type in _ACTIVATIONS:
            floor, ceiling = clamp_range(self._view, maker, exponent)
            low, high = max(low, floor), min(high, ceiling)
            maker = self._view.producer(maker.input[0])
        if maker is None:
            raise self._unfit(node, "nothing that can be computed in integers makes it")
        make = {
            "Add": self._sum,
            "AveragePool": self._average,
            "Concat": self._concat,
            "Conv": self._conv,
            "GlobalAveragePool": self._average,
            "Gemm": self._conv,
            "MaxPool": self._max_pool,
            "Mul": self._product,
            "Flatten": self._alias,
            "Resize": self._upsample,
        }.get(maker.op_type)
        if make is None:
            raise self._unfit(maker, f"operator {maker.op_type} has no kernel")
        make(maker, name, exponent, low, high)

    def _sources(self, node: NodeProto) -> list[str]:
        """The codes, or the pixels, that a step's value is computed from."""
        found: list[str] = []
        waiting = [node.input[0]]
        while waiting:
            name = waiting.pop()
            if name in self._codes or name == self._input:
                found.append(self._codes.get(name, name))
                continue
            maker = self._view.producer(name)
            if maker is not None:
                waiting += [i for i in maker.input if i and i not in self._view.constants]
        return list(dict.fromkeys(found))

    def _is_function(self, node: NodeProto) -> bool:
        """Whether a value is a function of one code at its own place."""
        waiting = [node.input[0]]
        while waiting:
            name = waiting.pop()
            maker = self._view.producer(name)
            if name in self._codes or maker is None:
                continue
            if maker.op_type not in _FUNCTIONS:
                return False
            waiting += maker.input
        return True

    def _evaluate(self, name: str, known: Mapping[str, Value]) -> Value:
        """A tensor's value by the reference's own functions."""
        if name in known:
            return known[name]
        if name in self._view.constants:
            return self._view.constants[name]
        maker = self._view.producers[name]
        inputs = [self._evaluate(i, known) for i in maker.input if i]
        return _FUNCTIONS[maker.op_type](inputs, attributes(maker))

    def _function(self, node: NodeProto, source: str, exponent: int) -> None:
        given = self._steps.tensors[source]
        real = Quantized(_CODES, np.array(2.0**given.exponent, np.float32))
        known = {n: real for n, codes in self._codes.items() if codes == source}
        results = np.asarray(self._evaluate(node.output[0], known)).astype(np.int64)
        possible = results[128:] if given.unsigned else results
        if np.array_equal(possible, _CODES[128:] if given.unsigned else _CODES):
            self._codes[node.output[0]] = source  # the same codes under another name
            return
        made = Tensor(
            node.output[0], given.height, given.width, given.channels, exponent,
            bool(possible.min() >= 0),
        )  # fmt: skip
        table = np.zeros(256, np.int64)
        table[given.zero + np.arange(128)] = results[128:]
        if not given.unsigned:
            table[:128] = results[:128]
        # Bytes that are no codes are never read, and must still be codes of the output.
        stored = np.clip(table + made.zero, 0, 255 if made.zero else 127).astype(np.uint8)
        self._add(made, Step("table", (source,), tables=stored))

    def _normalized(self, node: NodeProto, exponent: int) -> None:
        """Pixels that the network scales and shifts: a table for each channel."""
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256).repeat(3, axis=1)
        codes = np.asarray(self._evaluate(node.output[0], {self._input: pixels}))[0, :, 0]
        made = self._pixels(exponent, unsigned=bool(codes.min() >= 0), name=node.output[0])
        tables = (codes.astype(np.int64) + made.zero).astype(np.uint8)
        self._add(made, Step("input", tables=tables))

    def _conv(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        given, weights = self._operands(node)
        attrs = attributes(node)
        weight, groups = weights["weight"], int(attrs.get("group", 1))
        if node.op_type == "Gemm":
            if (given.height, given.width) != (1, 1):
                weight = weight.reshape(-1, given.channels, given.height, given.width)
            else:
                weight = weight[:, :, None, None]
        window = self._window(node, weight.shape[2:])
        height, width = self._positions(given, window)
        made = Tensor(name, height, width, len(weight), exponent, low >= 0)
        alone = groups == given.channels == len(weight) and groups > 1
        layer = layer_of(
            weight if alone else ungrouped(weight, groups, given.channels),
            weights["bias"], weights["exponents"] + given.exponent, given, exponent,
            (low, high), where=label(node),
        )  # fmt: skip
        self._add(
            made,
            Step(
                "depthwise" if alone else "conv", (given.name,), window=window, layer=layer,
                low=low, high=high,
            ),
        )  # fmt: skip

    def _logits(self, node: NodeProto) -> None:
        given, weights = self._operands(node)
        if (given.height, given.width) != (1, 1):
            raise self._unfit(node, "the last layer reads more than one position")
        weight = weights["weight"].reshape(self._steps.classes, -1)
        layer = logits_of(weight, weights["bias"], weights["exponents"] + given.exponent, given)
        self._steps.steps.append(Step("logits", (given.name,), layer=layer))

    def _operands(self, node: NodeProto) -> tuple[Tensor, dict[str, NDArray[Any]]]:
        """A layer's input tensor and its integers."""
        if node.input[0] not in self._codes:
            raise self._unfit(node, "its input is not quantized")
        weight, bias = (self._view.dequantized(name) for name in node.input[1:3])
        if weight is None or bias is None:
            raise self._unfit(node, "it stays in float")
        scale = self._view.scale(weight)
        if not is_power_of_two(scale).all():
            raise self._unfit(node, "a weight scale is not a power of two")
        return self._steps.tensors[self._codes[node.input[0]]], {
            "weight": self._view.constants[weight.input[0]],
            "bias": self._view.constants[bias.input[0]].astype(np.int64),
            "exponents": np.rint(np.log2(scale.astype(np.float64))).astype(np.int64),
        }

    def _sum(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        a, b = self._pair(node)
        if (a.height, a.width, a.channels) != (b.height, b.width, b.channels):
            raise self._unfit(node, "its operands differ in shape")
        finest = min(a.exponent, b.exponent, exponent)
        left_a, left_b, shift = a.exponent - finest, b.exponent - finest, exponent - finest
        self._require(node, max(left_a, left_b) <= 20 and shift <= 28)
        made = Tensor(name, a.height, a.width, a.channels, exponent, low >= 0)
        addition = Addition(left_a, left_b, shift, low, high)
        self._add(made, Step("add", (a.name, b.name), addition=addition))

    def _product(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        a, b = self._pair(node)
        if (a.height, a.width) == (1, 1):
            a, b = b, a
        shape = (b.height, b.width)
        if a.channels != b.channels or shape not in ((1, 1), (a.height, a.width)):
            raise self._unfit(node, "its operands differ in shape")
        shift = exponent - a.exponent - b.exponent
        self._require(node, -14 <= shift <= 28)
        made = Tensor(
            name, a.height, a.width, a.channels, exponent,
            low >= 0 or (a.unsigned and b.unsigned),
        )  # fmt: skip
        self._add(
            made,
            Step(
                "multiply", (a.name, b.name), left=max(-shift, 0), shift=max(shift, 0),
                low=0 if made.unsigned else low, high=high,
            ),
        )  # fmt: skip

    def _average(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        given = self._single(node)
        if node.op_type == "GlobalAveragePool":
            window, counts = Window(kernel=(given.height, given.width)), False
        else:
            attrs = attributes(node)
            window = self._window(node, attrs["kernel_shape"])
            counts = bool(attrs.get("count_include_pad", 0))
        self._require(node, math.prod(window.kernel) <= 2**14)
        shift = exponent - given.exponent
        self._require(node, -20 <= shift <= 28)
        height, width = self._positions(given, window)
        unsigned = low >= 0 or given.unsigned
        made = Tensor(name, height, width, given.channels, exponent, unsigned)
        self._add(
            made,
            Step(
                "average_pool", (given.name,), window=window, counts_padding=counts,
                left=max(-shift, 0), shift=max(shift, 0), low=0 if unsigned else low, high=high,
            ),
        )  # fmt: skip

    def _max_pool(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        given = self._single(node)
        if given.exponent != exponent or (low > -128 and not given.unsigned) or high < 127:
            raise self._unfit(node, "it changes the scale of the codes that it selects")
        window = self._window(node, attributes(node)["kernel_shape"])
        height, width = self._positions(given, window)
        made = Tensor(name, height, width, given.channels, exponent, given.unsigned)
        self._add(made, Step("max_pool", (given.name,), window=window))

    def _upsample(self, node: NodeProto, name: str, exponent: int, _low: int, _high: int) -> None:
        given = self._single(node)
        self._require(node, given.exponent == exponent)
        factors = [round(float(f)) for f in self._view.constants[node.input[2]][2:]]
        made = Tensor(
            name, given.height * factors[0], given.width * factors[1], given.channels, exponent,
            given.unsigned,
        )  # fmt: skip
        window = Window(stride=(factors[0], factors[1]))
        self._add(made, Step("upsample", (given.name,), window=window))

    def _concat(self, node: NodeProto, name: str, exponent: int, low: int, high: int) -> None:
        parts = [self._steps.tensors[self._codes[i]] for i in node.input]
        unsigned = low >= 0 or all(part.unsigned for part in parts)
        first, channel = parts[0], 0
        made = Tensor(
            name, first.height, first.width, sum(p.channels for p in parts), exponent, unsigned
        )
        for part in parts:
            shift = exponent - part.exponent
            self._require(node, -20 <= shift <= 28)
            self._add(
                made,
                Step(
                    "concat", (part.name,), channel=channel, left=max(-shift, 0),
                    shift=max(shift, 0), low=0 if unsigned else low, high=high,
                ),
            )  # fmt: skip
            channel += part.channels

    def _alias(self, node: NodeProto, name: str, exponent: int, _low: int, _high: int) -> None:
        given = self._single(node)
        self._require(node, given.exponent == exponent)
        self._codes[name] = given.name

    def _pair(self, node: NodeProto) -> tuple[Tensor, Tensor]:
        if any(name not in self._codes for name in node.input):
            raise self._unfit(node, "an operand is not quantized")
        a, b = (self._steps.tensors[self._codes[name]] for name in node.input)
        return a, b

    def _single(self, node: NodeProto) -> Tensor:
        if node.input[0] not in self._codes:
            raise self._unfit(node, "its input is not quantized")
        return self._steps.tensors[self._codes[node.input[0]]]

    def _window(self, node: NodeProto, kernel: Any) -> Window:
        attrs = attributes(node)
        top, left, bottom, right = attrs.get("pads", (0, 0, 0, 0))
        if (top, left) != (bottom, right) or attrs.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise self._unfit(node, "its padding differs from side to side")
        kernel_height, kernel_width = (int(k) for k in kernel)
        self._require(node, kernel_height * kernel_width <= 64 or node.op_type.endswith("Pool"))
        return Window(
            (kernel_height, kernel_width),
            tuple(attrs.get("strides", (1, 1))),
            (top, left),
            tuple(attrs.get("dilations", (1, 1))),
        )

    @staticmethod
    def _positions(given: Tensor, window: Window) -> tuple[int, int]:
        height, width = (
            (side + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
            for side, kernel, stride, pad, dilation in zip(
                (given.height, given.width), window.kernel, window.stride, window.padding,
                window.dilation, strict=True,
            )
        )  # fmt: skip
        return height, width

    def _add(self, made: Tensor, step: Step) -> None:
        self._steps.tensors[made.name] = made
        self._steps.steps.append(step.with_(output=made.name))

    def _exponent(self, node: NodeProto) -> int:
        scale = self._view.scale(node)
        if scale.ndim or not is_power_of_two(scale).all():
            raise self._unfit(node, f"scale {scale} is not a power of two")
        return round(math.log2(float(scale)))

    def _require(self, node: NodeProto, holds: bool) -> None:
        if not holds:
            raise self._unfit(node, "its scales or its window are beyond what a kernel takes")

    @staticmethod
    def _unfit(node: NodeProto, what: str) -> ExportError:
        return ExportError(
            f"{what}: a plan computes in integers only",
            where=f"node {label(node)}",
            expected="scheme exact or exact-wide, with every layer in int8",
            fix="train with quantization: {scheme: exact}, or leave out --target native",
        )
