"""A stranger's network: the same in float, quantized in training, and the integers it ships."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.scheme import EXACT, PORTABLE, U8, QuantScheme
from qdr_export.canonical import build_canonical
from qdr_export.reference import Reference
from qdr_train.adopt.build import build_own
from qdr_train.adopt.convert import Adopted, adopt
from qdr_train.adopt.source import Source
from qdr_train.models import Classifier
from qdr_train.quant.qat import float_form, prepare_qat, reference_form, set_phase, to_network
from qdr_train.recipe.own import Own
from tests.networks import of_graph
from tests.strangers import SIZE, STRANGERS, stranger

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(seed: int, count: int = 4) -> NDArray[np.uint8]:
    """Images with structure: noise alone would leave deep activations constant."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    large = coarse.repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3).astype(np.int16)
    noisy = large + random.integers(-30, 31, large.shape, dtype=np.int16)
    return noisy.clip(0, 255).astype(np.uint8)


def network_input(images: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).float() - 128) / 64


@cache
def original(name: str) -> nn.Module:
    return stranger(name)


@cache
def adopted(name: str, normalized: bool = False) -> Adopted:
    source = Source(f"{name}.py", "0" * 64, original(name))
    if normalized:
        return adopt(source, SIZE, mean=MEAN, std=STD)
    return adopt(source, SIZE)


def qat_step(network: Classifier, scheme: QuantScheme) -> Classifier:
    """Calibrated, then two real steps, the second of them with scales and BatchNorm frozen."""
    prepared = prepare_qat(network, scheme)
    prepared.eval()
    set_phase(prepared, observers=True, bn_frozen=True)
    with torch.no_grad():
        prepared(network_input(pixels(1)))
    optimizer = torch.optim.SGD([p for p in prepared.parameters() if p.requires_grad], 0.01)
    for step in range(2):
        prepared.train()
        set_phase(prepared, observers=step == 0, bn_frozen=step == 1)
        optimizer.zero_grad()
        (prepared(network_input(pixels(2 + step, 8))) - 1).square().mean().backward()
        optimizer.step()
    prepared.eval()
    set_phase(prepared, observers=False, bn_frozen=True)
    return prepared


@cache
def trained(name: str, scheme: QuantScheme, normalized: bool = False) -> Classifier:
    return qat_step(adopted(name, normalized).network(), scheme)


@torch.no_grad()
def run(network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(network(network_input(images)))


# --- the same function ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRANGERS)
def test_adopted_network_is_the_original_in_float(name: str) -> None:
    images = pixels(0)
    with torch.no_grad():
        expected = np.asarray(original(name)(network_input(images)))
    assert np.std(expected) > 0
    np.testing.assert_allclose(run(adopted(name).network(), images), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv2", "vgg", "densenet"])
def test_normalization_it_was_trained_with_is_kept(name: str) -> None:
    images = pixels(0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        expected = original(name)((torch.from_numpy(images) / 255 - mean) / std)
    ours = run(adopted(name, True).network(), images)
    np.testing.assert_allclose(ours, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("name", STRANGERS)
def test_folded_float_form_is_the_original(name: str) -> None:
    images = pixels(0)
    network = adopted(name).network()
    np.testing.assert_allclose(run(float_form(network), images), run(network, images), atol=2e-4)
    graph, tensors = to_network(network)
    graph.check(tensors, quantized=False)


def test_description_is_data_that_a_recipe_can_hold() -> None:
    own = adopted("se-resnet", normalized=True).own
    again = Own.model_validate_json(own.model_dump_json(), strict=False)
    assert again == own
    torch.manual_seed(0)
    network = build_own(again)
    network.load_state_dict(dict(adopted("se-resnet", normalized=True).weights))
    assert np.array_equal(
        run(network.eval(), pixels(0)), run(adopted("se-resnet", True).network(), pixels(0))
    )


def test_layers_keep_the_names_their_author_gave_them() -> None:
    names = {node.name for node in to_network(adopted("mobilenetv2").network())[0].nodes}
    assert {"features.0.0", "features.2.conv.1.0", "features.2.add", "head"} <= names


def test_dropout_before_the_last_layer_trains_on() -> None:
    assert adopted("mobilenetv2").own.dropout == 0.2
    assert adopted("se-resnet").own.dropout == 0.1


# --- quantized ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [EXACT, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", STRANGERS)
def test_qat_quantizes_and_learns(name: str, scheme: QuantScheme) -> None:
    images = pixels(7)
    prepared = copy.deepcopy(trained(name, scheme))
    assert not np.array_equal(run(prepared, images), run(adopted(name).network(), images))
    quantized = run(prepared, images)
    set_phase(prepared, observers=False, bn_frozen=True, fake_quant=False)
    assert 0 < np.abs(run(prepared, images) - quantized).max() < 1


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", STRANGERS)
def test_reference_form_is_what_the_exporter_computes(name: str, scheme: QuantScheme) -> None:
    normalized = name in ("mobilenetv2", "vgg", "densenet")
    prepared, images = trained(name, scheme, normalized), pixels(9)
    graph, tensors = to_network(prepared)
    graph.check(tensors, quantized=True)
    ours = run(reference_form(prepared), images)
    theirs = Reference(build_canonical(of_graph(graph, tensors, name, scheme))).infer(images)
    if scheme.power_of_two:
        assert np.array_equal(ours, theirs)
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STRANGERS)
def test_relu6_is_taken_in_where_a_layer_alone_feeds_it(name: str) -> None:
    graph = to_network(trained(name, EXACT))[0]
    fused = [node.name for node in graph.nodes if node.activation == "relu6"]
    alone = [node.name for node in graph.nodes if node.op == "relu6"]
    expected = {
        "mobilenetv2": (5, 0),
        "vgg": (1, 0),
        "spellings": (1, 2),
    }
    assert (len(fused), len(alone)) == expected.get(name, (0, 0))


def test_zero_points_hold_zero_and_pixels() -> None:
    graph = to_network(trained("mobilenetv2", U8, True))[0]
    nodes = {node.name: node for node in graph.nodes}
    assert nodes["features.0.0"].zero_point == 0  # ReLU6: nothing below 0
    assert 0 < nodes["features.2.conv.2"].zero_point < 255
    assert nodes["input"].op == "normalize"
    low = -nodes["input"].zero_point * (nodes["input"].scale or 0)
    assert low == pytest.approx(-MEAN[0] / STD[0], abs=0.05)
