"""Defects of the published code that quantization here must not have (their numbers in the issue).

1  Its int8 network adds each residual twice.
2  Its "quantization-aware" training never quantizes: the forward pass is the float one's bit for
   bit, and every reported figure is the float model's.
4  Its BatchNorm is never folded and its weights have one scale a tensor.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.runtime import open_model
from qdr_edge.scheme import EXACT
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.onnx_graph import GraphView
from qdr_train.models import Classifier, build
from qdr_train.quant.qat import float_form, prepare_qat, reference_form, set_phase, to_network
from tests.networks import LABELS, images, of_graph

RESIDUAL = [
    "qdr-small",
    pytest.param("resnet18", marks=pytest.mark.full),
    pytest.param("mobilenetv3-small", marks=pytest.mark.full),
]


def network_input(pixels: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(pixels).float() - 128) / 64


@cache
def trained(name: str) -> Classifier:
    """A few real steps of quantization-aware training, then the final phase."""
    torch.manual_seed(0)
    model = build(name, len(LABELS), width=0.25, dropout=0.0)
    with torch.no_grad():
        model.train()(network_input(images(8)))
    prepared = prepare_qat(model, EXACT)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.02)
    for step in range(3):
        optimizer.zero_grad()
        (prepared(network_input(images(4, seed=step))) - 1).square().mean().backward()
        optimizer.step()
    set_phase(prepared.eval(), observers=False, bn_frozen=True)
    return prepared


@torch.no_grad()
def run(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(model(network_input(pixels)))


def exported(name: str) -> bytes:
    return build_canonical(of_graph(*to_network(trained(name)), name))


@pytest.mark.parametrize("form", [float_form, reference_form], ids=["float", "int8"])
@pytest.mark.parametrize("name", RESIDUAL)
def test_defect_1_a_residual_is_added_once(name: str, form: object) -> None:
    """Every sum is exactly the sum of its two operands, in the network that ships as well."""
    assert callable(form)
    model = form(trained(name))
    seen = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        nonlocal seen
        total = inputs[0].double() + inputs[1].double()
        total = torch.relu(total) if module.relu else total
        assert not torch.equal(inputs[0], inputs[1])
        assert float(inputs[1].abs().max()) > 0
        if form is float_form:
            assert torch.allclose(output.double(), total, rtol=1e-6, atol=1e-7)
        else:  # the sum on its own int8 grid
            step = float(module.output_quantizer.scale)  # type: ignore[arg-type, union-attr]
            expected = torch.round(total / step).clamp(-128, 127) * step
            assert torch.equal(output.double(), expected)
        seen += 1

    for module in model.modules():
        if getattr(module, "op", "") == "add":
            module.register_forward_hook(hook)
    run(model, images(2))
    adds = list(GraphView(exported(name)).of_type("Add"))
    assert seen == len(adds) > 0
    # In what ships each operand is added once and read from its own branch.
    assert all(len(set(node.input)) == 2 for node in adds)


@pytest.mark.parametrize("name", RESIDUAL)
def test_defect_2_training_quantizes_and_its_figures_are_of_what_ships(name: str) -> None:
    prepared, pixels = trained(name), images(6, seed=9)
    quantized = run(prepared, pixels)
    plain = copy.deepcopy(prepared)
    set_phase(plain, observers=False, bn_frozen=True, fake_quant=False)
    assert (quantized != run(plain, pixels)).mean() > 0.9
    figures_are_of = run(reference_form(prepared), pixels)
    session = open_model("onnxruntime", emitter("onnxruntime-x86")(exported(name)), threads=1)
    np.testing.assert_array_equal(session.infer(pixels), figures_are_of)
    session.close()


@pytest.mark.parametrize("name", RESIDUAL)
def test_defect_4_batch_norm_is_folded_and_weights_have_a_scale_a_channel(name: str) -> None:
    prepared = trained(name)
    for form in (float_form(prepared), reference_form(prepared)):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())
    # The fold must matter: BatchNorm does something in the network that was trained.
    layer = prepared.get_submodule(
        {"qdr-small": "backbone.stem.0", "resnet18": "backbone.conv1"}.get(
            name, "backbone.features.0.0"
        )
    )
    assert not torch.allclose(layer.bn.running_var, torch.ones(()))  # type: ignore[union-attr]
    view = GraphView(exported(name))
    assert not list(view.of_type("BatchNormalization"))
    many = 0
    for node in view.of_type("Conv", "Gemm"):
        weight = view.dequantized(node.input[1])
        assert weight is not None
        codes = view.constants[weight.input[0]]
        assert codes.dtype == np.int8
        scale = view.scale(weight)
        assert scale.shape == (len(codes),)
        many += len(np.unique(scale)) > 1
    assert many > len(list(view.of_type("Conv"))) / 2
