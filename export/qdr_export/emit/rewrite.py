"""What the emitters share: a copy of the canonical graph, batch fixed, some nodes replaced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from qdr_edge.errors import ExportError
from qdr_export.graph.onnx_graph import GraphBuilder, GraphView, attributes

# Operators that hand codes on: their output keeps their input's zero point.
_CODE_KEEPING = ("MaxPool", "Flatten", "Resize")

# Adds what replaces a node and returns True, or returns False to have it copied.
Rule = Callable[["Rewriter", NodeProto], bool]


class Rewriter:
    """Copies a graph node by node into a builder, asking a rule about each.

    Args:
        model: Bytes of the canonical model.

    Attributes:
        view: The canonical graph.
        out: The graph that is built.
    """

    def __init__(self, model: bytes) -> None:
        self.view = GraphView(model)
        self.out = GraphBuilder()
        self._renamed: dict[str, str] = {}

    def run(self, rule: Rule, name: str) -> ModelProto:
        """Apply a rule to every node and return the checked model, batch size 1.

        Args:
            rule: Adds what replaces the node and returns True, or returns False to have it copied.
            name: Name of the new graph.
        """
        for node in self.view.nodes:
            if not rule(self, node):
                self.copy(node)
        return self.out.model(
            name,
            [_batch_of_one(i) for i in self.view.inputs],
            [_batch_of_one(o) for o in self.view.outputs],
        )

    def copy(self, node: NodeProto) -> None:
        """Append a node unchanged but for renamed inputs."""
        self.out.add(
            node.op_type,
            [self.name(i) for i in node.input],
            node.output[0],
            name=node.name,
            **attributes(node),
        )

    def name(self, tensor: str) -> str:
        """What a tensor of the canonical graph is called in the new one; constants are added."""
        if tensor in self._renamed:
            return self._renamed[tensor]
        if tensor in self.view.constants:
            return self.out.constant(self.view.constants[tensor], tensor)
        return tensor

    def rename(self, tensor: str, new: str) -> None:
        """From here on, readers of `tensor` read `new`."""
        self._renamed[tensor] = new

    def only_consumer(self, tensor: str) -> NodeProto | None:
        """The node that alone reads a tensor."""
        readers = self.view.consumers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None


def to_bytes(model: ModelProto) -> bytes:
    """The same bytes for the same model."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _batch_of_one(info: ValueInfoProto) -> ValueInfoProto:
    tensor = info.type.tensor_type
    dims = [d.dim_value for d in tensor.shape.dim]
    if any(d <= 0 for d in dims[1:]):
        raise ExportError(
            "a dimension besides the batch is symbolic",
            where=f"graph tensor {info.name}",
            expected="a static shape",
        )
    return helper.make_tensor_value_info(info.name, tensor.elem_type, [1, *dims[1:]])


def is_pixels(node: NodeProto, view: GraphView) -> bool:
    """Whether a node dequantizes the uint8 input."""
    return (
        node.op_type == "DequantizeLinear"
        and node.input[0] == view.inputs[0].name
        and view.inputs[0].type.tensor_type.elem_type == TensorProto.UINT8
    )


def is_float_layer(view: GraphView, node: NodeProto) -> bool:
    """Whether a node multiplies float weights with dequantized codes."""
    return (
        node.op_type in ("Conv", "Gemm")
        and node.input[1] in view.constants
        and view.dequantized(node.input[0]) is not None
    )


def rectified(view: GraphView) -> dict[str, float]:
    """The quantized activations that hold no negative value, and the largest value let through.

    Relu lets everything through (infinity), Clip(0, 6) up to 6.
    """
    largest: dict[str, float] = {}
    for node in view.of_type("QuantizeLinear"):
        source = code_source(view, node)
        producer = view.producer(node.input[0])
        if source is not None:
            if source in largest:
                largest[node.output[0]] = largest[source]
        elif producer is not None and is_rectifier(producer):
            bound = view.constants[producer.input[2]] if producer.op_type == "Clip" else np.inf
            largest[node.output[0]] = float(bound)
    return largest


def is_rectifier(node: NodeProto) -> bool:
    """Whether a node is an activation that cuts off below 0; every Clip of the canonical graph is
    a ReLU6."""
    return node.op_type in ("Relu", "Clip")


def code_source(view: GraphView, quantize: NodeProto) -> str | None:
    """The quantized tensor whose codes a Q hands on, if one of _CODE_KEEPING made its input."""
    producer = view.producer(quantize.input[0])
    if producer is None or producer.op_type not in _CODE_KEEPING:
        return None
    dequantize = view.dequantized(producer.input[0])
    if dequantize is None or is_pixels(dequantize, view):
        return None
    same = np.array_equal(view.scale(dequantize), view.scale(quantize))
    return str(dequantize.input[0]) if same else None
