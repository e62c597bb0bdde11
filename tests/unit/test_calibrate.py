"""Calibration without training, and asymmetric activations with zero points."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qdr_edge.errors import RecipeError
from qdr_edge.scheme import EXACT, PORTABLE, SCHEMES, U8, QuantScheme
from qdr_train.data.images import Images, predict
from qdr_train.models import Classifier, build
from qdr_train.quant import qat
from qdr_train.quant.calibrate import Method, calibrate
from qdr_train.quant.quantizers import (
    activation_quantizer,
    activation_quantizers,
    output_scale,
    output_zero_point,
)
from qdr_train.recipe.parts import Quantization

METHODS: tuple[Method, ...] = ("running", "minmax", "percentile", "mse")
CPU = torch.device("cpu")


def images(count: int = 24, seed: int = 0) -> Images:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8).repeat(12, 2).repeat(12, 3)
    return Images(pixels, np.arange(count), torch.zeros(count, 3), tuple(map(str, range(count))))


@cache
def float_network() -> Classifier:
    torch.manual_seed(0)
    network = build("qdr-small", 3, width=0.25, dropout=0.0).train()
    with torch.no_grad():
        network((torch.from_numpy(images(seed=1).pixels).float() - 128) / 64)
    return network.eval()


def calibrated(scheme: QuantScheme, method: Method, *, learned: bool = False) -> Classifier:
    settings = Quantization(scales="learned" if learned else "observed")
    prepared = qat.prepare_qat(float_network(), scheme, settings)
    calibrate(prepared, images(), CPU, method)
    return prepared


def scales(prepared: nn.Module) -> dict[str, float]:
    found = {n: output_scale(q) for n, q in activation_quantizers(prepared).items()}
    assert all(scale is not None for scale in found.values())
    return {name: float(scale or 0) for name, scale in found.items()}


def error(prepared: Classifier) -> float:
    qat.set_phase(prepared, observers=False, bn_frozen=True)
    reference = qat.reference_form(prepared)
    difference = predict(reference, images(seed=5), CPU) - predict(
        float_network(), images(seed=5), CPU
    )
    return float(np.sqrt(np.square(difference).mean()))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_working_network(method: Method, scheme: QuantScheme) -> None:
    prepared = calibrated(scheme, method)
    assert 0 < error(prepared) < 0.5 * float(predict(float_network(), images(seed=5), CPU).std())
    if scheme.power_of_two:
        assert all(np.frexp(scale)[0] == 0.5 for scale in scales(prepared).values())


def test_minmax_is_the_whole_range_of_all_images() -> None:
    prepared = calibrated(PORTABLE, "minmax")
    seen: list[float] = []
    layer = prepared.get_submodule("backbone.stem.0")
    handle = layer.register_forward_hook(
        lambda _m, _i, out: seen.append(float(out.max())), prepend=True
    )
    qat.set_phase(prepared, observers=False, bn_frozen=True, fake_quant=False)
    predict(prepared, images(), CPU)
    handle.remove()
    name = "backbone.stem.0.activation_post_process"
    assert scales(prepared)[name] == pytest.approx(max(seen) / 127.5, rel=1e-5)


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE, U8], ids=lambda s: s.name)
def test_cutting_methods_never_widen_a_range(scheme: QuantScheme) -> None:
    whole = scales(calibrated(scheme, "minmax"))
    for method in ("percentile", "mse"):
        narrow = scales(calibrated(scheme, method))
        assert all(narrow[name] <= scale * (1 + 1e-6) for name, scale in whole.items())


def quantizer(scheme: QuantScheme) -> nn.Module:
    return activation_quantizer(scheme, learned=False)()


class One(nn.Module):
    """A prepared network of a single activation."""

    def __init__(self, scheme: QuantScheme) -> None:
        super().__init__()
        self.only = quantizer(scheme)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)[:, :, 0, 0]


def test_percentile_cuts_an_outlier_off() -> None:
    """One value in 49,152 is 255 where the rest are within a few of 128: real values of ±0.1."""
    random = np.random.default_rng(0)
    pixels = random.integers(122, 135, (4, 3, 64, 64), dtype=np.uint8)
    pixels[0, 0, 0, 0] = 255
    data = Images(pixels, np.arange(4), torch.zeros(4, 3), tuple("abcd"))
    whole, cut = One(EXACT), One(EXACT)
    calibrate(whole, data, CPU, "minmax")
    calibrate(cut, data, CPU, "percentile")
    assert scales(whole)["only"] == 2.0**-6
    assert scales(cut)["only"] < 2.0**-6


def test_mse_choice_is_the_best_power_of_two() -> None:
    random = np.random.default_rng(1)
    values = np.clip(128 + random.standard_t(3, (4, 3, 64, 64)) * 6, 0, 255).astype(np.uint8)
    data = Images(values, np.arange(4), torch.zeros(4, 3), tuple("abcd"))
    one = One(EXACT)
    calibrate(one, data, CPU, "mse")
    x = (values.astype(np.float64) - 128) / 64
    errors = {}
    for exponent in range(-14, -4):
        step = 2.0**exponent
        errors[step] = np.square(np.clip(np.rint(x / step), -128, 127) * step - x).mean()
    # The input's own codes are steps of 2⁻⁶: no rounding at all there, and ties go to the first.
    assert errors[scales(one)["only"]] == pytest.approx(min(errors.values()), abs=1e-5)


def test_learned_scales_start_where_calibration_puts_them() -> None:
    learned = calibrated(EXACT, "mse", learned=True)
    assert scales(learned) == scales(calibrated(EXACT, "mse"))
    before = error(learned)
    assert before == error(calibrated(EXACT, "mse"))


# --- zero points ----------------------------------------------------------------------------------


def observed(*ranges: tuple[float, float]) -> nn.Module:
    one = quantizer(U8)
    for low, high in ranges:
        one(torch.tensor([low, high]))
    return one


def test_range_always_holds_zero() -> None:
    above, below = observed((2.0, 5.1)), observed((-5.1, -1.0))
    assert (output_zero_point(above), output_zero_point(below)) == (0, 255)
    assert output_scale(above) == pytest.approx(5.1 / 255)
    assert output_scale(below) == pytest.approx(5.1 / 255)


def test_zero_is_a_code() -> None:
    one = observed((-1.3, 4.2))
    zero_point, scale = output_zero_point(one), output_scale(one)
    assert zero_point == round(1.3 / (5.5 / 255))
    assert scale == pytest.approx(5.5 / 255)
    assert float(one(torch.zeros(1))) == 0.0


def test_rounding_comes_before_the_zero_point() -> None:
    """Half steps go to the even number of steps from zero, whatever the zero point's parity."""
    one = observed((-1.0, 254.0))  # scale 1, zero point 1
    assert (output_scale(one), output_zero_point(one)) == (1.0, 1)
    one.disable_observer()  # type: ignore[operator]
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -7.0, 300.0])
    assert one(x).tolist() == [0.0, 2.0, 2.0, -0.0, -1.0, 254.0]


def test_gradient_passes_within_the_range_only() -> None:
    one = observed((-1.0, 254.0))
    one.disable_observer()  # type: ignore[operator]
    x = torch.tensor([-1.6, -1.4, 0.0, 254.4, 254.6], requires_grad=True)
    one(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_learned_scales_are_refused() -> None:
    with pytest.raises(RecipeError, match="learned scales under scheme u8"):
        activation_quantizer(U8, learned=True)


def test_pixels_keep_their_codes() -> None:
    graph = qat.to_network(calibrated(U8, "minmax"))[0]
    stem = graph.nodes[0]
    assert stem.op == "conv"  # reads pixels at scale 2⁻⁶ and zero point 128, as they are
    assert stem.zero_point == 0
    assert all(0 <= node.zero_point <= 255 for node in graph.nodes)
