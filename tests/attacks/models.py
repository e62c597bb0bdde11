"""Small ONNX files for attackers to spoil, and protobuf written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper


def model(*nodes: onnx.NodeProto, **changes: Any) -> bytes:
    """A model that passes unless `changes` spoil it: uint8 [1, 3, 8, 8] cast to float."""
    values: dict[str, Any] = {
        "inputs": [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, 8, 8])],
        "outputs": [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 8, 8])],
        "initializer": [],
        "sparse_initializer": [],
    }
    values.update({k: v for k, v in changes.items() if k in values})
    cast = helper.make_node("Cast", ["pixels"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([cast, *nodes], "g", **values)
    rest = {k: v for k, v in changes.items() if k not in values}
    rest.setdefault("opset_imports", [helper.make_opsetid("", 19)])
    raw: bytes = helper.make_model(graph, ir_version=9, **rest).SerializeToString()
    return raw


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer."""
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes, *, wide: int = 0) -> bytes:
    """A length-delimited field; `wide` is put above the 32 bits that a key may have."""
    return varint(wide << 32 | number << 3 | 2) + varint(len(content)) + content


def integer(number: int, value: int, *, wide: int = 0) -> bytes:
    """A varint field."""
    return varint(wide << 32 | number << 3) + varint(value & (1 << 64) - 1)


def with_node(node: bytes) -> bytes:
    """The model with one more node, written by hand."""
    return _with(message(1, node))


def with_initializer(tensor: bytes) -> bytes:
    """The model with one initializer, written by hand."""
    return _with(message(5, tensor))


def _with(part: bytes) -> bytes:
    whole = onnx.load_model_from_string(model())
    graph = whole.graph.SerializeToString() + part
    whole.ClearField("graph")
    raw: bytes = whole.SerializeToString()
    return raw + message(7, graph)


def tensor(dims: Sequence[int], *, data_type: int = TensorProto.FLOAT, raw: bytes = b"") -> bytes:
    """A tensor of any dimensions, true or not."""
    shape = b"".join(integer(1, size) for size in dims)
    return shape + integer(2, data_type) + message(8, b"w") + message(9, raw)
