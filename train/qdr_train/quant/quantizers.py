"""What rounds in training: observers and fake quantizers under a scheme.

With qat.py and conv_bn.py the only place that touches `torch.ao.quantization`. A scale is observed
(it follows the range of the data) or learned (it starts there and is trained by gradient).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.ao import quantization

from qdr_edge.errors import RecipeError
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT, QuantScheme
from qdr_train.quant.rounding import fake_quantize

tq: Any = quantization  # most of it carries no types

# A channel whose weights are this much smaller than its layer's largest moves its output by less
# than one step, and a scale of its own would only blow its bias up past what a sum can hold.
_CHANNEL_SCALE_RANGE = 2.0**-8
SMALLEST_SCALE = 2.0**-20  # a dead layer's
_EXPONENTS = (math.log2(SMALLEST_SCALE), 20.0)

# A scale's exponent is this many times its parameter: at a weight's learning rate a step of AdamW
# would move it by some 10⁻⁴ of an octave, and hundreds of steps would not reach the next power of
# two. TQT trains thresholds at 10⁻², which 50 × 2·10⁻⁴ gives.
_EXPONENT_GAIN = 50.0


def power_of_two_above(scale: Tensor) -> Tensor:
    """The smallest power of two that is at least `scale`, exactly (no logarithm is rounded)."""
    mantissa, exponent = torch.frexp(scale)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(scale), exponent)


def activation_quantizer(scheme: QuantScheme, *, learned: bool) -> Callable[[], nn.Module]:
    """A factory of fake quantizers for activations.

    Args:
        scheme: Gives the range of codes and the kind of scales.
        learned: Train the scales by gradient, from the observed ones on.

    Raises:
        RecipeError: Learned scales under a scheme with zero points, which stay observed.
    """
    if learned and scheme.unsigned:
        raise RecipeError(
            f"learned scales under scheme {scheme.name}",
            where="quantization.scales",
            expected="observed: no gradient trains a zero point",
            fix="set scales to observed, or another scheme",
        )
    kind = _LearnedFakeQuantize if learned else _ObservedFakeQuantize
    return cast(
        "Callable[[], nn.Module]",
        kind.with_args(
            observer=_ActivationObserver,
            power_of_two=scheme.power_of_two,
            averaging_constant=0.1,
            quant_min=scheme.activation_qmin,
            quant_max=scheme.activation_qmax,
            dtype=torch.quint8 if scheme.unsigned else torch.qint8,
            qscheme=torch.per_tensor_affine if scheme.unsigned else torch.per_tensor_symmetric,
        ),
    )


def weight_quantizer(scheme: QuantScheme) -> Callable[[], nn.Module]:
    """A factory of fake quantizers for weights; their scales are always observed.

    The range of a channel's weights is known exactly, and at seven or eight bits there is next to
    nothing that clipping it could gain.
    """
    return cast(
        "Callable[[], nn.Module]",
        _ObservedFakeQuantize.with_args(
            observer=_WeightObserver,
            power_of_two=scheme.power_of_two,
            averaging_constant=1.0,
            quant_min=-scheme.weight_qmax,
            quant_max=scheme.weight_qmax,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        ),
    )


def output_scale(quantizer: nn.Module) -> float | None:
    """The scale an activation quantizer stands at; None if no data passed it."""
    observer = cast(Any, quantizer).activation_post_process
    if not bool(torch.isfinite(observer.max_val).all()):
        return None
    if isinstance(quantizer, _LearnedFakeQuantize):
        quantizer.settle()
    return float(cast(Tensor, quantizer.scale))


def output_zero_point(quantizer: nn.Module) -> int:
    """The zero point an activation quantizer stands at."""
    return int(cast(Tensor, quantizer.zero_point))


def activation_quantizers(prepared: nn.Module) -> dict[str, nn.Module]:
    """The fake quantizers of activations in a prepared network, by name."""
    return {
        name: module
        for name, module in prepared.named_modules()
        if isinstance(module, (_ObservedFakeQuantize, _LearnedFakeQuantize))
        and isinstance(module.activation_post_process, _ActivationObserver)
    }


@torch.no_grad()
def set_range(quantizer: nn.Module, low: float, high: float) -> None:
    """Make an activation quantizer stand as if it had observed this range.

    Args:
        quantizer: One of `activation_quantizers`.
        low: At most 0.
        high: At least 0.
    """
    observer = cast(Any, quantizer).activation_post_process
    observer.min_val.resize_(()).fill_(low)
    observer.max_val.resize_(()).fill_(high)
    cast(Any, quantizer).take_range()


@torch.no_grad()
def grid_of_range(quantizer: nn.Module, low: float, high: float) -> tuple[float, int, int]:
    """The scale a range would get, and its codes counted from the zero point."""
    kept = cast(Any, quantizer).activation_post_process
    observer = copy.deepcopy(kept)
    observer.min_val.resize_(()).fill_(low)
    observer.max_val.resize_(()).fill_(high)
    scale, zero_point = observer.calculate_qparams()
    zero = int(zero_point)
    return float(scale), observer.quant_min - zero, observer.quant_max - zero


class _ActivationObserver(quantization.MovingAverageMinMaxObserver):
    """The observed range of an activation, as a scale of the scheme."""

    def __init__(self, *, power_of_two: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.power_of_two = power_of_two

    def forward(self, x: Tensor) -> Tensor:
        # The range knows no order, and torch would copy an image into the order of its indices.
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        super().forward(x.permute(0, 2, 3, 1) if last else x)  # type: ignore[no-untyped-call]
        return x

    def range_scale(self) -> Tensor:
        """The scale at which the range just fits, before it is rounded to the scheme's, [1]."""
        return cast(Tensor, super().calculate_qparams()[0]).clamp(min=SMALLEST_SCALE)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        scale = self.range_scale()
        zero_point = torch.zeros_like(scale, dtype=torch.int64)
        if self.qscheme == torch.per_tensor_affine:
            # The range holds 0, so that padding and ReLU's border are codes.
            low = self.min_val.clamp(max=0.0).reshape(1)
            zero_point = (self.quant_min - torch.round(low / scale)).to(torch.int64)
            zero_point = zero_point.clamp(self.quant_min, self.quant_max)
        return power_of_two_above(scale) if self.power_of_two else scale, zero_point


class _WeightObserver(quantization.MovingAveragePerChannelMinMaxObserver):
    """The current range of each channel's weights, as a scale of the scheme."""

    def __init__(self, *, power_of_two: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.power_of_two = power_of_two

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        floor = max(float(scale.max()) * _CHANNEL_SCALE_RANGE, SMALLEST_SCALE)
        scale = scale.clamp(min=floor)
        return power_of_two_above(scale) if self.power_of_two else scale, zero_point


class _ObservedFakeQuantize(tq.FakeQuantize):  # type: ignore[misc]
    """Fake quantization whose scale follows the observed range."""

    def forward(self, x: Tensor) -> Tensor:
        observer = self.activation_post_process
        if self.observer_enabled[0] == 1:
            observer(x.detach())
            self.take_range()
        if self.fake_quant_enabled[0] == 0:
            return x
        low, high = observer.quant_min, observer.quant_max
        if self.qscheme == torch.per_tensor_affine:
            # Codes counted from the zero point, which is added after rounding.
            zero_point = int(self.zero_point)
            low, high = low - zero_point, high - zero_point
        return fake_quantize(x, self.scale, low, high)

    def take_range(self) -> None:
        """Stand where the observed range puts it."""
        scale, zero_point = self.activation_post_process.calculate_qparams()
        self.scale.resize_(scale.shape).copy_(scale)  # one for each channel of a weight
        self.zero_point.resize_(scale.shape).copy_(zero_point)


class _LearnedFakeQuantize(tq.FakeQuantize):  # type: ignore[misc]
    """Fake quantization whose scale is trained: the exponent e of 2^e, rounded up for an exact one.

    The gradient of the rounded value with respect to the scale is that of LSQ: the rounding error
    within the range, the end code outside, scaled by 1/√(features · largest code) so that a scale
    does not outweigh the weights. For power-of-two scales the rounding of the exponent is passed
    straight through. Training e instead of the scale keeps the scale above 0 and makes every step
    a share of it.

    torch.ao's own _LearnableFakeQuantize trains the scale itself, which may cross 0, and a zero
    point with it, and has no power-of-two scales.

    It observes until the first pass with gradients, learns while observers are on, and stands
    still while they are off: then only the buffer `scale` counts.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020 (gradient and its scale); Jain
    et al., Trained Quantization Thresholds, MLSys 2020 (log domain, power-of-two scales).
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.exponent = nn.Parameter(torch.zeros(1))
        self.register_buffer("learning", torch.zeros(1, dtype=torch.uint8))

    def enable_observer(self, enabled: bool = True) -> None:
        """Let the scale follow data or gradients, or fix it where it stands."""
        if not enabled:
            self.settle()
        super().enable_observer(enabled)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the scale that was learned into the buffer, after an optimizer's step."""
        if self.learning[0] == 1 and self.observer_enabled[0] == 1:
            self.scale.copy_(self._learned_scale())

    def forward(self, x: Tensor) -> Tensor:
        adapts = bool(self.observer_enabled[0] == 1)
        if adapts and self.learning[0] == 0:
            # Not self.training: torch.ao's layers keep it from us while their BatchNorm is frozen.
            steps = torch.is_grad_enabled()
            if not steps or output_scale(self) is None:
                self._observe(x.detach())
            if steps:
                self.learning.fill_(1)
        if self.fake_quant_enabled[0] == 0:
            return _keep_in_graph(x, self.exponent)
        observer = self.activation_post_process
        limits = observer.quant_min, observer.quant_max
        if adapts and self.learning[0] == 1:
            scale = self._learned_scale()
            self.scale.copy_(scale.detach())
            factor = 1 / math.sqrt(max(x[0].numel(), 1) * observer.quant_max)
            zero = torch.zeros_like(self.scale)
            return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, *limits, factor)
        return _keep_in_graph(fake_quantize(x, self.scale, *limits), self.exponent)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        self.activation_post_process(x)
        self.take_range()

    @torch.no_grad()
    def take_range(self) -> None:
        """Stand, and start learning, where the observed range puts it."""
        self.scale.copy_(self.activation_post_process.calculate_qparams()[0])
        start = torch.log2(self.activation_post_process.range_scale())
        self.exponent.copy_(start / _EXPONENT_GAIN)

    def _learned_scale(self) -> Tensor:
        exponent = self.exponent * _EXPONENT_GAIN
        # Straight through, or a scale at the end of the range could never come back.
        exponent = exponent + (exponent.clamp(*_EXPONENTS) - exponent).detach()
        fixed = exponent.detach()
        if self.activation_post_process.power_of_two:
            scale = torch.ldexp(torch.ones_like(fixed), fixed.ceil().int())
        else:
            scale = torch.exp2(fixed)
        # The second factor is exactly 1 and carries the gradient, scale · ln 2.
        return scale * (1 + math.log(2) * (exponent - fixed))


def _keep_in_graph(x: Tensor, parameter: Tensor) -> Tensor:
    """x, with a parameter that took no part getting the gradient 0.

    Processes that train together expect a gradient of every parameter in every step.
    """
    return cast(Tensor, _KeepInGraph.apply(x, parameter))  # type: ignore[no-untyped-call]


class _KeepInGraph(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, parameter: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_zeros(1, dtype=torch.float32)


class FakeQuantizeInput(nn.Module):
    """The input's fixed grid: step 2**-6 from 128 steps below 0, so that its codes are pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.range = (-INPUT_ZERO_POINT, 255 - INPUT_ZERO_POINT)
        # Not part of a state: the grid is fixed.
        self.register_buffer("scale", torch.tensor([INPUT_SCALE]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.get_buffer("scale"), *self.range)
