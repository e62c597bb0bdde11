"""The walk through a file: ONNX operators become operators of the checkpoint's graph.

What has no equal is recorded as a problem, and the walk goes on, so that all problems come out at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from qdr_edge.graph import INPUT
from qdr_export.importer import operators, rounding
from qdr_export.importer.constants import Stored
from qdr_export.importer.drafts import PIXELS, Draft
from qdr_export.importer.findings import Findings
from qdr_export.importer.operators import Operator, RefusedError
from qdr_export.importer.pixels import Affine, MeanStd
from qdr_export.importer.reading import Source
from qdr_export.importer.tracing import UNCHANGED, Lifted, Trace, Value
from qdr_export.importer.weights import add_bias, fold_batch_norm, read_weights

_FUSES_ACTIVATION = ("conv", "linear", "add")
_MATRIX = ("conv", "linear")
# x · gate(x) as one operator.
_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
_ENDINGS = ("Sigmoid", "Softmax")
_SUPPORTED = (
    "Conv, Gemm, MatMul, BatchNormalization, Add, Mul, Concat, MaxPool, AveragePool, "
    "GlobalAveragePool, ReduceMean, Resize, Flatten, Reshape, Squeeze, Relu, Clip, HardSwish, "
    "HardSigmoid, Sigmoid"
)


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


def lift(
    source: Source, known: Mapping[str, Stored], pixels: MeanStd | None, findings: Findings
) -> Lifting:
    """All operators that the logits depend on.

    Args:
        source: The file.
        known: Its constants.
        pixels: How its float input is made of pixels; None if it reads pixels.
        findings: Where problems and normalisations go.

    Raises:
        UnsupportedModelError: The file breaks rules.
    """
    trace = Trace(source, known, findings, pixels.affine if pixels else Affine.identity())
    for node in source.view.nodes:
        if node.output[0] in known:
            continue
        try:
            trace.values[node.output[0]] = _value(trace, node)
        except RefusedError as refused:
            findings.problem(source.place(node), refused.found, refused.expected, refused.mend)
            # What follows is looked at all the same: it may break rules of its own.
            trace.values[node.output[0]] = trace.stand_in(node)
    findings.check()
    last = _last(trace)
    return Lifting(_needed(trace, last), trace.logits, trace.ending)


def _last(trace: Trace) -> Draft:
    """The operator that makes the logits; they stay float."""
    output = trace.values.get(trace.source.output)
    if not isinstance(output, Lifted) or output.codes or output.draft == INPUT:
        trace.findings.problem(
            f"output {trace.source.output}",
            "not the result of an operator on the image",
            "float logits [N, K]",
            "correct the graph's output",
        )
        trace.findings.check()
        raise AssertionError  # check raised
    last = trace.drafts[output.draft]
    if last.grid is not None and output.rounded:
        trace.findings.normalised(
            "output-rounding",
            last.place,
            f"Q/DQ behind the logits dropped, {last.grid.text}: logits stay float",
            exact=False,
        )
    last.grid = None
    return last


def _needed(trace: Trace, last: Draft) -> list[Draft]:
    needed, open_ = {last.name}, [last]
    while open_:
        for name in open_.pop().reads:
            if name != INPUT and name not in needed:
                needed.add(name)
                open_.append(trace.drafts[name])
    return [draft for draft in trace.drafts.values() if draft.name in needed]


def _value(trace: Trace, node: NodeProto) -> Value:
    o = Operator(node, trace.source, trace.known)
    match node.op_type:
        case "QuantizeLinear":
            return rounding.quantize(trace, node)
        case "DequantizeLinear":
            return rounding.dequantize(trace, node)
        case "Conv" | "Gemm" | "MatMul":
            return _matrix(trace, o)
        case "BatchNormalization":
            return _batch_norm(trace, o)
        case "Add" | "Mul" | "Sub" | "Div":
            return _arithmetic(trace, o)
        case "Relu" | "Clip":
            return _activation(trace, o)
        case "Flatten" | "Reshape" | "Squeeze":
            return _flatten(trace, o)
        case op if op in UNCHANGED:
            return trace.passed(node, node.input[0])
        case op if op in _ENDINGS and trace.ends(node.output[0]):
            return _stripped(trace, o)
        case op if op in operators.TRANSLATED:
            return _translated(trace, o)
    raise RefusedError(
        f"operator {node.op_type}",
        f"one of {_SUPPORTED}",
        "replace it, or leave it outside the network",
    )


def _matrix(trace: Trace, o: Operator) -> Value:
    node = o.node
    data = trace.read(node.input[0])
    if node.input[1] not in trace.known:
        raise RefusedError("a product of two images", "stored weights", "replace it")
    weight = trace.known[node.input[1]]
    bias = trace.known.get(node.input[2]) if len(node.input) > 2 else None
    if bias is None and len(node.input) > 2 and node.input[2]:
        raise RefusedError("a bias computed at run time", "a stored bias", "fold it")
    if node.op_type == "Conv":
        weights = read_weights(weight, bias)
        stored = weights.codes if weights.codes is not None else weights.real
        assert stored is not None  # one of both is always there
        draft = trace.draft(node, "conv", [data], operators.conv(o, stored.shape[2:]))
    else:
        wide = o.attrs.get("transA", 0) or {o.attrs.get(x, 1.0) for x in ("alpha", "beta")} != {1.0}
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
        draft = trace.draft(node, "linear", [data])
    draft.weights = weights
    return Lifted(draft.name)


def _batch_norm(trace: Trace, o: Operator) -> Value:
    value = trace.read(o.node.input[0])
    draft = trace.owner(value, o.node.input[0])
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
    trace.findings.normalised(
        "batch-norm",
        trace.source.place(o.node),
        f"folded into scales and bias of {draft.name}; its codes stay",
        exact=False,
    )
    draft.tensor = o.node.output[0]
    return Lifted(draft.name, sole=trace.only_reader(o.node.input[0]))


def _arithmetic(trace: Trace, o: Operator) -> Value:
    first, second = o.node.input[:2]
    if first in trace.known:
        first, second = second, first
    if second in trace.known:
        return _with_constant(trace, o, first, second, swapped=first != o.node.input[0])
    a, b = trace.read(first), trace.read(second)
    if o.node.op_type == "Mul":
        return _product(trace, o, a, b)
    if o.node.op_type != "Add":
        raise RefusedError(f"{o.node.op_type} of two images", "Add or Mul", "replace it")
    if o.shape(first) != o.shape(second):
        raise RefusedError(
            f"a sum of {o.shape(first)} and {o.shape(second)}",
            "two tensors of one shape",
            "repeat the smaller one's values in the weights before it",
        )
    return Lifted(trace.draft(o.node, "add", [a, b]).name)


def _product(trace: Trace, o: Operator, a: Lifted, b: Lifted) -> Value:
    for gate, x in ((a, b), (b, a)):
        draft = trace.drafts.get(gate.draft)
        if draft is None or draft.op not in _GATED or gate.rounded or not gate.sole:
            continue
        unrounded = x.draft in trace.drafts and draft.name in (trace.drafts[x.draft].unquantized)
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
    return Lifted(trace.draft(o.node, "mul", [a, b]).name)


def _with_constant(trace: Trace, o: Operator, name: str, constant: str, *, swapped: bool) -> Value:
    value, stored = trace.values[name], trace.known[constant]
    if isinstance(value, Affine):
        return _mapped(value, o.node.op_type, o.stored(1 - int(swapped)), swapped=swapped)
    draft = trace.owner(value, name)
    if o.node.op_type != "Add" or draft is None or not _takes_bias(trace, draft):
        raise RefusedError(
            f"{o.node.op_type} with a constant",
            "a constant added right behind a convolution or product, as its bias",
            "fold it into the weights, or use the operator it stands for (HardSwish, SiLU)",
        )
    assert draft.weights is not None  # a conv or linear has weights
    add_bias(draft.weights, stored)
    if value.rounded:
        trace.findings.normalised(
            "bias-rounding",
            trace.source.place(o.node),
            f"folded as bias of {draft.name}; the rounding between is dropped",
            exact=False,
        )
    draft.grid, draft.tensor = None, o.node.output[0]
    return Lifted(draft.name)


def _takes_bias(trace: Trace, draft: Draft) -> bool:
    return draft.op in _MATRIX and not draft.activation


def _activation(trace: Trace, o: Operator) -> Value:
    op = "relu" if o.node.op_type == "Relu" else operators.clip(o)
    value = trace.read(o.node.input[0])
    draft = trace.owner(value, o.node.input[0])
    fuses = draft is not None and draft.op in _FUSES_ACTIVATION and not draft.activation
    if draft is not None and fuses and not value.rounded:
        draft.activation, draft.tensor = op, o.node.output[0]
        return Lifted(draft.name)
    return Lifted(trace.draft(o.node, op, [value]).name)


def _flatten(trace: Trace, o: Operator) -> Value:
    before, after = o.input_shape, o.output_shape
    if before == after:
        return trace.passed(o.node, o.node.input[0])
    if len(before) != 4 or after != (before[0], int(np.prod(before[1:]))):
        raise RefusedError(
            f"from {before} to {after}",
            "[N, C, H, W] to [N, C·H·W]",
            "flatten once, in front of the classifier",
        )
    return _kept(trace, o, "flatten", {})


def _translated(trace: Trace, o: Operator) -> Value:
    op, attrs = operators.TRANSLATED[o.node.op_type](o)
    if op in ("max_pool", "upsample"):
        return _kept(trace, o, op, attrs)
    values = [trace.read(name) for name in o.node.input if name in trace.values]
    draft = trace.draft(o.node, op, values, attrs)
    if op == "global_avg_pool" and len(o.output_shape) == 2:
        flat = trace.draft(o.node, "flatten", [Lifted(draft.name)], suffix="_flatten")
        return Lifted(flat.name)
    return Lifted(draft.name)


def _kept(trace: Trace, o: Operator, op: str, attrs: operators.Attrs) -> Value:
    """An operator that moves values: some tools run it on the codes themselves."""
    value = trace.values[o.node.input[0]]
    if isinstance(value, Lifted) and value.codes:
        draft = trace.draft(o.node, op, [value], attrs)
        draft.grid = PIXELS if value.draft == INPUT else trace.drafts[value.draft].grid
        return Lifted(draft.name, rounded=True, codes=True)
    return Lifted(trace.draft(o.node, op, [trace.read(o.node.input[0])], attrs).name)


def _stripped(trace: Trace, o: Operator) -> Value:
    node = o.node
    if node.op_type == "Softmax" and o.attrs.get("axis", -1) not in (1, -1):
        raise RefusedError("a softmax over another axis", "over the labels", "use axis 1")
    trace.logits, trace.ending = node.input[0], node.op_type
    trace.findings.normalised(
        "ending",
        trace.source.place(node),
        f"{node.op_type} at the end left out: logits are what thresholds see",
        exact=True,
    )
    return trace.passed(node, node.input[0])


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
