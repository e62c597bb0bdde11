"""Every operator under both kinds of zero point: the reference computes the specification."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qdr_edge.errors import ExportError
from qdr_edge.graph import Graph
from qdr_edge.scheme import EXACT, PORTABLE, U8, QuantScheme
from qdr_export.canonical import build_canonical
from qdr_export.onnx_graph import GraphView, attributes
from qdr_export.reference import Reference
from tests.integers import interpret
from tests.networks import FAMILIES, Sketch, checkpoint, from_sketch, images
from tests.sketches import OPERATORS, random_network, uniform

SIZE = 32


def _agrees(sketch: Sketch, scheme: QuantScheme) -> None:
    made = from_sketch(sketch, scheme=scheme, size=SIZE)
    made.graph.check(made.tensors, quantized=True)
    pixels = images(1, SIZE)
    found = Reference(build_canonical(made)).activations(pixels)
    for name, codes in interpret(made, pixels).items():
        if name != "pixels":
            np.testing.assert_array_equal(found[f"{name}:q"], codes, err_msg=name)


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", OPERATORS)
def test_reference_computes_the_specification(name: str, scheme: QuantScheme) -> None:
    _agrees(OPERATORS[name](1), scheme)


@pytest.mark.parametrize("scheme", [EXACT, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(4))
def test_reference_computes_random_networks(seed: int, scheme: QuantScheme) -> None:
    _agrees(random_network(uniform(seed), seed, 6), scheme)


@pytest.mark.parametrize("scheme", [EXACT, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", OPERATORS)
def test_networks_of_these_tests_use_their_range(name: str, scheme: QuantScheme) -> None:
    made = from_sketch(OPERATORS[name](1), scheme=scheme, size=SIZE)
    codes = Reference(build_canonical(made)).activations(images(4, SIZE))
    for tensor, values in codes.items():
        assert len(np.unique(values)) > 3, f"{tensor} proves nothing"


def test_u8_codes_are_unsigned_and_have_zero_points() -> None:
    view = GraphView(build_canonical(checkpoint("mobilenet", scheme=U8)))
    zeros = [view.zero_point(node) for node in view.of_type("QuantizeLinear")]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert len({int(zero) for zero in zeros}) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_u8_students_compute_the_specification(family: str) -> None:
    made = checkpoint(family, scheme=U8, size=SIZE)
    pixels = images(1, SIZE)
    found = Reference(build_canonical(made)).activations(pixels)
    for name, codes in interpret(made, pixels).items():
        if name != "pixels":
            np.testing.assert_array_equal(found[f"{name}:q"], codes, err_msg=name)


def test_a_zero_point_under_a_symmetric_scheme_is_refused() -> None:
    made = checkpoint("student")
    nodes = [replace(n, zero_point=3) if n.name == "c1" else n for n in made.graph.nodes]
    with pytest.raises(ExportError, match="zero point 3") as caught:
        build_canonical(replace(made, graph=Graph(tuple(nodes))))
    assert caught.value.where == "node c1"


def test_normalized_pixels_are_read_as_they_are() -> None:
    view = GraphView(build_canonical(from_sketch(OPERATORS["normalize"](0))))
    (reader,) = view.consumers["pixels"]
    assert reader.op_type == "Cast"
    product, total = (next(view.of_type(op)) for op in ("Mul", "Add"))
    assert view.constants[product.input[1]].shape == (1, 3, 1, 1)
    assert view.constants[total.input[1]].shape == (1, 3, 1, 1)
    assert view.consumers[total.output[0]][0].op_type == "QuantizeLinear"


def test_canonical_forms_keep_to_the_opset() -> None:
    view = GraphView(build_canonical(from_sketch(OPERATORS["pyramid"](0))))
    pools = [attributes(n)["count_include_pad"] for n in view.of_type("AveragePool")]
    assert pools == [0, 1]
    assert [attributes(n)["axis"] for n in view.of_type("Concat")] == [1, 1]
    (resize,) = view.of_type("Resize")
    assert view.constants[resize.input[2]].tolist() == [1, 1, 2, 2]
    for clip in view.of_type("Clip"):
        assert [float(view.constants[name]) for name in clip.input[1:]] == [0, 6]
