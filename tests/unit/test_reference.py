"""The reference interpreter against definitions written out the slow way."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdr_edge.errors import ExportError
from qdr_export import reference
from qdr_export.graph.canonical import build_canonical
from qdr_export.reference import Quantized, Reference
from tests.networks import FAMILIES, checkpoint, images


def _quantized(codes: np.ndarray, scale: float | np.ndarray) -> Quantized:
    return Quantized(codes, np.asarray(scale, np.float32))


def _round(value: Fraction) -> int:
    return max(-128, min(127, round(value)))  # Fraction rounds half to even


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["dense", "grouped", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_conv_adds_integers(groups: int, stride: int, dilation: int) -> None:
    random = np.random.default_rng(0)
    x = random.integers(-128, 128, (2, 4, 7, 6), dtype=np.int8)
    w = random.integers(-64, 65, (4, 4 // groups, 3, 3), dtype=np.int8)
    b = random.integers(-500, 500, 4, dtype=np.int32)
    scales = 2.0 ** -random.integers(2, 8, 4)
    attrs = {
        "group": groups,
        "strides": [stride, stride],
        "dilations": [dilation, dilation],
        "pads": [1, 2, 1, 2],
    }
    operands = [_quantized(x, 0.25), _quantized(w, scales), _quantized(b, 0.25 * scales)]
    found = reference.conv(operands, attrs)
    padded = np.pad(x.astype(int), ((0, 0), (0, 0), (1, 1), (2, 2)))
    for n, o, i, j in np.ndindex(found.shape):
        acc = int(b[o])
        for c in range(4 // groups):
            channel = o // (4 // groups) * (4 // groups) + c
            for r in range(3):
                for s in range(3):
                    row, column = i * stride + r * dilation, j * stride + s * dilation
                    acc += int(padded[n, channel, row, column]) * int(w[o, c, r, s])
        assert found[n, o, i, j] == acc * 0.25 * scales[o]


def test_float32_is_used_only_where_it_is_exact() -> None:
    # 128·64·4096 = 2^25: one accumulator more than float32 can hold exactly.
    x = np.full((1, 4096), -128, np.int8)
    x[0, 0] = -127
    w = np.full((2, 4096), -64, np.int8)
    w[1] = 1
    found = reference.gemm(
        [_quantized(x, 1.0), _quantized(w, np.ones(2))], {"transB": 1, "transA": 0}
    )
    assert found.dtype == np.float64
    assert found.tolist() == [[128 * 64 * 4096 - 64, -128 * 4096 + 1]]
    small = reference.gemm([_quantized(x, 1.0), _quantized(w[1:], np.ones(1))], {"transB": 1})
    assert small.dtype == np.float32
    assert small.tolist() == [[-128 * 4096 + 1]]


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.25, 0.75, 1.25, -0.25, 1000, -1000], np.float32)
    scale, zero = np.float32(0.5), np.int8(0)
    found = reference.quantize([x, np.asarray(scale), np.asarray(zero)], {})
    assert found.dtype == np.int8
    assert found.tolist() == [0, 2, 2, 0, 127, -128]
    free = reference.quantize([x, np.asarray(np.float32(0.3)), np.asarray(np.uint8(128))], {})
    assert free.tolist() == [129, 130, 132, 127, 255, 0]


def test_max_pool_padding_never_wins() -> None:
    x = np.full((1, 1, 4, 4), -100, np.int8)
    x[0, 0, 1, 1] = -7
    attrs = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    found = reference.max_pool([_quantized(x, 1.0)], attrs)
    assert isinstance(found, Quantized)
    assert found.codes.tolist() == [[[[-7, -7], [-7, -7]]]]


@pytest.mark.parametrize("positions", [4, 9, 49, 196])
def test_average_pool_rounds_the_exact_mean(positions: int) -> None:
    random = np.random.default_rng(positions)
    side = int(positions**0.5)
    x = random.integers(-128, 128, (64, 1, side, side), dtype=np.int8)
    scale_in, scale_out = 2.0**-4, 2.0**-6
    mean = reference.global_average_pool([_quantized(x, scale_in)], {})
    found = reference.quantize([mean, np.float32(scale_out), np.int8(0)], {})
    for code, picture in zip(found.reshape(-1), x.reshape(64, -1), strict=True):
        exact = Fraction(int(picture.astype(int).sum()), positions)
        assert code == _round(exact * Fraction(scale_in) / Fraction(scale_out))


@pytest.mark.parametrize("op", ["hardswish", "hardsigmoid"])
def test_hard_activations_round_the_exact_value(op: str) -> None:
    codes = np.arange(-128, 128).astype(np.int8)
    for exponent_in in range(-7, 0):
        for exponent_out in range(-8, 0):
            scale_in, scale_out = Fraction(2) ** exponent_in, Fraction(2) ** exponent_out
            x = _quantized(codes, float(scale_in))
            attrs = {"alpha": 1 / 6, "beta": 0.5} if op == "hardsigmoid" else {}
            real = getattr(reference, op)([x], attrs)
            found = reference.quantize([real, np.float32(scale_out), np.int8(0)], {})
            for code, got in zip(codes, found, strict=True):
                value = int(code) * scale_in
                gate = max(Fraction(0), min(Fraction(6), value + 3)) / 6
                exact = gate * (value if op == "hardswish" else 1)
                assert got == _round(exact / scale_out)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_changes_nothing(family: str) -> None:
    model = Reference(build_canonical(checkpoint(family)))
    pixels = images(9)
    whole = model.infer(pixels)
    assert whole.dtype == np.float32
    assert whole.shape == (9, 4)
    np.testing.assert_array_equal(whole, np.concatenate([model.infer(p[None]) for p in pixels]))
    assert model.infer(pixels[:0]).shape == (0, 4)


def test_test_networks_use_their_range() -> None:
    for family in FAMILIES:
        codes = Reference(build_canonical(checkpoint(family))).activations(images(4))
        for name, values in codes.items():
            assert len(np.unique(values)) > 3, f"{family} {name} proves nothing"


def test_unknown_operator_is_named() -> None:
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["pixels"], ["y"], name="odd")],
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )
    with pytest.raises(ExportError, match="Tanh") as caught:
        Reference(helper.make_model(graph).SerializeToString())
    assert caught.value.where == "node odd"


def test_bias_off_the_grid_is_refused() -> None:
    model = onnx.load_model_from_string(build_canonical(checkpoint("student")))
    grid = next(t for t in model.graph.initializer if t.name == "c0:t")
    grid.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(grid) * np.float32(2), "c0:t")
    )
    with pytest.raises(ExportError, match="bias must be int32 at input scale"):
        Reference(model.SerializeToString()).infer(images(1))


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ExportError, match="not an ONNX model"):
        Reference(b"\xff\xfe not a protobuf")
