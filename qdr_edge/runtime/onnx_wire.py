"""Protobuf's wire format in plain Python, as far as ONNX files use it.

A device then needs no `onnx` package, and no parser written for trusted input sees the bytes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qdr_edge.errors import BundleError

MAX_NAME_BYTES: Final = 1024

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD: Final = (1 << 29) - 1


def fields(message: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value); a value is an integer or the bytes of a nested message.

    Fields of a fixed width are skipped: nothing here is one, and a parser of protobuf ignores a
    known field of the wrong width.

    Raises:
        BundleError: not protobuf, or cut short.
        IndexError: cut short within a number.
    """
    cursor, end = 0, len(message)
    while cursor < end:
        # Most numbers take one byte; reading those in place makes the walk twice as fast.
        key = message[cursor]
        if key < 0x80:
            cursor += 1
        else:
            key, cursor = _varint(message, cursor, where)
        number, kind = key >> 3, key & 7
        if not 0 < number <= _MAX_FIELD:
            # Other parsers keep the low 32 bits of such a key, and would see another field.
            raise refused("not an ONNX file, or damaged", where)
        if kind == _LENGTH:
            length = message[cursor]
            if length < 0x80:
                cursor += 1
            else:
                length, cursor = _varint(message, cursor, where)
            stop = cursor + length
            if stop > end:
                raise refused("not an ONNX file, or cut short", where)
            yield number, message[cursor:stop]
            cursor = stop
        elif kind == _VARINT:
            integer = message[cursor]
            if integer < 0x80:
                cursor += 1
            else:
                integer, cursor = _varint(message, cursor, where)
            yield number, integer
        elif kind in (_FIXED64, _FIXED32):
            cursor += 8 if kind == _FIXED64 else 4
            if cursor > end:
                raise refused("not an ONNX file, or cut short", where)
        else:
            raise refused("not an ONNX file, or damaged", where)


def varints(packed: memoryview, where: str) -> Iterator[int]:
    """Yield the integers of a packed field.

    Raises:
        BundleError: not protobuf.
        IndexError: cut short within a number.
    """
    cursor = 0
    while cursor < len(packed):
        value, cursor = _varint(packed, cursor, where)
        yield value


def as_bytes(value: int | memoryview, where: str) -> memoryview:
    """A field's value that must be bytes or a nested message.

    Raises:
        BundleError: it is a number.
    """
    if isinstance(value, int):
        raise refused("not an ONNX file, or damaged", where)
    return value


def as_text(value: int | memoryview, where: str) -> str:
    """A field's value that must be a short text.

    Raises:
        BundleError: it is a number, or long.
        UnicodeDecodeError: it is not UTF-8.
    """
    raw = as_bytes(value, where)
    if len(raw) > MAX_NAME_BYTES:
        raise refused(f"a name of {len(raw)} bytes", where)
    return str(raw, "utf-8")


def refused(what: str, where: str) -> BundleError:
    """The error for a model that no runtime may see."""
    return BundleError(
        f"model refused: {what}",
        where=where,
        expected="a self-contained ONNX file of allowed operators",
        fix="export the bundle again with this release",
    )


def _varint(message: memoryview, cursor: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[cursor]
        cursor += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 1 << 64:
            return value, cursor
    raise refused("not an ONNX file, or damaged", where)
