"""Look into an ONNX file before any runtime does: no external data, only allowed operators, and no
small file that asks for much memory.

A walk over the protobuf wire format in plain Python, so that a device needs no `onnx` package and
no parser written for trusted input sees the bytes first. Field numbers are those of onnx.proto
(ONNX 1.17, IR version 10 and 11).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from qdr_edge.errors import BundleError

MAPS: Final = "maps"
"""Name of the second output that a model may have: class activation maps, [N, K, h, w]."""
MAX_NODES: Final = 20_000
MAX_DIMENSIONS: Final = 8
MAX_TENSOR_ELEMENTS: Final = 1 << 28
MAX_NAME_BYTES: Final = 1024
MAX_WINDOW: Final = 256
"""Largest kernel, stride, dilation and padding."""
MAX_ENLARGEMENT: Final = 8
"""How many times larger than the image an activation's side may become."""
MAX_COPIES: Final = 1024
"""How many tensors' channels one tensor may hold through concatenation alone."""

_STANDARD: Final = """
    Add AveragePool Cast Clip Concat Constant Conv ConvInteger DequantizeLinear Div Flatten Gemm
    GlobalAveragePool HardSigmoid HardSwish Identity LeakyRelu MatMul MatMulInteger Max MaxPool Min
    Mul QLinearConv QLinearMatMul QuantizeLinear ReduceMean Relu Reshape Resize Sigmoid Squeeze Sub
    Transpose Unsqueeze
"""
# What ONNX Runtime itself writes when it saves an optimized model.
_MICROSOFT: Final = """
    DequantizeLinear FusedConv FusedGemm QGemm QLinearAdd QLinearAveragePool QLinearConcat
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid QuantizeLinear
"""
ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(_STANDARD.split()),
    "com.microsoft": frozenset(_MICROSOFT.split()),
}

_WINDOW_ATTRIBUTES: Final = ("kernel_shape", "strides", "dilations", "pads")
# These give their output channels of their own; all others hand on what they read.
_MIXES_CHANNELS: Final = (
    *("Conv", "ConvInteger", "FusedConv", "QLinearConv", "Gemm", "FusedGemm", "QGemm"),
    *("MatMul", "MatMulInteger", "QLinearMatMul"),
)
# The one form of Resize that copies pixels by whole factors.
_NEAREST: Final = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DENOTATION: Final = 6
_MOST_ELEMENTS_PER_BYTE: Final = 8
_MAX_FIELD: Final = (1 << 29) - 1
_FLOAT: Final = 1
_UINT8: Final = 2
_INT8: Final = 3


@dataclass(frozen=True)
class OnnxFacts:
    """What the check saw. A dimension of 0 is not fixed."""

    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    words: Mapping[str, str]
    numbers: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Value:
    name: str
    data_type: int
    shape: tuple[int, ...]


def check_onnx(model: bytes, *, where: str = "model") -> OnnxFacts:
    """Check that a model is self-contained, of allowed operators, uint8 image in, logits out.

    Args:
        model: the ONNX file.
        where: what to call it in messages.

    Returns:
        What was seen.

    Raises:
        BundleError: anything else.
    """
    try:
        return _check_model(memoryview(model), where)
    except (IndexError, UnicodeDecodeError) as error:
        raise _refused("not an ONNX file, or damaged", where) from error


def largest_int8(model: bytes) -> int:
    """The largest magnitude of an int8 constant in a checked model; 0 if it has none."""
    import numpy as np

    largest = 0
    for tensor in _tensors(memoryview(model), "model"):
        fields = dict(_fields(tensor, "model"))
        if fields.get(2) != _INT8:
            continue
        # Codes stand in raw_data; a file of another maker may hold them as varints.
        raw = fields.get(9)
        if isinstance(raw, memoryview):
            codes = np.frombuffer(raw, np.int8)
            largest = max(largest, -int(codes.min(initial=0)), int(codes.max(initial=0)))
        elif 5 in fields:
            largest = 128
    return largest


def _tensors(model: memoryview, where: str) -> Iterator[memoryview]:
    """The constants of a model's graph, and those that are a node's attribute."""
    for number, graph in _fields(model, where):
        if number != 7:
            continue
        for kind, value in _fields(_bytes(graph, where), where):
            if kind == 5:
                yield _bytes(value, where)
            elif kind == 1:
                for part, attribute in _fields(_bytes(value, where), where):
                    if part == 5:
                        found = _fields(_bytes(attribute, where), where)
                        yield from (_bytes(t, where) for n, t in found if n == 5)


def _check_model(model: memoryview, where: str) -> OnnxFacts:
    opsets: dict[str, int] = {}
    graphs = []
    for number, value in _fields(model, where):
        if number == 7:
            graphs.append(_bytes(value, where))
        elif number == 8:
            domain, version = _opset(_bytes(value, where), where)
            opsets["" if domain == "ai.onnx" else domain] = version
        elif number in (20, 25):
            raise _refused("training information or local functions", where)
    if len(graphs) != 1 or not opsets:
        raise _refused("not an ONNX file with one graph and an operator set", where)
    return _check_graph(graphs[0], opsets, where)


def _check_graph(graph: memoryview, opsets: Mapping[str, int], where: str) -> OnnxFacts:
    nodes: list[_Node] = []
    inputs: list[_Value] = []
    outputs: list[_Value] = []
    initializers: dict[str, memoryview] = {}
    for number, value in _fields(graph, where):
        if number == 1:
            nodes.append(_check_node(_bytes(value, where), where))
            if len(nodes) > MAX_NODES:
                raise _refused(f"more than {MAX_NODES} nodes", where)
        elif number == 5:
            tensor = _bytes(value, where)
            initializers[_check_tensor(tensor, where)] = tensor
        elif number == 11:
            inputs.append(_value_info(_bytes(value, where), where))
        elif number == 12:
            outputs.append(_value_info(_bytes(value, where), where))
        elif number == 15:
            raise _refused("a sparse initializer", where)
    images = [value for value in inputs if value.name not in initializers]
    if len(images) != 1 or images[0].data_type != _UINT8:
        raise _refused("its input is not one uint8 image tensor", where)
    shape = images[0].shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] == 0:
        raise _refused(f"its input has shape {list(shape)}, not [N, 3, S, S]", where)
    if not outputs or any(value.data_type != _FLOAT for value in outputs):
        raise _refused("its output is not one float32 tensor of logits", where)
    if len(outputs) > 2 or (len(outputs) == 2 and outputs[1].name != MAPS):
        raise _refused("it has outputs besides logits and maps", where)
    _check_growth(nodes, images[0].name, initializers, where)
    operators = Counter(node.operator for node in nodes)
    return OnnxFacts(dict(opsets), dict(operators), shape, outputs[0].shape)


def _check_growth(
    nodes: list[_Node], image: str, initializers: Mapping[str, memoryview], where: str
) -> None:
    """Bound what resizing and concatenation can make of an image, along every path."""
    # Of each tensor: its side as a multiple of the image's, and how many tensors' channels it has.
    grown = dict.fromkeys(initializers, (0.0, 1)) | {image: (1.0, 1)}
    for node in nodes:
        try:
            read = [grown[name] for name in node.inputs if name]
        except KeyError as error:
            raise _refused(
                f"{node.operator} reads {error}, made by no earlier node", where
            ) from error
        side = max((side for side, _ in read), default=0.0)
        copies = max((copies for _, copies in read), default=1)
        if node.operator == "Resize":
            side *= _resize_factor(node, initializers, where)
        elif node.operator in ("Concat", "QLinearConcat"):
            # QLinearConcat reads scale and zero point of its output, then three of each input.
            copies = sum(copies for _, copies in (read[2::3] if "Q" in node.operator else read))
        elif node.operator in _MIXES_CHANNELS:
            copies = 1
        side /= min(node.numbers.get("strides") or (1,)) or 1
        if side > MAX_ENLARGEMENT:
            raise _refused(f"an activation {side:g} times as large as the image", where)
        if copies > MAX_COPIES:
            raise _refused(f"a concatenation of {copies} tensors", where)
        grown.update(dict.fromkeys(node.outputs, (side, copies)))


def _resize_factor(node: _Node, initializers: Mapping[str, memoryview], where: str) -> int:
    import numpy as np

    scales = initializers.get(node.inputs[2]) if len(node.inputs) == 3 else None
    if dict(node.words) != _NEAREST or scales is None or node.inputs[1]:
        raise _refused("a Resize that is not nearest by constant factors", where)
    raw = dict(_fields(scales, where)).get(9)
    factors = np.frombuffer(raw, np.float32) if isinstance(raw, memoryview) else np.zeros(0)
    whole = factors.shape == (4,) and np.isin(factors, range(1, MAX_ENLARGEMENT + 1)).all()
    if not whole or (factors[:2] != 1).any():
        raise _refused(f"a Resize by {[float(f) for f in factors[:4]]}", where)
    return int(factors.max())


def _check_node(node: memoryview, where: str) -> _Node:
    operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    words: dict[str, str] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    for number, value in _fields(node, where):
        if number == 1:
            inputs.append(_text(value, where))
        elif number == 2:
            outputs.append(_text(value, where))
        elif number == 4:
            operator = _text(value, where)
        elif number == 7:
            domain = _text(value, where)
        elif number == 5:
            name, word, integers = _check_attribute(_bytes(value, where), where)
            words |= {name: word} if word else {}
            numbers[name] = integers
        elif number == 8:
            raise _refused("an overloaded function call", where)
    domain = "" if domain == "ai.onnx" else domain
    if operator not in ALLOWED.get(domain, ()):
        name = f"{domain}.{operator}" if domain else operator
        raise _refused(f"operator {name!r} is not allowed", where)
    for name in _WINDOW_ATTRIBUTES:
        # A negative number is a huge one in this encoding.
        if max(numbers.get(name, ()), default=0) > MAX_WINDOW:
            raise _refused(f"{name} above {MAX_WINDOW} in {operator}", where)
    return _Node(operator, tuple(inputs), tuple(outputs), words, numbers)


def _check_attribute(attribute: memoryview, where: str) -> tuple[str, str, tuple[int, ...]]:
    """Name, string and integers of an attribute."""
    name = word = ""
    integers: list[int] = []
    tensors = 0
    for number, value in _fields(attribute, where):
        if number == 1:
            name = _text(value, where)
        elif number == 4:
            word = _text(value, where)
        elif number == 8:
            integers += [value] if isinstance(value, int) else list(_varints(value, where))
        elif number in (5, 10):
            tensors += number == 5
            if tensors > 1:
                # A parser would merge them: one tensor of both shapes, which nobody checked.
                raise _refused("an attribute with two values", where)
            _check_tensor(_bytes(value, where), where)
        elif number in (6, 11, 22, 23):
            raise _refused("a subgraph or sparse tensor in an attribute", where)
    return name, word, tuple(integers)


def _check_tensor(tensor: memoryview, where: str) -> str:
    name = ""
    dimensions: list[int] = []
    for number, value in _fields(tensor, where):
        if number == 1:
            # Packed or one by one: both are valid protobuf.
            dimensions += [value] if isinstance(value, int) else list(_varints(value, where))
            if len(dimensions) > MAX_DIMENSIONS:
                raise _refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions", where)
        elif number == 8:
            name = _text(value, where)
        elif number == 13 or (number == 14 and value != 0):
            raise _refused("a tensor with external data", where)
    # Each one too: a dimension of 0 hides the others in the product, a negative one is huge here.
    if max(dimensions, default=0) > MAX_TENSOR_ELEMENTS:
        raise _refused(f"tensor {name!r} with a dimension of {max(dimensions)}", where)
    if math.prod(dimensions) > MAX_TENSOR_ELEMENTS:
        raise _refused(f"tensor {name!r} of {math.prod(dimensions)} elements", where)
    if math.prod(dimensions) > _MOST_ELEMENTS_PER_BYTE * len(tensor):
        raise _refused(f"tensor {name!r} claims more elements than it holds", where)
    return name


def _value_info(info: memoryview, where: str) -> _Value:
    name, data_type = "", 0
    shape: tuple[int, ...] = ()
    types = 0
    for number, value in _fields(info, where):
        if number == 1:
            name = _text(value, where)
        elif number == 2:
            for kind, tensor_type in _fields(_bytes(value, where), where):
                if kind != _DENOTATION:
                    types += 1
                if kind == 1:
                    data_type, shape = _tensor_type(_bytes(tensor_type, where), where)
    if types > 1:
        # A parser would merge them, or keep the last kind only.
        raise _refused(f"value {name!r} with two types", where)
    return _Value(name, data_type, shape)


def _tensor_type(tensor_type: memoryview, where: str) -> tuple[int, tuple[int, ...]]:
    data_type = shapes = 0
    shape: list[int] = []
    for number, value in _fields(tensor_type, where):
        if number == 1 and isinstance(value, int):
            data_type = value
        elif number == 2:
            shapes += 1
            if shapes > 1:
                raise _refused("a type with two shapes", where)
            for kind, dimension in _fields(_bytes(value, where), where):
                if kind == 1:
                    # A number or a name; of several the last one holds.
                    found = [f for f in _fields(_bytes(dimension, where), where) if f[0] in (1, 2)]
                    size = found[-1][1] if found else 0
                    shape.append(size if isinstance(size, int) else 0)
    return data_type, tuple(shape)


def _opset(entry: memoryview, where: str) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in _fields(entry, where):
        if number == 1:
            domain = _text(value, where)
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _fields(message: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value); a value is an integer or the bytes of a nested message.

    Fields of a fixed width are skipped: nothing here is one, and a parser of protobuf ignores a
    known field of the wrong width.
    """
    cursor = 0
    while cursor < len(message):
        key, cursor = _varint(message, cursor, where)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _MAX_FIELD:
            # Other parsers keep the low 32 bits of such a key, and would see another field.
            raise _refused("not an ONNX file, or damaged", where)
        if wire == _VARINT:
            integer, cursor = _varint(message, cursor, where)
            yield number, integer
            continue
        if wire == _LENGTH:
            length, cursor = _varint(message, cursor, where)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _refused("not an ONNX file, or damaged", where)
        if length > len(message) - cursor:
            raise _refused("not an ONNX file, or cut short", where)
        if wire == _LENGTH:
            yield number, message[cursor : cursor + length]
        cursor += length


def _varint(message: memoryview, cursor: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[cursor]
        cursor += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, cursor
    raise _refused("not an ONNX file, or damaged", where)


def _varints(packed: memoryview, where: str) -> Iterator[int]:
    cursor = 0
    while cursor < len(packed):
        value, cursor = _varint(packed, cursor, where)
        yield value


def _bytes(value: int | memoryview, where: str) -> memoryview:
    if isinstance(value, int):
        raise _refused("not an ONNX file, or damaged", where)
    return value


def _text(value: int | memoryview, where: str) -> str:
    raw = _bytes(value, where)
    if len(raw) > MAX_NAME_BYTES:
        raise _refused(f"a name of {len(raw)} bytes", where)
    return bytes(raw).decode("utf-8")


def _refused(what: str, where: str) -> BundleError:
    return BundleError(
        f"model refused: {what}",
        where=where,
        expected="a self-contained ONNX file of allowed operators",
        fix="export the bundle again with this release",
    )
