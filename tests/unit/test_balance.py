"""A teacher's pull beside that of the labels: limited where it is too strong, else untouched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qdr_train.distill.balance import limited


def norm_at(features: Tensor, loss: Tensor) -> float:
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    return float(gradient.norm())


def losses(strength: float) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    features = torch.randn(8, 5, requires_grad=True)
    label_loss = features.square().mean()
    terms = {"cpm": strength * features.exp().mean(), "csa": 0.1 * strength * features.sin().mean()}
    return features, label_loss, terms


@pytest.mark.parametrize("limit", [0.25, 1.0])
def test_a_strong_teacher_is_scaled_down_to_the_limit_in_its_own_proportions(limit: float) -> None:
    features, label_loss, terms = losses(strength=40)
    found = limited(terms, label_loss, features, limit)
    ratio = norm_at(features, found["cpm"] + found["csa"]) / norm_at(features, label_loss)
    assert ratio == pytest.approx(limit, rel=1e-5)
    assert (found["cpm"] / found["csa"]).item() == pytest.approx(
        (terms["cpm"] / terms["csa"]).item(), rel=1e-5
    )


def test_a_weak_teacher_is_left_alone() -> None:
    features, label_loss, terms = losses(strength=1e-3)
    found = limited(terms, label_loss, features, 0.5)
    assert {name: term.item() for name, term in found.items()} == {
        name: term.item() for name, term in terms.items()
    }


def test_terms_without_gradient_stay_zero_and_finite() -> None:
    features, label_loss, _ = losses(strength=1)
    terms = {"cpm": (features * 0).sum(), "csa": (features * 0).sum()}
    found = limited(terms, label_loss, features, 0.5)
    total = found["cpm"] + found["csa"]
    assert total.item() == 0
    assert norm_at(features, total) == 0


def test_a_label_loss_that_is_satisfied_silences_the_teacher() -> None:
    features, _, terms = losses(strength=1)
    found = limited(terms, (features * 0).sum(), features, 0.5)
    assert found["cpm"].item() == 0


def test_processes_scale_by_the_gradients_of_the_whole_batch() -> None:
    features, label_loss, terms = losses(strength=40)
    # The other process's labels pull so hard that the teacher stays within the limit.
    others = torch.tensor([1e9, 0.0])
    found = limited(terms, label_loss, features, 0.5, gather=lambda mine: mine + others)
    assert found["cpm"].item() == terms["cpm"].item()
