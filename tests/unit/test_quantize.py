"""Fake quantization is real, and the reference form computes the integers it promises."""

from __future__ import annotations

import copy
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.errors import CheckpointError
from qdr_edge.graph import INPUT, Graph, Node
from qdr_edge.scheme import EXACT, EXACT_WIDE, INPUT_SCALE, PORTABLE, SCHEMES, QuantScheme
from qdr_train.models import MODELS, Classifier, build
from qdr_train.quant.network import accumulator_bounds, max_accumulator
from qdr_train.quant.qat import (
    float_form,
    is_prepared,
    prepare_qat,
    reference_form,
    set_phase,
    to_network,
)
from qdr_train.quant.quantizers import power_of_two_above

LABELS = 5


def pixels(seed: int, count: int, size: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def network_input(images: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).float() - 128) / 64


def small(name: str) -> Classifier:
    torch.manual_seed(0)
    return build(name, LABELS, width=0.25)


def train(model: Classifier, scheme: QuantScheme, steps: int = 3) -> Classifier:
    """A few real steps: BatchNorm statistics, weights and scales all move; then the final phase."""
    prepared = prepare_qat(model, scheme)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.02)
    for step in range(steps):
        if step == steps - 1:
            set_phase(prepared, observers=False, bn_frozen=True)
        optimizer.zero_grad()
        (prepared(network_input(pixels(step, 4))) - 1).square().mean().backward()
        optimizer.step()
    prepared.eval()
    return prepared


@cache
def trained(name: str, scheme: QuantScheme) -> Classifier:
    return train(small(name), scheme)


@torch.no_grad()
def run(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(model(network_input(images)))


def fake_quantizers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if hasattr(m, "fake_quant_enabled")]


# --- fake quantization in training ---------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_prepared_output_differs_from_float(name: str) -> None:
    prepared = copy.deepcopy(trained(name, EXACT))
    images = pixels(9, 2)
    quantized = run(prepared, images)
    set_phase(prepared, observers=False, bn_frozen=True, fake_quant=False)
    unquantized = run(prepared, images)
    assert (quantized != unquantized).mean() > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_but_the_logits_is_on_a_power_of_two_grid(name: str) -> None:
    graph, tensors = to_network(trained(name, EXACT))
    *inner, last = graph.nodes
    assert last.op == "linear"
    assert last.scale is None
    scales = [node.scale or 0.0 for node in inner]
    scales += [
        s for key, value in tensors.items() if key.endswith("_scale") for s in value.tolist()
    ]
    assert all(s > 0 and np.frexp(s)[0] == 0.5 for s in scales)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_weight_codes_stay_in_the_scheme(scheme: QuantScheme) -> None:
    prepared = copy.deepcopy(trained("qdr-small", scheme))
    with torch.no_grad():  # weights go on moving after their scales are frozen
        prepared.head.weight.mul_(3)
    reference = reference_form(prepared)
    codes = {k: v for k, v in reference.named_buffers() if k.endswith("weight_codes")}
    assert len(codes) == 12
    assert max(float(c.abs().max()) for c in codes.values()) == scheme.weight_qmax
    assert all(torch.equal(c, c.round()) for c in codes.values())


def test_power_of_two_above_is_exact() -> None:
    values = torch.tensor([2.0**-20, 0.25, 0.25000003, 0.49, 1.0, 3.0])
    expected = torch.tensor([2.0**-20, 0.25, 0.5, 0.5, 1.0, 4.0])
    assert torch.equal(power_of_two_above(values), expected)


def test_training_moves_weights_through_fake_quantization() -> None:
    prepared = prepare_qat(small("qdr-small"), EXACT)
    prepared(network_input(pixels(0, 2))).sum().backward()
    gradients = [p.grad for p in prepared.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    stem = prepared.get_submodule("backbone.stem.0").weight.grad
    assert isinstance(stem, Tensor)
    assert float(stem.abs().max()) > 0


def test_phases_freeze_what_they_say() -> None:
    prepared = train(small("qdr-small"), EXACT).train()
    set_phase(prepared, observers=False, bn_frozen=True)
    before = {k: v.clone() for k, v in prepared.state_dict().items()}
    prepared(network_input(pixels(5, 4)))
    assert all(torch.equal(v, before[k]) for k, v in prepared.state_dict().items())
    set_phase(prepared, observers=True, bn_frozen=False)
    prepared(network_input(pixels(6, 4)))
    moved = {k for k, v in prepared.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.endswith("running_mean") for k in moved)
    assert any(k.endswith("max_val") for k in moved)


def test_preparing_leaves_the_model_alone() -> None:
    model = small("qdr-small").eval()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model, EXACT)
    prepared(network_input(pixels(0, 2)))
    assert not model.training
    assert not fake_quantizers(model)
    assert not is_prepared(model)
    assert is_prepared(prepared)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_state_survives_a_round_trip() -> None:
    source = trained("mobilenetv3-small", EXACT)
    target = prepare_qat(small("mobilenetv3-small"), EXACT)
    target.load_state_dict(source.state_dict())
    target.eval()
    set_phase(target, observers=False, bn_frozen=True)
    images = pixels(9, 2)
    assert np.array_equal(run(target, images), run(source, images))
    assert np.array_equal(run(reference_form(target), images), run(reference_form(source), images))


def test_warning_filter_does_not_leak() -> None:
    prepare_qat(small("qdr-small"), EXACT)
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization is deprecated"):
        warnings.warn("torch.ao.quantization is deprecated", DeprecationWarning, stacklevel=1)


# --- the reference form --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, EXACT) for name in MODELS),
        ("qdr-small", PORTABLE),
        ("mobilenetv3-small", PORTABLE),
        ("qdr-small", EXACT_WIDE),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_reference_is_the_integer_computation(name: str, scheme: QuantScheme) -> None:
    prepared = trained(name, scheme)
    graph, tensors = to_network(prepared)
    images = pixels(9, 3)
    reference = run(reference_form(prepared), images)
    assert reference.std() > 0
    assert np.array_equal(reference, integer_logits(graph, tensors, scheme, images))


@pytest.mark.parametrize("name", ["qdr-small", "mobilenetv3-small"])
def test_training_form_is_near_the_reference(name: str) -> None:
    prepared = trained(name, EXACT)
    images = pixels(9, 8)
    reference = reference_form(prepared)
    first = "backbone.stem.0" if name == "qdr-small" else "backbone.features.0.0"
    outputs: list[Tensor] = []
    for model in (prepared, reference):
        handle = model.get_submodule(first).register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output)
        )
        run(model, images)
        handle.remove()
    scale = to_network(prepared)[0].nodes[0].scale or 0.0
    steps = (outputs[0] - outputs[1]).abs() / scale
    # Only the rounding of the bias separates them: one step, and seldom.
    assert float(steps.max()) <= 1
    assert float((steps > 0).float().mean()) < 0.01
    qat, exact = run(prepared, images), run(reference, images)
    assert np.abs(qat - exact).mean() < 0.5 * exact.std(axis=0).mean() + 1e-3


def test_reference_form_leaves_the_prepared_model_alone() -> None:
    prepared = train(small("qdr-small"), EXACT).train()
    before = {k: v.clone() for k, v in prepared.state_dict().items()}
    reference = reference_form(prepared)
    assert prepared.training
    assert not reference.training
    assert not fake_quantizers(reference)
    assert all(torch.equal(v, before[k]) for k, v in prepared.state_dict().items())
    features, logits = reference.forward_features(network_input(pixels(0, 2)))  # type: ignore[operator]
    assert features.shape == (2, reference.feature_dim)
    assert logits.shape == (2, LABELS)


def test_dead_channels_and_layers_keep_positive_scales() -> None:
    model = small("qdr-small")
    with torch.no_grad():
        for parameter in model.get_submodule("backbone.stem.1").parameters():
            parameter[:4] = 0
        for parameter in model.get_submodule("backbone.conv1.1").parameters():
            parameter.zero_()
    prepared = prepare_qat(model, EXACT)
    prepared(network_input(pixels(0, 4)))
    prepared.eval()
    set_phase(prepared, observers=False, bn_frozen=True)
    graph, tensors = to_network(prepared)
    images = pixels(9, 2)
    assert max_accumulator(graph, tensors, EXACT) < 2**24
    assert np.array_equal(
        run(reference_form(prepared), images), integer_logits(graph, tensors, EXACT, images)
    )


@pytest.mark.parametrize("name", MODELS)
def test_partial_sums_are_exact_in_float32(name: str) -> None:
    graph, tensors = to_network(trained(name, EXACT))
    bounds = accumulator_bounds(graph, tensors, EXACT)
    assert set(bounds) == {n.name for n in graph.nodes if n.op in ("conv", "linear")}
    assert 0 < max(bounds.values()) == max_accumulator(graph, tensors, EXACT) < 2**24


def test_accumulator_that_cannot_fit_is_refused() -> None:
    prepared = copy.deepcopy(trained("qdr-small", EXACT))
    with torch.no_grad():
        prepared.head.bias.fill_(1e9)
    for make in (to_network, reference_form):
        with pytest.raises(CheckpointError, match=r"head.*2\*\*31"):
            make(prepared)


def test_wide_sums_fall_back_to_float64() -> None:
    prepared = copy.deepcopy(trained("qdr-small", EXACT))
    graph, tensors = to_network(prepared)
    bias = 2.0**25 * float(tensors["head.weight_scale"].min()) * (graph.nodes[-2].scale or 0)
    with torch.no_grad():
        prepared.head.bias.fill_(bias)
    graph, tensors = to_network(prepared)
    assert max_accumulator(graph, tensors, EXACT) > 2**24
    images = pixels(9, 2)
    assert np.array_equal(
        run(reference_form(prepared), images), integer_logits(graph, tensors, EXACT, images)
    )


def test_scales_must_have_been_observed() -> None:
    for make in (to_network, reference_form):
        with pytest.raises(CheckpointError, match="train at least one step"):
            make(prepare_qat(small("qdr-small"), EXACT))


# --- float forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_folding_keeps_the_float_function(name: str) -> None:
    model = small(name)
    for module in model.modules():  # statistics and affine parameters that a wrong fold would show
        if isinstance(module, nn.BatchNorm2d):
            for key, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    low, high = (0.5, 2) if key in ("running_var", "weight") else (-0.5, 0.5)
                    tensor.uniform_(low, high)
    images = pixels(1, 2)
    unfolded = run(model.eval(), images)
    folded = float_form(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    np.testing.assert_allclose(run(folded, images), unfolded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_float_form_is_fake_quantization_off(name: str) -> None:
    prepared = copy.deepcopy(trained(name, EXACT))
    set_phase(prepared, observers=False, bn_frozen=True, fake_quant=False)
    images = pixels(1, 2)
    np.testing.assert_allclose(
        run(float_form(prepared), images), run(prepared, images), rtol=1e-3, atol=1e-5
    )


# --- an independent integer computation ----------------------------------------------------------

Tensors = dict[str, NDArray[np.float32]]


def integer_logits(
    graph: Graph, tensors: object, scheme: QuantScheme, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """docs/checkpoint.md in int64, written without looking at the code under test."""
    assert isinstance(tensors, dict)
    codes: dict[str, NDArray[np.int64]] = {INPUT: images.astype(np.int64) - 128}
    scales: dict[str, float] = {INPUT: INPUT_SCALE}
    for node in graph.nodes:
        operands = [codes[name] for name in node.inputs]
        real: NDArray[np.float64] = np.empty(0)
        if node.op in ("conv", "linear"):
            real = weighted(node, tensors, scheme, operands[0], scales[node.inputs[0]])
        elif node.op == "max_pool":
            codes[node.name], scales[node.name] = pool(node, operands[0]), scales[node.inputs[0]]
            continue
        elif node.op == "flatten":
            codes[node.name] = operands[0].reshape(len(images), -1)
            scales[node.name] = scales[node.inputs[0]]
            continue
        else:
            x = operands[0] * scales[node.inputs[0]]
            if node.op == "add":
                real = x + operands[1] * scales[node.inputs[1]]
            elif node.op == "mul":
                real = x * (operands[1] * scales[node.inputs[1]])
            elif node.op == "global_avg_pool":
                real = x.sum((2, 3), keepdims=True) / (x.shape[2] * x.shape[3])
            elif node.op == "hardswish":
                real = x * np.clip(x + 3, 0, 6) / 6
            elif node.op == "hardsigmoid":
                real = np.clip(x + 3, 0, 6) / 6
        if node.activation:
            real = np.maximum(real, 0)
        if node.scale is None:
            return real.astype(np.float32)
        rounded = np.rint(real / node.scale)
        codes[node.name] = np.clip(rounded, -128, 127).astype(np.int64)
        scales[node.name] = node.scale
    raise AssertionError("no float output")


def weighted(
    node: Node, tensors: Tensors, scheme: QuantScheme, x: NDArray[np.int64], input_scale: float
) -> NDArray[np.float64]:
    w, b, s = (tensors[f"{node.name}.{part}"] for part in ("weight", "bias", "weight_scale"))
    scale = s.reshape(-1, *[1] * (w.ndim - 1))
    q_w = np.clip(np.rint(w / scale), -scheme.weight_qmax, scheme.weight_qmax).astype(np.int64)
    step = input_scale * s.astype(np.float64)
    q_b = np.rint(b / step.astype(np.float32).astype(np.float64)).astype(np.int64)
    if node.op == "linear":
        logits: NDArray[np.float64] = (x @ q_w.T + q_b) * step
        return logits
    groups = node.attrs["groups"]
    assert isinstance(groups, int)
    (ph, pw), (sh, sw) = node.pair("padding"), node.pair("stride")
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = sliding_window_view(padded, w.shape[2:], axis=(2, 3))[:, :, ::sh, ::sw]
    n, c, h, width = windows.shape[:4]
    columns = windows.reshape(n, groups, c // groups, h, width, -1).transpose(0, 1, 3, 4, 2, 5)
    rows = q_w.reshape(groups, len(w) // groups, -1)
    flat = columns.reshape(n, groups, h * width, -1) @ rows.transpose(0, 2, 1)
    total = flat.transpose(0, 1, 3, 2).reshape(n, len(w), h, width)
    result: NDArray[np.float64] = (total + q_b[:, None, None]) * step[:, None, None]
    return result


def pool(node: Node, x: NDArray[np.int64]) -> NDArray[np.int64]:
    (ph, pw), (sh, sw) = node.pair("padding"), node.pair("stride")
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=-128)
    windows = sliding_window_view(padded, node.pair("kernel"), axis=(2, 3))[:, :, ::sh, ::sw]
    result: NDArray[np.int64] = windows.max((4, 5))
    return result
