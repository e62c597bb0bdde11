"""The network as data: a list of nodes with BatchNorm folded and every scale known.

It is neutral: training writes it, export and the float torch runtime read it, nobody needs the
source of the model. `pixels` is the input, uint8 [N, 3, S, S]; the first operator sees
(pixels − 128) / 64, unless it is `normalize`, which sees the pixels themselves. The last node is
the logits, float32 [N, K]. docs/checkpoint.md is the specification.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT = "pixels"

ANY = -1
"""As a number of inputs: two or more."""

# op -> (number of inputs, names of its attributes)
OPERATORS: dict[str, tuple[int, frozenset[str]]] = {
    "normalize": (1, frozenset()),
    "conv": (1, frozenset({"stride", "padding", "dilation", "groups"})),
    "linear": (1, frozenset()),
    "add": (2, frozenset()),
    "mul": (2, frozenset()),
    "concat": (ANY, frozenset()),
    "max_pool": (1, frozenset({"kernel", "stride", "padding"})),
    "avg_pool": (1, frozenset({"kernel", "stride", "padding", "count_include_pad"})),
    "global_avg_pool": (1, frozenset()),
    "upsample": (1, frozenset({"factor"})),
    "flatten": (1, frozenset()),
    "relu": (1, frozenset()),
    "relu6": (1, frozenset()),
    "hardswish": (1, frozenset()),
    "hardsigmoid": (1, frozenset()),
    "sigmoid": (1, frozenset()),
    "silu": (1, frozenset()),
}
WEIGHTED = frozenset({"conv", "linear"})
# Operators that move codes without changing them: their output has their input's grid.
SCALE_KEEPING = frozenset({"max_pool", "upsample", "flatten"})
ACTIVATIONS = ("", "relu", "relu6")
_FUSES_ACTIVATION = frozenset({"conv", "linear", "add"})


@dataclass(frozen=True)
class Node:
    """One operator.

    Args:
        name: Unique; prefix of its tensors.
        op: A key of OPERATORS.
        inputs: Names of earlier nodes, or "pixels".
        attrs: Integers and pairs of integers, as torch names them; hardsigmoid is x/6 + 1/2.
        activation: "relu" or "relu6" if fused, else "".
        scale: Real value of one step of the 8-bit output; None for a float output.
        zero_point: Code of the real value 0; not 0 only under a scheme with unsigned codes.
        in_float: In a quantized network, a conv or linear node that multiplies float weights with
            the real values of its int8 input; its output is int8 like any other.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, int | tuple[int, int]]
    activation: str = ""
    scale: float | None = None
    in_float: bool = False
    zero_point: int = 0

    def pair(self, attribute: str) -> tuple[int, int]:
        """A two-dimensional attribute (height, width)."""
        value = self.attrs[attribute]
        return (value, value) if isinstance(value, int) else value

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return {
            "name": self.name,
            "op": self.op,
            "inputs": list(self.inputs),
            "attrs": {k: v if isinstance(v, int) else list(v) for k, v in self.attrs.items()},
            "activation": self.activation,
            "scale": self.scale,
            **({"in_float": True} if self.in_float else {}),
            **({"zero_point": self.zero_point} if self.zero_point else {}),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Node:
        """The node of a JSON object."""
        attrs = {k: v if isinstance(v, int) else (v[0], v[1]) for k, v in value["attrs"].items()}
        return cls(
            value["name"],
            value["op"],
            tuple(value["inputs"]),
            attrs,
            value["activation"],
            value["scale"],
            value.get("in_float", False),
            value.get("zero_point", 0),
        )


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; the last one is the logits."""

    nodes: tuple[Node, ...]

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the nodes that a quantized network computes in float."""
        return tuple(node.name for node in self.nodes if node.in_float)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return {"nodes": [node.to_dict() for node in self.nodes]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Graph:
        """The graph of a JSON object."""
        return cls(tuple(Node.from_dict(node) for node in value["nodes"]))

    def check(self, tensors: Mapping[str, NDArray[np.float32]], *, quantized: bool) -> None:
        """Check order, operators, tensors and scales.

        Raises:
            CheckpointError: Something does not fit; the node is named.
        """
        import numpy as np

        if not self.nodes:
            raise CheckpointError("the graph has no nodes", expected="a network")
        grids: dict[str, tuple[float | None, int]] = {INPUT: (None, 0)}
        expected_tensors: set[str] = set()
        for node in self.nodes:
            where = f"node {node.name}"
            if node.op not in OPERATORS:
                raise CheckpointError(
                    f"operator {node.op!r}", where=where, expected=f"one of {', '.join(OPERATORS)}"
                )
            arity, attributes = OPERATORS[node.op]
            fits = len(node.inputs) >= 2 if arity == ANY else len(node.inputs) == arity
            if not fits or set(node.attrs) != attributes:
                raise CheckpointError(
                    f"{len(node.inputs)} inputs, attributes {sorted(node.attrs)}",
                    where=where,
                    expected=f"{'2 or more' if arity == ANY else arity} inputs, attributes "
                    f"{sorted(attributes)} for {node.op}",
                )
            unknown = [name for name in node.inputs if name not in grids]
            if unknown or node.name in grids:
                raise CheckpointError(
                    f"input {unknown[0]!r} unknown" if unknown else "name used twice",
                    where=where,
                    expected="unique names in topological order",
                )
            if node.activation not in ACTIVATIONS or (
                node.activation and node.op not in _FUSES_ACTIVATION
            ):
                raise CheckpointError(f"activation {node.activation!r} on {node.op}", where=where)
            if node.in_float and not (quantized and node.op in WEIGHTED):
                raise CheckpointError(
                    f"in_float on {node.op}" if quantized else "in_float in a float network",
                    where=where,
                    expected=f"a {' or '.join(sorted(WEIGHTED))} node of a quantized network",
                )
            if node.op in WEIGHTED:
                expected_tensors |= self._check_weights(
                    node, tensors, quantized=quantized and not node.in_float
                )
            elif node.op == "normalize":
                expected_tensors |= self._check_normalize(node, tensors)
            self._check_grid(node, grids, quantized=quantized)
            grids[node.name] = (node.scale, node.zero_point)
        surplus = set(tensors) - expected_tensors
        if surplus:
            raise CheckpointError(f"tensors of no node: {', '.join(sorted(surplus)[:3])}")
        if not all(np.isfinite(array).all() for array in tensors.values()):
            raise CheckpointError("a tensor holds NaN or infinity", expected="finite weights")

    def _check_weights(
        self, node: Node, tensors: Mapping[str, NDArray[np.float32]], *, quantized: bool
    ) -> set[str]:
        names = {"weight", "bias"} | ({"weight_scale"} if quantized else set())
        full = {f"{node.name}.{name}" for name in names}
        missing = full - set(tensors)
        if missing:
            raise CheckpointError(
                f"tensor {min(missing)} is missing",
                where=f"node {node.name}",
                expected="weight, bias" + (" and weight_scale" if quantized else ""),
            )
        rank = 4 if node.op == "conv" else 2
        weight = tensors[f"{node.name}.weight"]
        channels = weight.shape[0]
        shapes = {name: tensors[name].shape for name in full - {f"{node.name}.weight"}}
        if weight.ndim != rank or any(shape != (channels,) for shape in shapes.values()):
            raise CheckpointError(
                f"weight {weight.shape} with {shapes}",
                where=f"node {node.name}",
                expected=f"a {rank}-dimensional weight and one value per output channel",
            )
        if quantized and not (tensors[f"{node.name}.weight_scale"] > 0).all():
            raise CheckpointError("a weight scale is not above 0", where=f"node {node.name}")
        return full

    def _check_normalize(self, node: Node, tensors: Mapping[str, NDArray[np.float32]]) -> set[str]:
        names = {f"{node.name}.weight", f"{node.name}.bias"}
        shapes = {name: tensors[name].shape if name in tensors else None for name in names}
        if node.inputs != (INPUT,) or any(shape != (3,) for shape in shapes.values()):
            raise CheckpointError(
                f"reads {node.inputs[0]}, tensors {shapes}",
                where=f"node {node.name}",
                expected=f"{INPUT}, and a weight and a bias for each of 3 channels",
            )
        return names

    def _check_grid(
        self, node: Node, grids: Mapping[str, tuple[float | None, int]], *, quantized: bool
    ) -> None:
        last = node is self.nodes[-1]
        if not quantized or last:
            wrong = node.scale is not None or node.zero_point != 0
            expected = "no scale (float output)"
        elif node.op in SCALE_KEEPING and node.inputs[0] != INPUT:
            wrong = (node.scale, node.zero_point) != grids[node.inputs[0]]
            expected = "its input's scale and zero point"
        else:
            wrong = node.scale is None or not (node.scale > 0 and math.isfinite(node.scale))
            wrong = wrong or not 0 <= node.zero_point <= 255
            expected = "a finite scale above 0, a zero point of 0..255"
        if wrong:
            raise CheckpointError(
                f"output scale {node.scale}, zero point {node.zero_point}",
                where=f"node {node.name}",
                expected=expected,
            )
