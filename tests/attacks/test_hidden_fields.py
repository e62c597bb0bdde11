"""Protobuf that two parsers read differently: what the check skips, the runtime would execute.

ONNX Runtime's parser keeps the low 32 bits of a field's key. A key with bits above them is an
unknown field to a parser that keeps all, and an operator's name or external data to the runtime.
"""

from __future__ import annotations

import pytest

from qdr_edge.errors import BundleError
from qdr_edge.runtime.onnx_check import check_onnx
from tests.attacks.models import (
    integer,
    message,
    model,
    tensor,
    varint,
    with_initializer,
    with_node,
)

RELU = message(1, b"pixels") + message(2, b"y") + message(4, b"Relu")
EXTERNAL = message(1, b"location") + message(2, b"/etc/passwd")


def _refused(raw: bytes, message: str = "not an ONNX file") -> None:
    with pytest.raises(BundleError, match=message):
        check_onnx(raw)


@pytest.mark.parametrize("wide", [1, 2, 7])
def test_a_key_wider_than_32_bits(wide: int) -> None:
    check_onnx(with_node(RELU))
    _refused(with_node(RELU + message(4, b"Loop", wide=wide)))
    _refused(with_node(RELU + message(7, b"evil.domain", wide=wide)))
    good = tensor([4], raw=bytes(16))
    check_onnx(with_initializer(good))
    _refused(with_initializer(good + message(13, EXTERNAL, wide=wide)))
    _refused(with_initializer(good + integer(14, 1, wide=wide)))
    _refused(model() + message(25, b"", wide=wide))


def test_a_field_number_of_zero() -> None:
    _refused(model() + message(0, b"x"))


def test_the_last_of_two_operator_names_counts() -> None:
    _refused(with_node(RELU + message(4, b"Loop")), "operator 'Loop'")
    _refused(with_node(RELU + message(7, b"evil")), "'evil.Relu'")
    check_onnx(with_node(message(4, b"Loop") + RELU))


def test_a_number_of_more_than_64_bits() -> None:
    _refused(with_initializer(b"\x08" + b"\xff" * 9 + b"\x02"))
    _refused(with_initializer(b"\x08" + b"\xff" * 10 + b"\x01"))


def test_parts_that_a_parser_would_merge() -> None:
    graph = model()
    _refused(graph + message(7, b""), "one graph")
    half = tensor([1 << 10], raw=bytes(1 << 10))
    attribute = message(1, b"value") + integer(20, 4) + message(5, half)
    constant = message(2, b"c") + message(4, b"Constant")
    check_onnx(with_node(constant + message(5, attribute)))
    _refused(with_node(constant + message(5, attribute + message(5, half))), "two values")
    shape = message(1, integer(1, 1))
    image = message(1, integer(1, 2) + message(2, shape * 4))
    for types in (
        message(2, image) * 2,
        message(2, image * 2),
        message(2, image + message(4, b"")),
    ):
        _refused(_with_input(types), "two types")
    _refused(
        _with_input(message(2, message(1, integer(1, 2) + message(2, shape) * 2))), "two shapes"
    )


def test_groups_and_wire_types_that_do_not_exist() -> None:
    for wire in (3, 4, 6, 7):
        _refused(model() + varint(99 << 3 | wire) + b"\0" * 8)


def test_fixed_width_fields_are_no_dimensions() -> None:
    """Eight zero bytes as `dims` would be a product of 0 to us and nothing to a parser."""
    zeros = varint(1 << 3 | 1) + bytes(8)
    _refused(with_initializer(zeros + tensor([1 << 27])), "claims more elements")


def _with_input(types: bytes) -> bytes:
    info = message(11, message(1, b"second") + types)
    return message(7, info) + integer(1, 9) + message(8, integer(2, 19))
