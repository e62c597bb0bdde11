"""The fast forms of fake quantization and of a fused BatchNorm compute what torch.ao computes."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
import torch.ao.nn.intrinsic.qat as nniqat
from torch import Tensor, nn

from qdr_edge.scheme import EXACT, PORTABLE, QuantScheme
from qdr_train.models import build
from qdr_train.quant import conv_bn, qat
from qdr_train.quant.rounding import fake_quantize


def spread(scale: float) -> Tensor:
    """Values within and beyond the range, every tie among them, in the memory order of training."""
    torch.manual_seed(0)
    ties = (torch.arange(-300, 300) + 0.5) * scale
    values = torch.cat((ties, torch.randn(2 * 3 * 13 * 20 - 600) * 90 * scale))
    return values.view(2, 3, 13, 20).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scale", [2.0**-5, 0.03, 1.7])
@pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 255), (-127, 126)])
def test_rounding_has_the_bits_and_the_gradient_of_torch(
    scale: float, qmin: int, qmax: int
) -> None:
    step, zero = torch.tensor([scale]), torch.zeros(1, dtype=torch.int32)
    x, gradient = spread(scale), torch.randn(2, 3, 13, 20)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a = fake_quantize(ours, step, qmin, qmax)
    b = torch.fake_quantize_per_tensor_affine(theirs, step, zero, qmin, qmax)
    assert torch.equal(a, b)
    assert a.is_contiguous(memory_format=torch.channels_last)
    a.backward(gradient)
    b.backward(gradient)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert 0 < int((theirs.grad == 0).sum()) < x.numel()
    if scale == 2.0**-5:
        assert torch.equal(ours.grad, theirs.grad)
    else:  # at a free scale the two ends of the range are a rounding away from a tie
        assert int((ours.grad != theirs.grad).sum()) <= 2


def test_rounding_of_a_weight_by_channel_is_that_of_torch() -> None:
    torch.manual_seed(5)
    scale = torch.tensor([2.0**-7, 0.011, 0.3, 2.0**-3])
    x = (torch.randn(4, 3, 5, 5) * 50 * scale.view(-1, 1, 1, 1)).contiguous(
        memory_format=torch.channels_last
    )
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a = fake_quantize(ours, scale, -64, 64)
    zero = torch.zeros(4, dtype=torch.int32)
    b = torch.fake_quantize_per_channel_affine(theirs, scale, zero, 0, -64, 64)
    assert torch.equal(a, b)
    gradient = torch.randn_like(x)
    a.backward(gradient)
    b.backward(gradient)
    assert ours.grad is not None
    assert 0 < int((ours.grad == 0).sum()) < x.numel()
    assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    assert torch.equal(
        fake_quantize(x.flatten(1), scale, -64, 64), a.detach().flatten(1)
    )  # a linear layer's


def layers(relu: bool) -> tuple[nn.Module, nn.Module]:
    """The same convolution with BatchNorm, prepared by torch.ao and by us."""
    torch.manual_seed(1)
    model = build("qdr-small", 2, width=0.34)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.normal_(module.running_mean)
    prepared = qat.prepare_qat(model, PORTABLE)
    name = "backbone.conv1.0" if relu else "backbone.block2.conv2.0"
    ours = cast(Any, prepared.get_submodule(name))
    theirs = copy.deepcopy(ours)
    theirs.__class__ = nniqat.ConvBnReLU2d if relu else nniqat.ConvBn2d
    assert type(ours) in conv_bn.CLASSES.values()
    return theirs, ours


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_fused_batch_norm_equals_that_of_torch(relu: bool, frozen: bool) -> None:
    found = []
    for layer in layers(relu):
        # Off: sums that differ in their last bit may round a whole step apart.
        cast(Any, layer).activation_post_process.disable_fake_quant()
        if frozen:
            cast(Any, layer).freeze_bn_stats()
        torch.manual_seed(2)
        x = torch.randn(4, cast(Any, layer).in_channels, 9, 9, requires_grad=True)
        y = layer(x)
        (y * torch.randn_like(y)).sum().backward()
        named = dict(layer.named_parameters())
        gradients = {name: p.grad for name, p in named.items()} | {"x": x.grad}
        found.append((y.detach(), gradients, dict(layer.named_buffers())))
    (y, gradients, buffers), (our_y, our_gradients, our_buffers) = found
    torch.testing.assert_close(our_y, y, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == our_gradients.keys() >= {"weight", "bn.weight", "bn.bias", "x"}
    for name, gradient in gradients.items():
        assert gradient is not None
        size = float(gradient.abs().max())
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-3, atol=1e-4 * size)
    for name, buffer in buffers.items():
        torch.testing.assert_close(our_buffers[name], buffer, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("scheme", [EXACT, PORTABLE])
def test_a_frozen_layer_is_the_folded_one(scheme: QuantScheme) -> None:
    """The convolution that ships and nothing else: its weights on their grid, its shift a bias."""
    torch.manual_seed(3)
    prepared = qat.prepare_qat(build("qdr-small", 2, width=0.34), scheme)
    prepared(torch.randn(4, 3, 64, 64))
    qat.set_phase(prepared, observers=False, bn_frozen=True)
    folded = cast(Any, qat.reference_form(prepared)).backbone.conv1[0]
    layer = cast(Any, prepared).backbone.conv1[0]
    x = torch.randint(0, 5, (2, layer.in_channels, 8, 8)) * 0.25
    scale = folded.quantization.scale.view(-1, 1, 1, 1)
    weight = folded.quantization.codes(folded.weight) * scale
    expected = torch.relu(nn.functional.conv2d(x, weight, folded.bias, padding=1))
    with torch.no_grad():
        torch.testing.assert_close(layer.activation_post_process(expected), layer(x))
        bare = torch.relu(layer._forward(x))
    torch.testing.assert_close(bare, expected, rtol=1e-5, atol=1e-5)


def test_observed_range_does_not_depend_on_memory_order() -> None:
    torch.manual_seed(4)
    prepared = cast(Any, qat.prepare_qat(build("qdr-small", 2, width=0.34), PORTABLE))
    x = torch.randn(2, 16, 7, 5)
    scales = []
    for form in (torch.contiguous_format, torch.channels_last):
        quantizer = copy.deepcopy(prepared.backbone.block2.add.output_quantizer)
        quantizer(x.contiguous(memory_format=form))
        scales.append(quantizer.scale)
    assert torch.equal(*scales)
    assert float(scales[0]) == pytest.approx(float(x.abs().max()) / 127.5, rel=1e-3)
