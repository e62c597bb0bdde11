"""Tensors that claim more than they hold, and shapes that overflow a product."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from qdr_edge.errors import BundleError
from qdr_edge.runtime.onnx_check import MAX_NODES, MAX_TENSOR_ELEMENTS, check_onnx
from tests.attacks.models import integer, message, model, tensor, with_initializer, with_node


def _refused(raw: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check_onnx(raw)


def test_the_models_made_here_pass_unspoiled() -> None:
    check_onnx(model())
    check_onnx(with_initializer(tensor([2, 2], raw=bytes(16))))
    check_onnx(with_initializer(tensor([0], raw=b"")))
    check_onnx(with_node(b"".join([message(1, b"pixels"), message(2, b"y"), message(4, b"Relu")])))


@pytest.mark.parametrize(
    "dims",
    [
        [1 << 20, 1 << 20],
        [1 << 32, 1 << 32],
        [1 << 31, 1 << 31, 4],
        [MAX_TENSOR_ELEMENTS, 2],
        [1 << 62, 4],
    ],
    ids=str,
)
def test_a_product_over_the_cap(dims: list[int]) -> None:
    _refused(with_initializer(tensor(dims)), "elements|dimension")


@pytest.mark.parametrize("dims", [[-1], [2, -1], [0, -1], [0, 1 << 40], [-(1 << 63)]], ids=str)
def test_a_negative_or_hidden_dimension(dims: list[int]) -> None:
    """A dimension of 0 makes every product 0; a negative one wraps in the runtime's arithmetic."""
    _refused(with_initializer(tensor(dims)), "a dimension of")


def test_a_tensor_without_its_bytes() -> None:
    _refused(with_initializer(tensor([1 << 27])), "claims more elements than it holds")
    _refused(with_initializer(tensor([1 << 20], raw=bytes(64))), "claims more elements")
    packed = tensor([4]).replace(integer(1, 4), message(1, b"\x80\x80\x80\x40"), 1)
    _refused(with_initializer(packed), "claims more elements")


def test_more_dimensions_than_any_tensor_has() -> None:
    _refused(with_initializer(tensor([1] * 9)), "8 dimensions")
    _refused(with_initializer(message(1, b"\1" * 9)), "8 dimensions")


def test_an_input_that_is_no_square_image() -> None:
    for shape in ([1, 3, 0, 0], [1, 3, 8, 9], [3, 8, 8], [1, 4, 8, 8], [1, 3, 8, 8, 1], []):
        value = helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)
        _refused(model(inputs=[value]), "shape")


def test_more_nodes_than_the_cap() -> None:
    relu = helper.make_node("Relu", ["pixels"], ["y"])
    _refused(model(*[relu] * MAX_NODES), f"more than {MAX_NODES} nodes")


def test_a_name_over_the_cap() -> None:
    _refused(model(helper.make_node("R" * 5000, ["pixels"], ["y"])), "a name of 5000 bytes")
