"""The scan names the layer that pays for int8, and says nothing where nothing matters."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from qdr_edge.metrics import Estimate
from qdr_edge.scheme import EXACT
from qdr_train.data.images import Images, network_input, predict
from qdr_train.models import Classifier, build
from qdr_train.quant.qat import prepare_qat, reference_form, set_phase
from qdr_train.quant.sensitivity import Scan, scan_layers
from qdr_train.recipe.parts import Quantization
from tests.networks import LABELS, images

CPU = torch.device("cpu")
COUNT = 24


def validation() -> Images:
    targets = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (COUNT, len(LABELS))))
    patients = tuple(f"p{i // 2}" for i in range(COUNT))
    return Images(images(COUNT, seed=4), np.arange(COUNT), targets.float(), patients)


OBSERVED = Quantization()


@cache
def trained(settings: Quantization = OBSERVED) -> Classifier:
    torch.manual_seed(0)
    model = build("qdr-small", len(LABELS), width=0.25, dropout=0.0)
    with torch.no_grad():
        model.train()(network_input(torch.from_numpy(images(8))))
        model.head.weight.mul_(100)  # decisions on both sides of 0
        # Giants that take every bit from the layer's other weights, on a channel that is always 0.
        weight = model.get_submodule("backbone.down2.0").weight
        assert isinstance(weight, torch.Tensor)
        weight[:, 0] = 60 * weight.abs().max()
        for parameter in model.get_submodule("backbone.conv1.1").parameters():
            parameter[0] = 0
        model.train()(network_input(torch.from_numpy(images(8))))
    prepared = prepare_qat(model, EXACT, settings).eval()
    with torch.no_grad():
        prepared(network_input(torch.from_numpy(images(8))))
    set_phase(prepared, observers=False, bn_frozen=True)
    return prepared


def state(model: Classifier) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@cache
def scan() -> Scan:
    return scan_layers(trained(), validation(), LABELS, CPU)


def test_the_injured_layer_comes_first_and_is_suggested() -> None:
    found = scan()
    assert found.layers[0].name == "backbone.down2.0"
    assert found.layers[0].except_it.rms < 0.5 * found.whole.rms
    assert found.suggestion() == ("backbone.down2.0",)


def test_excluding_as_suggested_does_what_the_scan_said() -> None:
    name = scan().suggestion()
    excluded = trained(Quantization(exclude=name))
    in_float = predict(float_of(excluded), validation(), CPU)
    shipped = predict(reference_form(excluded), validation(), CPU)
    rms = float(np.sqrt(np.square(shipped - in_float).mean()))
    # The scan looks at the training form; only the rounding of biases separates them.
    assert rms == pytest.approx(scan().layers[0].except_it.rms, rel=0.3)
    assert rms < 0.5 * scan().whole.rms


def float_of(model: Classifier) -> Any:
    from qdr_train.quant.qat import float_form

    return float_form(model)


def test_a_scan_covers_every_layer_and_leaves_the_network_alone() -> None:
    model = trained()
    before, seen = state(model), []
    found = scan_layers(model, validation(), LABELS, CPU, progress=lambda *step: seen.append(step))
    assert len(found.layers) == 12
    assert seen == [(i + 1, 26) for i in range(26)]
    assert sum(layer.macs_share for layer in found.layers) == pytest.approx(1)
    after = state(model)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    whole = predict(model, validation(), CPU)
    expected = np.sqrt(np.square(whole - predict(float_of(model), validation(), CPU)).mean())
    assert found.whole.rms == pytest.approx(float(expected), rel=1e-3)
    json.dumps(found.to_dict(), allow_nan=False)


def test_layers_in_float_already_are_left_out() -> None:
    found = scan_layers(trained(Quantization(first_layer="float")), validation(), LABELS, CPU)
    assert len(found.layers) == 11
    assert sum(layer.macs_share for layer in found.layers) < 0.95


def test_nothing_is_suggested_where_nothing_matters() -> None:
    found = scan()
    calm = replace(found, whole=replace(found.whole, flips=0))
    assert calm.suggestion() == () or found.layers[0].except_it.map_change.low > 0
    proven = replace(found.layers[3].except_it, map_change=Estimate(0.02, 0.01, 0.03, COUNT))
    layers = tuple(
        replace(layer, except_it=replace(layer.except_it, map_change=Estimate(0, -1, 1, COUNT)))
        for layer in found.layers
    )
    calm = replace(calm, layers=layers)
    assert calm.suggestion() == ()
    gain = replace(calm, layers=(*layers[:3], replace(layers[3], except_it=proven), *layers[4:]))
    assert gain.suggestion() == (layers[3].name,)


def test_a_budget_is_kept_and_spent_on_what_hurts_most() -> None:
    found = scan()
    shares = {layer.name: layer.macs_share for layer in found.layers}
    injured = "backbone.down2.0"
    assert found.within(shares[injured])[0] == injured
    assert injured not in found.within(shares[injured] * 0.99)
    for budget in (0.001, 0.02, 0.3, 0.99):
        chosen = found.within(budget)
        assert sum(shares[name] for name in chosen) <= budget
        assert all(
            layer.except_it.rms < found.whole.rms for layer in found.layers if layer.name in chosen
        )
    # What is in float already counts.
    rest = replace(found, layers=found.layers[1:])
    assert rest.in_float == pytest.approx(shares[injured])
    assert rest.within(shares[injured] * 0.99) == ()
    none = replace(found, whole=replace(found.whole, rms=0.0))  # nothing to take away
    assert none.within(0.99) == ()
