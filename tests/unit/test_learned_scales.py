"""Learned scales start at the observed ones, follow the gradient, stand still, export exactly."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.runtime import open_model
from qdr_edge.scheme import EXACT, PORTABLE, SCHEMES, QuantScheme
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from qdr_export.reference import Reference
from qdr_train.models import Classifier, build
from qdr_train.quant.qat import prepare_qat, reference_form, set_phase, to_network
from qdr_train.quant.quantizers import SMALLEST_SCALE, activation_quantizer, output_scale
from qdr_train.recipe.parts import Quantization
from tests.networks import LABELS, images, of_graph

LEARNED = Quantization(scales="learned")


def network_input(pixels: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(pixels).float() - 128) / 64


def calibrated(name: str, scheme: QuantScheme, settings: Quantization = LEARNED) -> Classifier:
    torch.manual_seed(0)
    model = build(name, len(LABELS), width=0.25, dropout=0.0)
    with torch.no_grad():  # BatchNorm as a network that was trained in float brings it
        model.train()(network_input(images(8)))
    prepared = prepare_qat(model, scheme, settings).eval()
    set_phase(prepared, observers=True, bn_frozen=True)
    with torch.no_grad():
        prepared(network_input(images(4)))
    return prepared


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    model.train()
    optimizer.zero_grad()
    (model(network_input(images(4, seed=seed))) - 1).square().mean().backward()
    optimizer.step()


@cache
def trained(name: str, scheme: QuantScheme) -> Classifier:
    prepared = calibrated(name, scheme)
    optimizer = optimizer_of(prepared)
    set_phase(prepared, observers=True, bn_frozen=False)
    for seed in range(6):
        step(prepared, optimizer, seed)
    return prepared.eval()


def quantizers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "exponent")}


def scales(model: nn.Module) -> dict[str, float | None]:
    return {name: output_scale(m) for name, m in quantizers(copy.deepcopy(model)).items()}


@torch.no_grad()
def run(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(model(network_input(pixels)))


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if not s.unsigned], ids=lambda s: s.name)
def test_learning_starts_from_the_observed_ranges(scheme: QuantScheme) -> None:
    learned, observed = (
        calibrated("qdr-small", scheme),
        calibrated("qdr-small", scheme, Quantization()),
    )
    pixels = images(2, seed=7)
    assert len(quantizers(learned)) == 15  # 11 convolutions, 3 additions, the pool
    assert np.array_equal(run(learned.eval(), pixels), run(observed.eval(), pixels))
    for model in (learned, observed):
        model.train()
        set_phase(model, observers=model is learned, bn_frozen=True)
    # The first training step computes with the scales of the calibration, but for a rounded log.
    first = learned(network_input(pixels)).detach().numpy()
    assert not scheme.power_of_two or np.array_equal(first, run(observed, pixels))
    for name, quantizer in quantizers(learned).items():
        assert int(quantizer.learning) == 1
        expected = float(observed.get_submodule(name).scale)  # type: ignore[arg-type]
        assert float(quantizer.scale) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "name",
    [
        "qdr-small",
        pytest.param("resnet18", marks=pytest.mark.full),
        pytest.param("mobilenetv3-small", marks=pytest.mark.full),
    ],
)
def test_after_training_reference_equals_the_exported_int8(name: str, scheme: QuantScheme) -> None:
    model = trained(name, scheme)
    before = scales(calibrated(name, scheme))
    assert sum(s != before[k] for k, s in scales(model).items()) >= (1 if scheme is EXACT else 10)
    pixels = images(6, seed=9)
    expected = run(reference_form(model), pixels)
    assert expected.std() > 0
    canonical = build_canonical(of_graph(*to_network(model), name, scheme))
    np.testing.assert_array_equal(Reference(canonical).infer(pixels), expected)
    if scheme is EXACT:
        session = open_model("onnxruntime", emitter("onnxruntime-x86")(canonical), threads=1)
        np.testing.assert_array_equal(session.infer(pixels), expected)
        session.close()


def test_scales_of_an_exact_scheme_stay_powers_of_two() -> None:
    found = scales(trained("qdr-small", EXACT))
    assert all(s is not None and math.frexp(s)[0] == 0.5 for s in found.values())
    free = scales(trained("qdr-small", PORTABLE))
    assert any(s is not None and math.frexp(s)[0] != 0.5 for s in free.values())


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE], ids=lambda s: s.name)
def test_scale_gradient_is_that_of_lsq(scheme: QuantScheme) -> None:
    quantizer: Any = activation_quantizer(scheme, learned=True)()
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        quantizer(x * 0.5)  # a range that some of x exceeds
    weight = torch.randn_like(x)
    (quantizer(x) * weight).sum().backward()
    s = float(quantizer.scale)
    v = x / s
    slope = torch.where(v < -128, -128.0, torch.where(v > 127, 127.0, v.round() - v))
    assert 0 < float(((v < -128) | (v > 127)).float().mean()) < 0.5
    # ds/d(parameter) = s · ln 2 · 50; the gradient's own scale is 1/√(features · 127)
    expected = float((weight * slope).sum()) * s * math.log(2) * 50 / math.sqrt(75 * 127)
    assert float(quantizer.exponent.grad) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE], ids=lambda s: s.name)
def test_gradient_finds_a_scale_with_less_error_than_the_range(scheme: QuantScheme) -> None:
    quantizer: Any = activation_quantizer(scheme, learned=True)()
    torch.manual_seed(0)
    x = torch.randn(1, 4000)
    x[0, 0] = 60.0  # one outlier takes four bits from all others

    def error() -> float:
        with torch.no_grad():
            return float((quantizer(x) - x).abs().mean())

    before, first = error(), float(quantizer.scale)
    optimizer = torch.optim.Adam(quantizer.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer(x) - x).abs().mean().backward()
        optimizer.step()
    assert error() < 0.6 * before
    assert float(quantizer.scale) <= 0.5 * first


def test_frozen_scales_stand_still_whatever_the_optimizer_remembers() -> None:
    model = calibrated("qdr-small", EXACT)
    optimizer = optimizer_of(model)
    set_phase(model, observers=True, bn_frozen=False)
    for seed in range(3):
        step(model, optimizer, seed)
    learned = scales(model)
    set_phase(model, observers=False, bn_frozen=True)
    assert scales(model) == learned  # the last step of the optimizer counts
    for seed in range(3, 6):
        step(model, optimizer, seed)
        set_phase(model, observers=False, bn_frozen=True)  # as at the start of every epoch
    assert scales(model) == learned
    gradients = [q.exponent.grad for q in quantizers(model).values()]
    assert all(g is not None and float(g) == 0 for g in gradients)


@pytest.mark.parametrize("frozen", [False, True], ids=["learning", "frozen"])
def test_resumed_training_has_the_same_bits(frozen: bool) -> None:
    whole = calibrated("qdr-small", EXACT)
    optimizer = optimizer_of(whole)
    set_phase(whole, observers=True, bn_frozen=False)
    for seed in range(2):
        step(whole, optimizer, seed)
    if frozen:
        set_phase(whole, observers=False, bn_frozen=True)
        step(whole, optimizer, 2)
    network, memory = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    torch.manual_seed(5)
    resumed = prepare_qat(build("qdr-small", len(LABELS), width=0.25, dropout=0.0), EXACT, LEARNED)
    again = optimizer_of(resumed)
    resumed.load_state_dict(network)
    again.load_state_dict(memory)
    set_phase(resumed, observers=not frozen, bn_frozen=frozen)
    for seed in range(3, 5):
        step(whole, optimizer, seed)
        step(resumed, again, seed)
    state = resumed.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in whole.state_dict().items())
    pixels = images(2)
    assert np.array_equal(run(reference_form(whole), pixels), run(reference_form(resumed), pixels))


def test_scales_stay_positive_and_finite() -> None:
    for value, rate in ((0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (1e30, 1.0)):
        quantizer: Any = activation_quantizer(PORTABLE, learned=True)()
        x = torch.full((2, 8), value)
        for _ in range(5):
            quantizer(x).sum().backward()
            with torch.no_grad():
                quantizer.exponent += 10 * rate * torch.ones(1)
            scale = output_scale(quantizer)
            assert scale is not None
            assert SMALLEST_SCALE <= scale <= 2.0**20
        assert bool(torch.isfinite(quantizer.exponent.grad).all())


def test_evaluation_while_learning_observes_nothing() -> None:
    model = copy.deepcopy(trained("qdr-small", EXACT))
    before = scales(model)
    run(model.eval(), np.full((2, 3, 64, 64), 255, np.uint8))
    assert scales(model) == before
