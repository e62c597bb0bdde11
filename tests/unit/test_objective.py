"""Label losses: each equal to its definition, and none dependent on how a batch is cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdr_train.distill.objective import LabelLoss, asymmetric, balanced_pos_weight, cross_entropy
from qdr_train.recipe import Loss


def answers(exclusive: bool = False, images: int = 12, labels: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = (torch.randn(images, labels, dtype=torch.float64) * 4).requires_grad_()
    if exclusive:
        return logits, F.one_hot(torch.arange(images) % labels, labels).double()
    return logits, (torch.rand(images, labels) < 0.3).double()


def test_asymmetric_without_focus_and_margin_is_binary_cross_entropy() -> None:
    logits, targets = answers()
    plain = Loss(name="asymmetric", gamma_positive=0.0, gamma_negative=0.0, margin=0.0)
    weight = torch.rand(5, dtype=torch.float64) + 1
    for w in (None, weight):
        ours = asymmetric(logits, targets, plain, w)
        theirs = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=w)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)
        for a, b in zip(*(torch.autograd.grad(x, logits) for x in (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_asymmetric_is_the_papers_formula() -> None:
    logits, targets = answers()
    settings = Loss(name="asymmetric", gamma_positive=1.0, gamma_negative=2.5, margin=0.05)
    total = 0.0
    for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = float(torch.sigmoid(torch.tensor(x, dtype=torch.float64)))
        shifted = max(p - 0.05, 0.0)
        value = (
            (1 - p) * torch.tensor(p).log() if y else shifted**2.5 * torch.tensor(1 - shifted).log()
        )
        total -= float(value)
    assert asymmetric(logits, targets, settings).item() == pytest.approx(total / 60, rel=1e-6)


def test_asymmetric_forgives_easy_negatives_and_stays_finite() -> None:
    settings = Loss(name="asymmetric", gamma_positive=0.5, gamma_negative=0.5, margin=0.05)
    logits = torch.tensor([[-8.0, -200.0, 200.0, 200.0, -200.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]])
    loss = asymmetric(logits, targets, settings)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, :2].tolist() == [0.0, 0.0]  # below the margin: free
    assert logits.grad[0, 4] < 0  # a missed finding still pulls


def test_exclusive_likelihood_is_cross_entropy_and_weights_stand_alone() -> None:
    logits, targets = answers(exclusive=True)
    plain = F.cross_entropy(logits, targets.argmax(1))
    torch.testing.assert_close(LabelLoss(exclusive=True)(logits, targets), plain)
    weight = torch.tensor([1.0, 4.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    # An image weighs the same whoever stands beside it: the whole is the mean of its halves.
    whole = cross_entropy(logits, targets, weight)
    halves = [cross_entropy(logits[i::2], targets[i::2], weight) for i in (0, 1)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    assert whole.item() != pytest.approx(plain.item(), rel=0.01)


@pytest.mark.parametrize("exclusive", [False, True])
def test_soft_labels_cost_least_where_student_and_teacher_agree(exclusive: bool) -> None:
    logits, _ = answers()
    loss = LabelLoss(exclusive=exclusive)
    teacher = logits.detach()
    cost = loss.against_answers(logits, teacher)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert gradient.abs().max() < 1e-12
    assert loss.against_answers(logits + torch.randn_like(logits), teacher) > cost
    # A softmax ignores what all logits share; independent labels do not.
    assert torch.isclose(loss.against_answers(logits + 3, teacher), cost) == exclusive


def test_balanced_pos_weight_is_capped_and_used() -> None:
    targets = torch.tensor([[1, 0]] * 1 + [[0, 1]] * 3 + [[0, 0]] * 16)
    weight = balanced_pos_weight(targets, limit=8.0)
    assert weight.tolist() == pytest.approx([8.0, 17 / 3])
    fitted = LabelLoss.fitted(
        Loss(pos_weight_limit=8.0), targets, exclusive=False, device=torch.device("cpu")
    )
    heavy = fitted(torch.zeros(1, 2), torch.tensor([[1, 0]]))
    assert heavy.item() == pytest.approx((8 + 1) / 2 * 0.6931472)
