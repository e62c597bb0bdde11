"""The walk through a file: operators, the activations fused into them, and the grids of tensors.

A float tensor is known by the operator that makes it. QuantizeLinear gives that operator its grid,
DequantizeLinear hands its rounded values on; an operator that reads the tensor between the two
reads it unrounded, and that is remembered. What has no equal is recorded as a problem, and the walk
goes on, so that all problems come out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from qdr_edge.graph import INPUT
from qdr_export.importer import operators
from qdr_export.importer.constants import Stored
from qdr_export.importer.drafts import PIXELS, Draft, Grid
from qdr_export.importer.findings import Findings
from qdr_export.importer.operators import Operator, RefusedError
from qdr_export.importer.pixels import Affine, MeanStd
from qdr_export.importer.reading import Source
from qdr_export.importer.weights import add_bias, fold_batch_norm, read_weights
from qdr_export.onnx_graph import attributes, label

_FUSES_ACTIVATION = ("conv", "linear", "add")
_MATRIX = ("conv", "linear")
# x · gate(x) as one operator.
_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
_UNCHANGED = ("Identity", "Dropout", "Cast")
_ENDINGS = ("Sigmoid", "Softmax")
_AFTER_ENDING = ("QuantizeLinear", "DequantizeLinear", *_UNCHANGED, "Flatten", "Reshape", "Squeeze")
# Names that the canonical graph gives to tensors of its own.
_RESERVED = frozenset({INPUT, "logits", "z", "z128"})
_SUPPORTED = (
    "Conv, Gemm, MatMul, BatchNormalization, Add, Mul, Concat, MaxPool, AveragePool, "
    "GlobalAveragePool, ReduceMean, Resize, Flatten, Reshape, Squeeze, Relu, Clip, HardSwish, "
    "HardSigmoid, Sigmoid"
)


@dataclass(frozen=True)
class Lifted:
    """A tensor of the file.

    Args:
        draft: The operator that makes it, or "pixels".
        rounded: It lies on the operator's grid.
        codes: It is the integers themselves.
        sole: Nothing else reads what lies between the operator and it.
    """

    draft: str
    rounded: bool = False
    codes: bool = False
    sole: bool = True


Value = Lifted | Affine


@dataclass(frozen=True)
class Lifting:
    """A file as operators.

    Args:
        drafts: In topological order; the last makes the logits.
        logits: Name of the tensor in the file that holds them.
        ending: "Sigmoid" or "Softmax" where the file ends in one, else "".
    """

    drafts: list[Draft]
    logits: str
    ending: str


class Lifter:
    """Walks a file once.

    Args:
        source: The file.
        known: Its constants.
        pixels: How its float input is made of pixels; None if it reads pixels.
        findings: Where problems and normalisations go.
    """

    def __init__(
        self,
        source: Source,
        known: Mapping[str, Stored],
        pixels: MeanStd | None,
        findings: Findings,
    ) -> None:
        self._source = source
        self._known = known
        self._findings = findings
        self._drafts: dict[str, Draft] = {}
        self._inputs: list[tuple[Affine, str]] = []
        self._logits, self._ending = source.output, ""
        self._values: dict[str, Value] = {
            source.input: pixels.affine if pixels else Affine.identity()
        }
        # Tensors behind a refused operator: a reader of one is no problem of its own.
        self._lost: set[str] = set()

    def lift(self) -> Lifting:
        """All operators that the logits depend on.

        Raises:
            UnsupportedModelError: The file breaks rules.
        """
        for node in self._source.view.nodes:
            if node.output[0] in self._known:
                continue
            if self._lost.intersection(node.input):
                self._lost.update(node.output)
                continue
            try:
                self._values[node.output[0]] = self._value(node)
            except RefusedError as refused:
                place = self._source.place(node)
                self._findings.problem(place, refused.found, refused.expected, refused.mend)
                self._lost.update(node.output)
        self._findings.check()
        output = self._values.get(self._source.output)
        if not isinstance(output, Lifted) or output.codes or output.draft == INPUT:
            self._findings.problem(
                f"output {self._source.output}",
                "not the result of an operator on the image",
                "float logits [N, K]",
                "correct the graph's output",
            )
            self._findings.check()
            raise AssertionError  # check raised
        last = self._drafts[output.draft]
        if last.grid is not None and output.rounded:
            self._findings.normalised(
                "output-rounding",
                last.place,
                f"Q/DQ behind the logits dropped, {last.grid.text}: logits stay float",
                exact=False,
            )
        last.grid = None
        return Lifting(self._needed(last), self._logits, self._ending)

    def _needed(self, last: Draft) -> list[Draft]:
        needed, open_ = {last.name}, [last]
        while open_:
            for name in open_.pop().reads:
                if name != INPUT and name not in needed:
                    needed.add(name)
                    open_.append(self._drafts[name])
        return [draft for draft in self._drafts.values() if draft.name in needed]

    # One node

    def _value(self, node: NodeProto) -> Value:
        o = Operator(node, self._source, self._known)
        match node.op_type:
            case "QuantizeLinear":
                return self._quantize(node)
            case "DequantizeLinear":
                return self._dequantize(node)
            case "Conv" | "Gemm" | "MatMul":
                return self._matrix(o)
            case "BatchNormalization":
                return self._batch_norm(o)
            case "Add" | "Mul" | "Sub" | "Div":
                return self._arithmetic(o)
            case "Relu" | "Clip":
                return self._activation(o)
            case "Flatten" | "Reshape" | "Squeeze":
                return self._flatten(o)
            case op if op in _UNCHANGED:
                return self._passed(node, node.input[0])
            case op if op in _ENDINGS and self._ends(node.output[0]):
                return self._stripped(o)
            case op if op in operators.TRANSLATED:
                return self._translated(o)
        raise RefusedError(
            f"operator {node.op_type}",
            f"one of {_SUPPORTED}",
            "replace it, or leave it outside the network",
        )

    def _quantize(self, node: NodeProto) -> Value:
        grid = self._grid(node)
        value = self._values[node.input[0]]
        sole = self._only_reader(node.input[0])
        if isinstance(value, Affine):
            return Lifted(self._input(value, grid, node), rounded=True, codes=True, sole=sole)
        if value.draft == INPUT:
            return self._regridded(node, value, PIXELS, grid)
        draft = self._drafts[value.draft]
        if draft.grid not in (None, grid):
            return self._regridded(node, value, draft.grid, grid)
        draft.grid = grid
        return Lifted(value.draft, rounded=True, codes=True, sole=value.sole and sole)

    def _dequantize(self, node: NodeProto) -> Value:
        grid = self._grid(node)
        value = self._values[node.input[0]]
        if isinstance(value, Affine):  # uint8 pixels, dequantized as they come
            scale = np.full(3, grid.scale)
            name = self._input(Affine(scale, -grid.zero_point * scale), grid, node)
            return Lifted(name, rounded=True)
        own = PIXELS if value.draft == INPUT else self._drafts[value.draft].grid
        if own != grid:
            raise RefusedError(
                f"dequantized with {grid.text}",
                f"{own.text if own else 'none'}, as it was quantized",
                "correct the pair: both must name the same scale and zero point",
            )
        sole = value.sole and self._only_reader(node.input[0])
        return replace(value, codes=False, sole=sole)

    def _regridded(self, node: NodeProto, value: Lifted, own: Grid | None, grid: Grid) -> Lifted:
        """A second grid for one tensor: an operator that only rounds again."""
        if own == grid:
            return replace(value, rounded=True, codes=True)
        if self._source.rank(node.input[0]) != 4:
            raise RefusedError(
                f"a second grid for one tensor, {grid.text}",
                own.text if own else "one grid",
                "quantize a tensor once",
            )
        draft = self._draft(node, "avg_pool", [value], operators.ONE_BY_ONE, suffix="_requantize")
        draft.grid = grid
        self._findings.normalised(
            "second-grid",
            draft.place,
            f"a tensor has a second grid, {grid.text}: rounded again by a pooling of 1 × 1",
            exact=value.rounded,
        )
        # The second rounding is all that this operator is for: it reads the first one's codes.
        if not value.rounded and value.draft != INPUT:
            self._drafts[value.draft].unquantized.remove(draft.name)
        return Lifted(draft.name, rounded=True, codes=True)

    def _matrix(self, o: Operator) -> Value:
        node = o.node
        data = self._read(node.input[0])
        if node.input[1] not in self._known:
            raise RefusedError("a product of two images", "stored weights", "replace it")
        weight = self._known[node.input[1]]
        bias = self._known.get(node.input[2]) if len(node.input) > 2 else None
        if bias is None and len(node.input) > 2 and node.input[2]:
            raise RefusedError("a bias computed at run time", "a stored bias", "fold it")
        if node.op_type == "Conv":
            weights = read_weights(weight, bias)
            stored = weights.codes if weights.codes is not None else weights.real
            assert stored is not None  # one of both is always there
            draft = self._draft(node, "conv", [data], operators.conv(o, stored.shape[2:]))
        else:
            wide = o.attrs.get("transA", 0) or {o.attrs.get(x, 1.0) for x in ("alpha", "beta")} != {
                1.0
            }
            if wide or len(o.input_shape) != 2:
                raise RefusedError(
                    f"{node.op_type} of {o.input_shape} with {o.attrs}",
                    "a product of [N, C] with stored weights",
                    "use Gemm or MatMul behind Flatten, with alpha and beta 1",
                )
            if not o.attrs.get("transB", 0):
                weight = (
                    weight.transpose(1, 0)
                    if isinstance(weight, np.ndarray)
                    else (weight.transposed((1, 0)))
                )
            weights = read_weights(weight, bias)
            draft = self._draft(node, "linear", [data])
        draft.weights = weights
        return Lifted(draft.name)

    def _batch_norm(self, o: Operator) -> Value:
        value = self._read(o.node.input[0])
        draft = self._owner(value, o.node.input[0])
        if draft is None or value.rounded or draft.op not in _MATRIX or draft.activation:
            raise RefusedError(
                "a BatchNormalization that no convolution leads to",
                "one right behind a convolution, before any rounding",
                "fold it before quantizing",
            )
        assert draft.weights is not None  # a conv or linear has weights
        gamma, beta, mean, variance = (np.asarray(o.stored(i), np.float64) for i in range(1, 5))
        epsilon = float(o.attrs.get("epsilon", 1e-5))
        fold_batch_norm(draft.weights, gamma, beta, mean, variance + epsilon)
        self._findings.normalised(
            "batch-norm",
            self._source.place(o.node),
            f"folded into scales and bias of {draft.name}; its codes stay",
            exact=False,
        )
        draft.tensor = o.node.output[0]
        return Lifted(draft.name, sole=self._only_reader(o.node.input[0]))

    def _arithmetic(self, o: Operator) -> Value:
        first, second = o.node.input[:2]
        if first in self._known:
            first, second = second, first
        if second in self._known:
            return self._with_constant(o, first, second, swapped=first != o.node.input[0])
        a, b = self._read(first), self._read(second)
        if o.node.op_type == "Mul":
            return self._product(o, a, b)
        if o.node.op_type != "Add":
            raise RefusedError(f"{o.node.op_type} of two images", "Add or Mul", "replace it")
        if o.shape(first) != o.shape(second):
            raise RefusedError(
                f"a sum of {o.shape(first)} and {o.shape(second)}",
                "two tensors of one shape",
                "repeat the smaller one's values in the weights before it",
            )
        return Lifted(self._draft(o.node, "add", [a, b]).name)

    def _product(self, o: Operator, a: Lifted, b: Lifted) -> Value:
        for gate, x in ((a, b), (b, a)):
            draft = self._drafts.get(gate.draft)
            if draft is None or draft.op not in _GATED or gate.rounded or not gate.sole:
                continue
            unrounded = x.draft in self._drafts and draft.name in (
                self._drafts[x.draft].unquantized
            )
            if draft.reads == [x.draft] and unrounded != x.rounded:
                draft.op, draft.tensor = _GATED[draft.op], o.node.output[0]
                return Lifted(draft.name)
        shapes = [o.shape(name) for name in o.node.input]
        gates = [s for s in shapes if s[2:] == (1, 1)]
        if shapes[0] != shapes[1] and not (gates and shapes[0][:2] == shapes[1][:2]):
            raise RefusedError(
                f"a product of {shapes[0]} and {shapes[1]}",
                "one shape, or one factor [N, C, 1, 1]",
                "replace it",
            )
        return Lifted(self._draft(o.node, "mul", [a, b]).name)

    def _with_constant(self, o: Operator, name: str, constant: str, *, swapped: bool) -> Value:
        value, stored = self._values[name], self._known[constant]
        if isinstance(value, Affine):
            return _mapped(value, o.node.op_type, o.stored(1 - int(swapped)), swapped=swapped)
        draft = self._owner(value, name)
        if o.node.op_type != "Add" or draft is None or not self._takes_bias(draft):
            raise RefusedError(
                f"{o.node.op_type} with a constant",
                "a constant added right behind a convolution or product, as its bias",
                "fold it into the weights, or use the operator it stands for (HardSwish, SiLU)",
            )
        assert draft.weights is not None  # a conv or linear has weights
        add_bias(draft.weights, stored)
        if value.rounded:
            self._findings.normalised(
                "bias-rounding",
                self._source.place(o.node),
                f"folded as bias of {draft.name}; the rounding between is dropped",
                exact=False,
            )
        draft.grid, draft.tensor = None, o.node.output[0]
        return Lifted(draft.name)

    def _activation(self, o: Operator) -> Value:
        op = "relu" if o.node.op_type == "Relu" else operators.clip(o)
        value = self._read(o.node.input[0])
        draft = self._owner(value, o.node.input[0])
        fuses = draft is not None and draft.op in _FUSES_ACTIVATION and not draft.activation
        if draft is not None and fuses and not value.rounded:
            draft.activation, draft.tensor = op, o.node.output[0]
            return Lifted(draft.name)
        return Lifted(self._draft(o.node, op, [value]).name)

    def _flatten(self, o: Operator) -> Value:
        before, after = o.input_shape, o.output_shape
        if before == after:
            return self._passed(o.node, o.node.input[0])
        if len(before) != 4 or after != (before[0], int(np.prod(before[1:]))):
            raise RefusedError(
                f"from {before} to {after}",
                "[N, C, H, W] to [N, C·H·W]",
                "flatten once, in front of the classifier",
            )
        return self._kept(o, "flatten", {})

    def _translated(self, o: Operator) -> Value:
        op, attrs = operators.TRANSLATED[o.node.op_type](o)
        if op in ("max_pool", "upsample"):
            return self._kept(o, op, attrs)
        values = [self._read(name) for name in o.node.input if name in self._values]
        draft = self._draft(o.node, op, values, attrs)
        if op == "global_avg_pool" and len(o.output_shape) == 2:
            flat = self._draft(o.node, "flatten", [Lifted(draft.name)], suffix="_flatten")
            return Lifted(flat.name)
        return Lifted(draft.name)

    def _kept(self, o: Operator, op: str, attrs: operators.Attrs) -> Value:
        """An operator that moves values: some tools run it on the codes themselves."""
        value = self._values[o.node.input[0]]
        if isinstance(value, Lifted) and value.codes:
            draft = self._draft(o.node, op, [value], attrs)
            draft.grid = PIXELS if value.draft == INPUT else self._drafts[value.draft].grid
            return Lifted(draft.name, rounded=True, codes=True)
        return Lifted(self._draft(o.node, op, [self._read(o.node.input[0])], attrs).name)

    def _stripped(self, o: Operator) -> Value:
        node = o.node
        if node.op_type == "Softmax" and o.attrs.get("axis", -1) not in (1, -1):
            raise RefusedError("a softmax over another axis", "over the labels", "use axis 1")
        self._logits, self._ending = node.input[0], node.op_type
        self._findings.normalised(
            "ending",
            self._source.place(node),
            f"{node.op_type} at the end left out: logits are what thresholds see",
            exact=True,
        )
        return self._passed(node, node.input[0])

    # What the nodes above share

    def _grid(self, node: NodeProto) -> Grid:
        scale, zero = self._known.get(node.input[1]), None
        if len(node.input) > 2 and node.input[2]:
            zero = self._known.get(node.input[2])
        else:
            zero = np.zeros((), self._default_type(node))
        if not isinstance(scale, np.ndarray) or not isinstance(zero, np.ndarray):
            raise RefusedError(
                "scale or zero point computed at run time", "constants", "use static quantization"
            )
        if scale.size != 1 or zero.size != 1:
            raise RefusedError(
                f"{scale.size} scales for an activation", "one", "quantize activations per tensor"
            )
        if zero.dtype not in (np.int8, np.uint8):
            raise RefusedError(
                f"{zero.dtype} codes", "int8 or uint8", "quantize activations to 8 bits"
            )
        step = float(np.float32(scale.reshape(-1)[0]))
        if not (np.isfinite(step) and step > 0):
            raise RefusedError(f"scale {step}", "a finite scale above 0", "calibrate again")
        return Grid(step, int(zero.reshape(-1)[0]) + (128 if zero.dtype == np.int8 else 0))

    def _default_type(self, node: NodeProto) -> type[Any]:
        # A DequantizeLinear without zero point takes its codes' type; here they are activations,
        # whose type their own QuantizeLinear says.
        if node.op_type == "DequantizeLinear":
            maker = self._source.view.producer(node.input[0])
            if maker is not None and len(maker.input) > 2 and maker.input[2] in self._known:
                zero = self._known[maker.input[2]]
                return zero.dtype.type if isinstance(zero, np.ndarray) else np.uint8
        kind = attributes(node).get("output_dtype", 0)
        return np.int8 if kind == 3 else np.uint8  # TensorProto.INT8

    def _read(self, name: str) -> Lifted:
        """A float tensor that an operator reads."""
        if name not in self._values:
            raise RefusedError(f"a constant {name}", "an image", "fold it into the weights")
        value = self._values[name]
        if isinstance(value, Affine):
            return Lifted(self._input(value, None, None))
        if value.codes:
            raise RefusedError(
                "it reads integers", "DequantizeLinear in front of it", "quantize in QDQ form"
            )
        return replace(value, sole=value.sole and self._only_reader(name))

    def _owner(self, value: Value, name: str) -> Draft | None:
        """The operator that makes a tensor, if nothing else reads what lies between."""
        if not isinstance(value, Lifted) or not (value.sole and self._only_reader(name)):
            return None
        return self._drafts.get(value.draft)

    def _takes_bias(self, draft: Draft) -> bool:
        return draft.op in _MATRIX and not draft.activation

    def _input(self, affine: Affine, grid: Grid | None, node: NodeProto | None) -> str:
        """The operator that makes the first real tensor of the pixels."""
        if grid is not None and affine.is_centred(grid):
            return INPUT
        for known, name in self._inputs:
            same = np.array_equal(known.weight, affine.weight)
            if same and np.array_equal(known.bias, affine.bias):
                draft = self._drafts[name]
                if grid is not None and draft.grid not in (None, grid):
                    raise RefusedError("a second grid for the input", "one", "quantize it once")
                draft.grid = draft.grid or grid
                return name
        place = self._source.place(node) if node else f"input {self._source.input}"
        name = self._name("normalize")
        self._drafts[name] = Draft(
            name, "normalize", [INPUT], place, self._source.input, affine=affine.float32, rank=4
        )
        self._drafts[name].grid = grid
        self._inputs.append((affine, name))
        return name

    def _draft(
        self,
        node: NodeProto,
        op: str,
        values: list[Lifted],
        attrs: operators.Attrs | None = None,
        *,
        suffix: str = "",
    ) -> Draft:
        name = self._name(label(node) + suffix)
        draft = Draft(
            name,
            op,
            [value.draft for value in values],
            self._source.place(node),
            node.output[0],
            attrs=dict(attrs or {}),
            rank=self._source.rank(node.output[0]),
        )
        self._drafts[name] = draft
        for value in values:
            if not value.rounded and value.draft != INPUT:
                self._drafts[value.draft].unquantized.append(name)
        return draft

    def _name(self, wanted: str) -> str:
        wanted = wanted.replace(":", "_")
        name, number = wanted, 1
        while name in self._drafts or name in _RESERVED:
            name, number = f"{wanted}_{number}", number + 1
        return name

    def _passed(self, node: NodeProto, name: str) -> Value:
        value = self._values[name]
        if isinstance(value, Affine):
            return value
        return replace(value, sole=value.sole and self._only_reader(name))

    def _only_reader(self, name: str) -> bool:
        readers = len(self._source.view.consumers.get(name, []))
        return readers + (name == self._source.output) == 1

    def _ends(self, name: str) -> bool:
        """Whether only roundings and changes of form lie between a tensor and the output."""
        while name != self._source.output:
            readers = self._source.view.consumers.get(name, [])
            if len(readers) != 1 or readers[0].op_type not in _AFTER_ENDING:
                return False
            name = readers[0].output[0]
        return True


def _mapped(value: Affine, op: str, constant: Any, *, swapped: bool) -> Affine:
    """What arithmetic with a constant makes of pixels that nothing has rounded yet."""
    number = np.asarray(constant, np.float64)
    if number.size not in (1, 3) or (number.size == 3 and 3 not in number.shape[-3:-2]):
        raise RefusedError(
            f"pixels {op} a constant {number.shape}",
            "one number, or one for each of 3 colours",
            "normalise with one mean and one deviation for each colour",
        )
    each = np.broadcast_to(number.reshape(-1), (3,))
    match op:
        case "Add":
            return Affine(value.weight, value.bias + each)
        case "Sub" if not swapped:
            return Affine(value.weight, value.bias - each)
        case "Mul":
            return Affine(value.weight * each, value.bias * each)
        case "Div" if not swapped:
            return Affine(value.weight / each, value.bias / each)
    raise RefusedError(f"a constant {op} pixels", "pixels − mean, / std", "rewrite it so")
