"""OpenVINO IR in one entry, and a look into it before OpenVINO parses a byte.

    8 bytes   b"QDRIR" 0 0 1
    8 bytes   length of the XML, little-endian
    …         the XML, ASCII
    …         the weights, which the XML refers to by offset and size

The XML is held to the little of XML that OpenVINO itself writes: elements and layer types of
allow-lists, no document type, no entity, no comment, no processing instruction, caps on depth,
lengths and numbers. Every constant must lie inside the weights, and the graph must take a uint8
image and give float32 logits, as check_onnx demands of ONNX. What shapes the layers compute, which
no port has to tell truly, openvino.py asks before anything is compiled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final
from xml.parsers import expat

from qdr_edge.errors import BundleError
from qdr_edge.runtime.onnx_check import (
    MAPS,
    MAX_DIMENSIONS,
    MAX_NODES,
    MAX_TENSOR_ELEMENTS,
    MAX_WINDOW,
)
from qdr_edge.runtime.onnx_wire import MAX_NAME_BYTES

MAGIC: Final = b"QDRIR\0\0\1"
MAX_XML_BYTES: Final = 16 << 20
_LENGTH_BYTES: Final = 8
_HEADER_BYTES: Final = len(MAGIC) + _LENGTH_BYTES
_MAX_DEPTH: Final = 8
# The graph becomes larger than its ONNX form: shapes are computed by layers of their own.
_MAX_LAYERS: Final = 4 * MAX_NODES

_LAYER_TYPES: Final = """
    Add AvgPool Broadcast Clamp Concat Const Convert Convolution Divide FakeQuantize Gather
    GroupConvolution HSigmoid HSwish HardSigmoid Interpolate MatMul MaxPool Maximum Minimum Multiply
    PReLU Parameter Range ReLU ReduceMean Reshape Result ShapeOf Sigmoid Squeeze StridedSlice
    Subtract Swish Transpose Unsqueeze VariadicSplit
"""
_LAYERS: Final = frozenset(_LAYER_TYPES.split())
_ELEMENTS: Final = frozenset(
    ("net", "layers", "layer", "data", "input", "output", "port", "dim", "edges", "edge", "rt_info")
)
_OPSETS: Final = re.compile(r"opset\d{1,2}")
_WINDOWS: Final = ("kernel", "strides", "dilations", "pads_begin", "pads_end")
_NUMBERS: Final = re.compile(r"-?\d{1,10}(,-?\d{1,10})*|")
# What XML may hold here at all: the declaration, and printable ASCII without a reference, document
# type, comment or CDATA section.
_DECLARATION: Final = b'<?xml version="1.0"?>'
_FORBIDDEN: Final = (b"<!", b"<?", b"]]>")
_REFERENCE: Final = re.compile(rb"&(?!(?:lt|gt|quot|apos|amp);)")
_PRINTABLE: Final = re.compile(rb"[\t\n\r\x20-\x7e]*")


def is_ir(model: bytes) -> bool:
    """Whether bytes claim to be an IR entry."""
    return model[: len(MAGIC)] == MAGIC


def pack_ir(xml: bytes, weights: bytes) -> bytes:
    """One entry of an XML and its weights."""
    return MAGIC + len(xml).to_bytes(_LENGTH_BYTES, "little") + xml + weights


def split_ir(model: bytes, *, where: str = "model") -> tuple[bytes, memoryview]:
    """XML and weights of an entry.

    Raises:
        BundleError: It is none, or cut short.
    """
    length = int.from_bytes(model[len(MAGIC) : _HEADER_BYTES], "little")
    if not is_ir(model) or length > min(MAX_XML_BYTES, len(model) - _HEADER_BYTES):
        raise _refused("not an OpenVINO IR entry, or cut short", where)
    end = _HEADER_BYTES + length
    return model[_HEADER_BYTES:end], memoryview(model)[end:]


def check_ir(model: bytes, *, where: str = "model") -> None:
    """Check that an IR entry is what `pack_ir` makes of a network of allowed layers.

    Raises:
        BundleError: Anything else.
    """
    _read(model, where).finish()


def largest_int8(model: bytes) -> int:
    """The largest magnitude of an int8 constant in a checked entry; 0 if it has none."""
    import numpy as np

    weights = split_ir(model)[1]
    codes = [np.frombuffer(weights[a:b], np.int8) for a, b in _read(model, "model").int8_ranges]
    return max((int(np.abs(part.astype(np.int16)).max(initial=0)) for part in codes), default=0)


def _read(model: bytes, where: str) -> _Reader:
    xml, weights = split_ir(model, where=where)
    body = xml.removeprefix(_DECLARATION)
    if body is xml or not _PRINTABLE.fullmatch(body):
        raise _refused("not the XML that OpenVINO writes", where)
    if any(mark in body for mark in _FORBIDDEN) or _REFERENCE.search(body):
        raise _refused("a document type, entity, comment or instruction in its XML", where)
    reader = _Reader(len(weights), where)
    parser = expat.ParserCreate("US-ASCII")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise _refused(f"its XML is malformed: {error}", where) from error
    return reader


class _Reader:
    """Checks one element after the other; nothing of the document is kept but its interface."""

    def __init__(self, weights: int, where: str) -> None:
        self._weights = weights
        self._where = where
        self._path: list[str] = []
        self._layers = 0
        self._type = ""
        self._dims: list[str] = []
        self._dim = ""
        self._port: Mapping[str, str] = {}
        self._inputs: list[tuple[str, str]] = []
        self._outputs: list[tuple[str, tuple[int, ...]]] = []
        self.int8_ranges: list[tuple[int, int]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if tag not in _ELEMENTS:
            raise self._refused(f"element {tag!r} is not allowed")
        if len(self._path) > _MAX_DEPTH:
            raise self._refused(f"elements nested deeper than {_MAX_DEPTH}")
        if any(len(value) > MAX_NAME_BYTES for value in attributes.values()):
            raise self._refused("an attribute that is too long")
        if tag == "layer":
            self._start_layer(attributes)
        elif tag == "data":
            self._check_data(attributes)
        elif tag == "port":
            self._dims, self._port = [], attributes
        elif tag == "dim":
            self._dim = ""

    def end(self, tag: str) -> None:
        self._path.pop()
        if tag == "dim":
            self._dims.append(self._dim)
            if len(self._dims) > MAX_DIMENSIONS:
                raise self._refused(f"a tensor of more than {MAX_DIMENSIONS} dimensions")
        elif tag == "port":
            shape = self._shape(self._dims)
            if self._path[-1:] == ["input"] and self._type == "Result":
                self._outputs.append((self._port.get("precision", ""), shape))

    def text(self, content: str) -> None:
        if self._path[-1] == "dim":
            self._dim += content
            if len(self._dim) > 10:
                raise self._refused("a dimension that is no number")
        elif content.strip():
            raise self._refused("text between its elements")

    def finish(self) -> None:
        """Check the interface: a uint8 image in, float32 logits and at most maps out."""
        if len(self._inputs) != 1 or self._inputs[0][0] != "u8":
            raise self._refused("its input is not one uint8 image tensor")
        shape = self._shape(self._inputs[0][1].split(","))
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise self._refused(f"its input has shape {list(shape)}, not [N, 3, S, S]")
        ranks = [len(shape) for _, shape in self._outputs]
        if ranks not in ([2], [2, 4]) or any(kind != "FP32" for kind, _ in self._outputs):
            raise self._refused(f"its outputs are not float32 logits, with or without {MAPS}")

    def _start_layer(self, attributes: Mapping[str, str]) -> None:
        self._layers += 1
        if self._layers > _MAX_LAYERS:
            raise self._refused(f"more than {_MAX_LAYERS} layers")
        self._type = attributes.get("type", "")
        if self._type not in _LAYERS or not _OPSETS.fullmatch(attributes.get("version", "")):
            raise self._refused(f"layer type {self._type!r} is not allowed")

    def _check_data(self, attributes: Mapping[str, str]) -> None:
        for name in _WINDOWS:
            values = self._numbers(attributes.get(name, ""))
            if max((abs(value) for value in values), default=0) > MAX_WINDOW:
                raise self._refused(f"{name} above {MAX_WINDOW} in {self._type}")
        if self._type == "Parameter":
            self._inputs.append((attributes.get("element_type", ""), attributes.get("shape", "")))
        elif self._type == "Const":
            self._shape([x for x in attributes.get("shape", "").split(",") if x])
            offset, size = (self._numbers(attributes.get(x, "")) for x in ("offset", "size"))
            inside = len(offset) == len(size) == 1 and min(offset + size) >= 0
            if not inside or offset[0] + size[0] > self._weights:
                raise self._refused("a constant outside its weights")
            if attributes.get("element_type") == "i8":
                self.int8_ranges.append((offset[0], offset[0] + size[0]))

    def _numbers(self, text: str) -> list[int]:
        text = text.replace(" ", "")
        if not _NUMBERS.fullmatch(text):
            raise self._refused(f"{text[:40]!r} where numbers should be")
        return [int(part) for part in text.split(",")] if text else []

    def _shape(self, words: list[str]) -> tuple[int, ...]:
        shape = tuple(value for word in words for value in self._numbers(word))
        if len(shape) != len(words) or min(shape, default=1) < 0:
            raise self._refused("a dimension that is not fixed")
        if len(shape) > MAX_DIMENSIONS or math.prod(shape) > MAX_TENSOR_ELEMENTS:
            raise self._refused(f"a tensor of shape {list(shape)[:MAX_DIMENSIONS]}")
        return shape

    def _refused(self, what: str) -> BundleError:
        return _refused(what, self._where)


def _refused(what: str, where: str) -> BundleError:
    return BundleError(
        f"model refused: {what}",
        where=where,
        expected="OpenVINO IR of allowed layers, in one entry",
        fix="export the bundle again with this release",
    )
