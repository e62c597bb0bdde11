"""Layers kept in float: chosen by glob, carried from training to every runtime."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qdr_edge.errors import CheckpointError, RecipeError
from qdr_edge.graph import Graph
from qdr_edge.runtime import open_model
from qdr_edge.scheme import EXACT, PORTABLE, QuantScheme
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.float_twin import build_float_twin
from qdr_export.lint.check import lint_model
from qdr_export.profiles import DEFAULT_TARGETS, load_profile
from qdr_export.proof.parity import ROUNDING_STEPS, rounding_steps
from qdr_export.proof.readback import read_back
from qdr_export.proof.rungs import open_as_written
from qdr_export.reference import Reference
from qdr_train.models import build
from qdr_train.quant.exclude import float_layers
from qdr_train.quant.qat import prepare_qat, reference_form, set_phase, to_network
from qdr_train.recipe.parts import Quantization
from tests.networks import FAMILIES, LABELS, checkpoint, images, of_graph, with_float

BACKENDS = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}
# First, a residual's last convolution, a grouped one, and the head, where the family has them.
CHOSEN = {
    "resnet": ("stem", "b1.2", "b2.1"),
    "mobilenet": ("b0.w", "b0.p", "fc"),
    "student": ("c0", "c2", "c3", "fc"),
}


@cache
def mixed(family: str, scheme: QuantScheme = EXACT) -> Checkpoint:
    return with_float(checkpoint(family, scheme=scheme), CHOSEN[family])


def network_input(pixels: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(pixels).float() - 128) / 64


@torch.no_grad()
def run(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(model(network_input(pixels)))


# --- which layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"first_layer": "float"}, ["backbone.conv1"]),
        ({"last_layer": "float"}, ["head"]),
        (
            {"exclude": ("backbone.layer1.0.*", "head")},
            ["backbone.layer1.0.conv1", "backbone.layer1.0.conv2", "head"],
        ),
        ({"exclude": ("layer2.*.downsample.0",)}, ["backbone.layer2.0.downsample.0"]),
    ],
)
def test_globs_and_policies_choose_layers(settings: dict[str, object], expected: list[str]) -> None:
    model = build("resnet18", 3, width=0.25)
    assert list(float_layers(model, Quantization.model_validate(settings))) == expected


def test_a_glob_without_layers_names_the_nearest() -> None:
    model = build("resnet18", 3, width=0.25)
    with pytest.raises(RecipeError, match="matches no layer") as caught:
        prepare_qat(model, EXACT, Quantization(exclude=("backbone.layer5.0.conv1",)))
    assert "backbone.layer4.0.conv1, backbone.layer3.0.conv1" in str(caught.value)


# --- training ------------------------------------------------------------------------------------

EXCLUDED = {
    "qdr-small": ("stem.0", "*conv2*"),
    "resnet18": ("layer2.*", "head"),
    "mobilenetv3-small": ("features.3.*",),
}


@pytest.mark.parametrize(
    "name",
    [
        "qdr-small",
        pytest.param("resnet18", marks=pytest.mark.full),
        pytest.param("mobilenetv3-small", marks=pytest.mark.full),
    ],
)
def test_reference_form_computes_the_exported_network(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, len(LABELS), width=0.25, dropout=0.0)
    with torch.no_grad():  # BatchNorm as a network that was trained in float brings it
        model.train()(network_input(images(8)))
    settings = Quantization(exclude=EXCLUDED[name])
    prepared = prepare_qat(model, EXACT, settings)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.02)
    for step in range(3):
        optimizer.zero_grad()
        (prepared(network_input(images(4, seed=step))) - 1).square().mean().backward()
        optimizer.step()
    set_phase(prepared.eval(), observers=False, bn_frozen=True)
    graph, tensors = to_network(prepared)
    expected = {n.removeprefix("backbone.") for n in float_layers(model, settings)}
    assert set(graph.float_layers) == expected
    assert {k for k in tensors if k.endswith("weight_scale")} == {
        f"{n.name}.weight_scale"
        for n in graph.nodes
        if n.op in ("conv", "linear") and n.name not in expected
    }
    pixels = images(6, seed=9)
    logits = run(reference_form(prepared), pixels)
    canonical = build_canonical(of_graph(graph, tensors, name))
    np.testing.assert_array_equal(Reference(canonical).infer(pixels), logits)
    # In float arithmetic, but not out of it: the layer reads and writes codes.
    assert not np.array_equal(logits, run(reference_form(fully_quantized(prepared)), pixels))


def fully_quantized(prepared: nn.Module) -> nn.Module:
    """The same network, weights and scales with every layer in int8."""
    name = "qdr-small" if hasattr(prepared.backbone, "stem") else "resnet18"
    if hasattr(prepared.backbone, "features"):
        name = "mobilenetv3-small"
    whole = prepare_qat(build(name, len(LABELS), width=0.25, dropout=0.0), EXACT)
    whole(network_input(images(2)))
    set_phase(whole.eval(), observers=False, bn_frozen=True)
    missing = whole.load_state_dict(prepared.state_dict(), strict=False)
    assert not missing.unexpected_keys
    for module in whole.modules():
        weight = getattr(module, "weight_fake_quant", None)
        if weight is not None:  # observe the weights that the float layers had none for
            weight.enable_observer()
    run(whole, images(1))
    set_phase(whole, observers=False, bn_frozen=True)
    return copy.deepcopy(whole)


# --- files ---------------------------------------------------------------------------------------


def test_checkpoint_keeps_float_layers(tmp_path: Path) -> None:
    made = mixed("resnet")
    save_checkpoint(tmp_path, made)
    read = load_checkpoint(tmp_path)
    assert read.graph == made.graph
    assert read.graph.float_layers == CHOSEN["resnet"]


def test_a_float_layer_needs_no_weight_scale_and_others_do() -> None:
    made = mixed("resnet")
    made.graph.check(made.tensors, quantized=True)
    tensors = {k: v for k, v in made.tensors.items() if k != "b0.1.weight_scale"}
    with pytest.raises(CheckpointError, match=r"b0\.1\.weight_scale is missing"):
        made.graph.check(tensors, quantized=True)
    nodes = [replace(n, in_float=n.in_float or n.op == "add") for n in made.graph.nodes]
    with pytest.raises(CheckpointError, match="in_float on add"):
        Graph(tuple(nodes)).check(made.tensors, quantized=True)


# Of canonical, three artefacts, float twin and graph of networks without float layers.
BEFORE = {
    "resnet": "69438c35aed6fb7f",
    "mobilenet": "cfedef9067372bb3",
    "student": "854703d6c64e29e8",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_float_layers_every_artefact_keeps_its_bytes(family: str) -> None:
    made = checkpoint(family)
    canonical = build_canonical(made)
    parts = [canonical, *(emitter(load_profile(t).emitter)(canonical) for t in TARGETS)]
    parts += [build_float_twin(made), canonical_graph(made)]
    assert hashlib.sha256(b"".join(parts)).hexdigest()[:16] == BEFORE[family]


TARGETS = ("ort-x86", "openvino", "tensorrt-10")


def canonical_graph(made: Checkpoint) -> bytes:
    import json

    return json.dumps(made.graph.to_dict(), sort_keys=True).encode()


# --- runtimes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme",
    [EXACT, pytest.param(PORTABLE, marks=pytest.mark.full)],
    ids=lambda s: s.name,
)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_runtimes_agree_to_a_few_steps(family: str, backend: str, scheme: QuantScheme) -> None:
    canonical = build_canonical(mixed(family, scheme))
    pixels = images(8)
    expected = Reference(canonical).infer(pixels)
    session = open_model(backend, emitter(BACKENDS[backend])(canonical), threads=1)
    found = session.infer(pixels)
    session.close()
    step = np.abs(expected).max() / 127
    assert np.abs(found - expected).max() <= ROUNDING_STEPS * step
    whole = Reference(build_canonical(checkpoint(family, scheme=scheme))).infer(pixels)
    assert not np.array_equal(whole, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_read_back_shows_what_stays_in_float(family: str, backend: str) -> None:
    model = emitter(BACKENDS[backend])(build_canonical(mixed(family)))
    seen = read_back(backend, model)
    assert {layer.name for layer in seen.float_layers} == set(CHOSEN[family])
    assert 0 < seen.int8_share < 1


def test_onnxruntime_would_quantize_float_weights_unasked() -> None:
    """The LeakyRelu is no decoration: without it the layers are computed in int8 after all."""
    model = onnx.load_model_from_string(
        emitter("onnxruntime-x86")(build_canonical(mixed("resnet")))
    )
    kept = [n for n in model.graph.node if n.op_type == "LeakyRelu"]
    assert len(kept) == len(CHOSEN["resnet"])
    for node in kept:
        producer = next(n for n in model.graph.node if n.output[0] == node.input[0])
        producer.output[0] = node.output[0]
        model.graph.node.remove(node)
    unprotected = model.SerializeToString()
    assert read_back("onnxruntime", unprotected).int8_share == 1
    assert {f.rule for f in lint_model(unprotected, "ort-x86")} == {"float-weight"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", DEFAULT_TARGETS)
def test_emitted_graphs_keep_every_rule(family: str, target: str) -> None:
    model = emitter(load_profile(target).emitter)(build_canonical(mixed(family)))
    assert lint_model(model, target) == []


@pytest.mark.parametrize("target", ["tensorrt-10", "tensorrt-11"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tensorrt_graph_stays_near_the_reference(family: str, target: str) -> None:
    canonical = build_canonical(mixed(family))
    pixels = images(8)
    expected = Reference(canonical).infer(pixels)
    session = open_as_written(emitter(target)(canonical), 1)
    assert np.abs(session.infer(pixels) - expected).max() < 0.2 * np.abs(expected).max()
    session.close()


def test_equal_bits_are_demanded_only_where_they_can_be() -> None:
    assert rounding_steps(checkpoint("resnet")) == 0
    assert rounding_steps(mixed("resnet")) == ROUNDING_STEPS
    assert rounding_steps(checkpoint("resnet", scheme=PORTABLE)) == ROUNDING_STEPS
