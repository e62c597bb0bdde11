"""Look into an ONNX file before any runtime does: no external data, only allowed operators, and no
small file that asks for much memory.

Field numbers are those of onnx.proto (ONNX 1.17, IR version 10 and 11); onnx_wire.py reads them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from qdr_edge.runtime.onnx_wire import as_bytes, as_text, fields, refused, varints

MAPS: Final = "maps"
"""Name of the second output that a model may have: class activation maps, [N, K, h, w]."""
MAX_NODES: Final = 20_000
MAX_DIMENSIONS: Final = 8
MAX_TENSOR_ELEMENTS: Final = 1 << 28
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

_DENOTATION: Final = 6
_MOST_ELEMENTS_PER_BYTE: Final = 8
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
        raise refused("not an ONNX file, or damaged", where) from error


def largest_int8(model: bytes) -> int:
    """The largest magnitude of an int8 constant in a checked model; 0 if it has none."""
    import numpy as np

    largest = 0
    for tensor in _tensors(memoryview(model), "model"):
        parts = dict(fields(tensor, "model"))
        if parts.get(2) != _INT8:
            continue
        # Codes stand in raw_data; a file of another maker may hold them as varints.
        raw = parts.get(9)
        if isinstance(raw, memoryview):
            codes = np.frombuffer(raw, np.int8)
            largest = max(largest, -int(codes.min(initial=0)), int(codes.max(initial=0)))
        elif 5 in parts:
            largest = 128
    return largest


def _tensors(model: memoryview, where: str) -> Iterator[memoryview]:
    """The constants of a model's graph, and those that are a node's attribute."""
    for number, graph in fields(model, where):
        if number != 7:
            continue
        for kind, value in fields(as_bytes(graph, where), where):
            if kind == 5:
                yield as_bytes(value, where)
            elif kind == 1:
                for part, attribute in fields(as_bytes(value, where), where):
                    if part == 5:
                        found = fields(as_bytes(attribute, where), where)
                        yield from (as_bytes(t, where) for n, t in found if n == 5)


def _check_model(model: memoryview, where: str) -> OnnxFacts:
    opsets: dict[str, int] = {}
    graphs = []
    for number, value in fields(model, where):
        if number == 7:
            graphs.append(as_bytes(value, where))
        elif number == 8:
            domain, version = _opset(as_bytes(value, where), where)
            opsets["" if domain == "ai.onnx" else domain] = version
        elif number in (20, 25):
            raise refused("training information or local functions", where)
    if len(graphs) != 1 or not opsets:
        raise refused("not an ONNX file with one graph and an operator set", where)
    return _check_graph(graphs[0], opsets, where)


def _check_graph(graph: memoryview, opsets: Mapping[str, int], where: str) -> OnnxFacts:
    nodes: list[_Node] = []
    inputs: list[_Value] = []
    outputs: list[_Value] = []
    initializers: dict[str, memoryview] = {}
    for number, value in fields(graph, where):
        if number == 1:
            nodes.append(_check_node(as_bytes(value, where), where))
            if len(nodes) > MAX_NODES:
                raise refused(f"more than {MAX_NODES} nodes", where)
        elif number == 5:
            tensor = as_bytes(value, where)
            initializers[_check_tensor(tensor, where)] = tensor
        elif number == 11:
            inputs.append(_value_info(as_bytes(value, where), where))
        elif number == 12:
            outputs.append(_value_info(as_bytes(value, where), where))
        elif number == 15:
            raise refused("a sparse initializer", where)
    images = [value for value in inputs if value.name not in initializers]
    if len(images) != 1 or images[0].data_type != _UINT8:
        raise refused("its input is not one uint8 image tensor", where)
    shape = images[0].shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] == 0:
        raise refused(f"its input has shape {list(shape)}, not [N, 3, S, S]", where)
    if not outputs or any(value.data_type != _FLOAT for value in outputs):
        raise refused("its output is not one float32 tensor of logits", where)
    if len(outputs) > 2 or (len(outputs) == 2 and outputs[1].name != MAPS):
        raise refused("it has outputs besides logits and maps", where)
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
            raise refused(
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
            raise refused(f"an activation {side:g} times as large as the image", where)
        if copies > MAX_COPIES:
            raise refused(f"a concatenation of {copies} tensors", where)
        grown.update(dict.fromkeys(node.outputs, (side, copies)))


def _resize_factor(node: _Node, initializers: Mapping[str, memoryview], where: str) -> int:
    import numpy as np

    scales = initializers.get(node.inputs[2]) if len(node.inputs) == 3 else None
    if dict(node.words) != _NEAREST or scales is None or node.inputs[1]:
        raise refused("a Resize that is not nearest by constant factors", where)
    raw = dict(fields(scales, where)).get(9)
    factors = np.frombuffer(raw, np.float32) if isinstance(raw, memoryview) else np.zeros(0)
    whole = factors.shape == (4,) and np.isin(factors, range(1, MAX_ENLARGEMENT + 1)).all()
    if not whole or (factors[:2] != 1).any():
        raise refused(f"a Resize by {[float(f) for f in factors[:4]]}", where)
    return int(factors.max())


def _check_node(node: memoryview, where: str) -> _Node:
    operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    words: dict[str, str] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    for number, value in fields(node, where):
        if number == 1:
            inputs.append(as_text(value, where))
        elif number == 2:
            outputs.append(as_text(value, where))
        elif number == 4:
            operator = as_text(value, where)
        elif number == 7:
            domain = as_text(value, where)
        elif number == 5:
            name, word, integers = _check_attribute(as_bytes(value, where), where)
            words |= {name: word} if word else {}
            numbers[name] = integers
        elif number == 8:
            raise refused("an overloaded function call", where)
    domain = "" if domain == "ai.onnx" else domain
    if operator not in ALLOWED.get(domain, ()):
        name = f"{domain}.{operator}" if domain else operator
        raise refused(f"operator {name!r} is not allowed", where)
    for name in _WINDOW_ATTRIBUTES:
        # A negative number is a huge one in this encoding.
        if max(numbers.get(name, ()), default=0) > MAX_WINDOW:
            raise refused(f"{name} above {MAX_WINDOW} in {operator}", where)
    return _Node(operator, tuple(inputs), tuple(outputs), words, numbers)


def _check_attribute(attribute: memoryview, where: str) -> tuple[str, str, tuple[int, ...]]:
    """Name, string and integers of an attribute."""
    name = word = ""
    integers: list[int] = []
    tensors = 0
    for number, value in fields(attribute, where):
        if number == 1:
            name = as_text(value, where)
        elif number == 4:
            word = as_text(value, where)
        elif number == 8:
            integers += [value] if isinstance(value, int) else list(varints(value, where))
        elif number in (5, 10):
            tensors += number == 5
            if tensors > 1:
                # A parser would merge them: one tensor of both shapes, which nobody checked.
                raise refused("an attribute with two values", where)
            _check_tensor(as_bytes(value, where), where)
        elif number in (6, 11, 22, 23):
            raise refused("a subgraph or sparse tensor in an attribute", where)
    return name, word, tuple(integers)


def _check_tensor(tensor: memoryview, where: str) -> str:
    name = ""
    dimensions: list[int] = []
    for number, value in fields(tensor, where):
        if number == 1:
            # Packed or one by one: both are valid protobuf.
            dimensions += [value] if isinstance(value, int) else list(varints(value, where))
            if len(dimensions) > MAX_DIMENSIONS:
                raise refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions", where)
        elif number == 8:
            name = as_text(value, where)
        elif number == 13 or (number == 14 and value != 0):
            raise refused("a tensor with external data", where)
    # Each one too: a dimension of 0 hides the others in the product, a negative one is huge here.
    if max(dimensions, default=0) > MAX_TENSOR_ELEMENTS:
        raise refused(f"tensor {name!r} with a dimension of {max(dimensions)}", where)
    if math.prod(dimensions) > MAX_TENSOR_ELEMENTS:
        raise refused(f"tensor {name!r} of {math.prod(dimensions)} elements", where)
    if math.prod(dimensions) > _MOST_ELEMENTS_PER_BYTE * len(tensor):
        raise refused(f"tensor {name!r} claims more elements than it holds", where)
    return name


def _value_info(info: memoryview, where: str) -> _Value:
    name, data_type = "", 0
    shape: tuple[int, ...] = ()
    types = 0
    for number, value in fields(info, where):
        if number == 1:
            name = as_text(value, where)
        elif number == 2:
            for kind, tensor_type in fields(as_bytes(value, where), where):
                if kind != _DENOTATION:
                    types += 1
                if kind == 1:
                    data_type, shape = _tensor_type(as_bytes(tensor_type, where), where)
    if types > 1:
        # A parser would merge them, or keep the last kind only.
        raise refused(f"value {name!r} with two types", where)
    return _Value(name, data_type, shape)


def _tensor_type(tensor_type: memoryview, where: str) -> tuple[int, tuple[int, ...]]:
    data_type = shapes = 0
    shape: list[int] = []
    for number, value in fields(tensor_type, where):
        if number == 1 and isinstance(value, int):
            data_type = value
        elif number == 2:
            shapes += 1
            if shapes > 1:
                raise refused("a type with two shapes", where)
            for kind, dimension in fields(as_bytes(value, where), where):
                if kind == 1:
                    # A number or a name; of several the last one holds.
                    found = [f for f in fields(as_bytes(dimension, where), where) if f[0] in (1, 2)]
                    size = found[-1][1] if found else 0
                    shape.append(size if isinstance(size, int) else 0)
    return data_type, tuple(shape)


def _opset(entry: memoryview, where: str) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in fields(entry, where):
        if number == 1:
            domain = as_text(value, where)
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version
