"""What a rule is, and what several of them ask of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx import NodeProto

from qdr_export.graph.onnx_graph import GraphView

# (place, what was found there)
Breach = tuple[str, str]
Check = Callable[[GraphView], Iterator[Breach]]

MATRIX = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Rule:
    """One rule of one target.

    Args:
        name: Stable identifier.
        targets: Targets it holds for.
        severity: "error" (wrong or refused), "warning" (slow or unproven).
        check: Finds the breaches.
        mend: What to do about one.
    """

    name: str
    targets: tuple[str, ...]
    severity: str
    check: Check
    mend: str

    @property
    def explanation(self) -> str:
        """Why the rule exists."""
        return " ".join((self.check.__doc__ or "").split())


def readers_behind(view: GraphView, quantize: NodeProto) -> list[NodeProto]:
    return [
        reader
        for dequantize in view.consumers.get(quantize.output[0], [])
        for reader in view.consumers.get(dequantize.output[0], [])
    ]


def is_quantized(view: GraphView, node: NodeProto) -> bool:
    """Whether data and weight of a convolution or product are both dequantized integers."""
    return all(view.dequantized(name) is not None for name in node.input[:2])


def through_relu(view: GraphView, node: NodeProto) -> NodeProto:
    """The node's only reader if that is a Relu or Clip, else the node."""
    readers = view.consumers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        return readers[0]
    return node
