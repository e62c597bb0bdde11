"""Distillation losses: equal to a form written with loops, and defined on every batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdr_train.distill.losses import (
    DistillationWeights,
    class_means,
    distillation,
)

WEIGHTS = DistillationWeights(alpha=2.0, beta=1.0, temperature=4.0)


def loop_form(
    aligned: Tensor,
    student_logits: Tensor,
    y_s: Tensor,
    features_t: Tensor,
    logits_t: Tensor,
    y_t: Tensor,
) -> tuple[Tensor, Tensor]:
    """CPM and CSA as the paper writes them, class by class (method of FDDM)."""
    temperature = 4.0
    shared = [k for k in range(y_s.shape[1]) if y_s[:, k].any() and y_t[:, k].any()]
    zero = aligned.sum() * 0
    if not shared:
        return zero, zero

    def mean(values: Tensor, targets: Tensor, k: int) -> Tensor:
        return torch.stack([v for v, y in zip(values, targets, strict=True) if y[k]]).mean(0)

    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        p, q = F.softmax(teacher / temperature, 0), F.softmax(student / temperature, 0)
        return (p * (p / q).log()).sum()

    p_s = {k: mean(aligned, y_s, k) for k in shared}
    p_t = {k: mean(features_t, y_t, k) for k in shared}
    m = torch.stack([p_s[k] for k in shared]).mean(0)
    major = [j for j in range(len(m)) if m[j] > m.mean()]
    minor = [j for j in range(len(m)) if j not in major]
    cpm = zero
    for group in (major, minor):
        if group:
            for k in shared:
                cpm = cpm + divergence(p_t[k][group], p_s[k][group])
    q_s = {k: mean(student_logits, y_s, k) for k in shared}
    q_t = {k: mean(logits_t, y_t, k) for k in shared}
    csa = zero
    for k in shared:
        s_s = torch.stack([F.cosine_similarity(q_s[k], q_s[j], dim=0) for j in shared])
        s_t = torch.stack([F.cosine_similarity(q_t[k], q_t[j], dim=0) for j in shared])
        csa = csa + divergence(s_t, s_s)
    scale = temperature**2 / len(shared)
    return 2.0 * scale * cpm, 1.0 * scale * csa


def batch(seed: int, classes: int = 11, images: int = 16, dim: int = 24) -> list[Tensor]:
    torch.manual_seed(seed)
    y_s, y_t = ((torch.rand(n, classes) < 0.2).float() for n in (images, images + 5))
    return [
        torch.randn(images, dim, dtype=torch.float64) * 3,
        torch.randn(images, classes, dtype=torch.float64) * 2,
        y_s,
        torch.randn(images + 5, dim, dtype=torch.float64) * 3,
        torch.randn(images + 5, classes, dtype=torch.float64) * 2,
        y_t,
    ]


@pytest.mark.parametrize("seed", range(5))
def test_matrix_form_equals_loop_form_in_value_and_gradient(seed: int) -> None:
    one, two = batch(seed), batch(seed)
    for tensors in (one, two):
        tensors[0].requires_grad_()
        tensors[1].requires_grad_()
    ours = distillation(*one, WEIGHTS)
    loops = loop_form(*two)
    for a, b in zip(ours, loops, strict=True):
        assert b.item() > 1e-4
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    sum(ours).backward()
    sum(loops).backward()
    for i in (0, 1):
        assert one[i].grad.abs().max() > 1e-6
        torch.testing.assert_close(one[i].grad, two[i].grad, rtol=1e-5, atol=1e-9)


def test_no_shared_class_is_zero_with_zero_gradient() -> None:
    tensors = batch(0, classes=4)
    tensors[2] = torch.tensor([[1, 0, 0, 0]]).repeat(16, 1).float()
    tensors[5] = torch.tensor([[0, 1, 1, 0]]).repeat(21, 1).float()
    tensors[0].requires_grad_()
    cpm, csa = distillation(*tensors, WEIGHTS)
    (cpm + csa).backward()
    assert cpm.item() == 0
    assert csa.item() == 0
    assert tensors[0].grad is not None
    assert not tensors[0].grad.any()


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
def test_constant_features_give_no_nan(value: float) -> None:
    """A constant image made the reference NaN: J+ is empty, and a zero row has no direction."""
    tensors = batch(1)
    for i in (0, 1, 3, 4):
        tensors[i] = torch.full_like(tensors[i], value).float()
    tensors[0].requires_grad_()
    tensors[1].requires_grad_()
    cpm, csa = distillation(*tensors, WEIGHTS)
    (cpm + csa).backward()
    assert torch.isfinite(cpm + csa)
    assert torch.isfinite(tensors[0].grad).all()
    assert torch.isfinite(tensors[1].grad).all()


def test_teacher_gets_no_gradient_and_equal_halves_cost_nothing() -> None:
    tensors = batch(2)
    tensors[3:] = [t.clone() for t in tensors[:3]]
    tensors[3].requires_grad_()
    tensors[0].requires_grad_()
    cpm, csa = distillation(*tensors, WEIGHTS)
    cpm.backward()
    assert cpm.item() == pytest.approx(0, abs=1e-9)
    assert csa.item() == pytest.approx(0, abs=1e-9)
    assert tensors[3].grad is None


def test_class_means_count_each_label_of_an_image() -> None:
    values = torch.tensor([[2.0], [4.0], [9.0]])
    means, counts = class_means(values, torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0]]))
    assert means[:, 0].tolist() == [3.0, 6.5, 0.0]
    assert counts.tolist() == [2, 2, 0]
