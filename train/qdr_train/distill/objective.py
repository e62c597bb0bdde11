"""What the answers of a network cost against the labels of its images.

All are means over images, so that a batch worked through in parts of equal size has the gradient
of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from qdr_train.recipe import Loss

# Base of a power with a fractional exponent: at 0 its derivative would be infinite.
_SMALLEST_BASE = 1e-8


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """The label loss of a stage.

    Args:
        settings: The recipe's.
        exclusive: Each image carries exactly one label.
        weight: Weight of each label's positives, float [K]; None weighs all alike.
    """

    settings: Loss = field(default_factory=Loss)
    exclusive: bool = False
    weight: Tensor | None = None

    @classmethod
    def fitted(
        cls, settings: Loss, targets: Tensor, *, exclusive: bool, device: torch.device
    ) -> LabelLoss:
        """With weights for the rare labels among 0/1 targets [N, K], where the recipe asks."""
        limit = settings.pos_weight_limit
        weight = balanced_pos_weight(targets, limit).to(device) if limit > 1 else None
        return cls(settings, exclusive, weight)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar, of logits [N, K] and 0/1 targets [N, K]."""
        if self.settings.name == "asymmetric":
            return asymmetric(logits, targets, self.settings, self.weight)
        if self.exclusive:
            return cross_entropy(logits, targets, self.weight)
        return F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), pos_weight=self.weight
        )

    def against_answers(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Cross-entropy of logits [N, K] with a teacher's probabilities, given as logits [N, K]."""
        if self.exclusive:
            return F.cross_entropy(logits, answers.softmax(1))
        return F.binary_cross_entropy_with_logits(logits, answers.sigmoid())


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of labels that exclude each other.

    Args:
        logits: [N, K].
        targets: 0/1 [N, K], a single 1 in each row.
        weight: Of each label, [K]. Their sum does not divide the loss: an image's share of the
            gradient must not depend on the company it was drawn with.
    """
    terms = F.log_softmax(logits, dim=1) * targets.to(logits.dtype)
    if weight is not None:
        terms = terms * weight
    return -terms.sum(1).mean()


def asymmetric(
    logits: Tensor, targets: Tensor, settings: Loss, weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy that forgives easy negatives, mean over images and labels.

    A positive costs (1 − p)^γ₊ · −log p; a negative p_m^γ₋ · −log(1 − p_m) with
    p_m = max(p − margin, 0). With both γ and the margin 0 it is binary cross-entropy.

    Args:
        logits: [N, K].
        targets: 0/1 [N, K].
        settings: gamma_positive, gamma_negative, margin.
        weight: Of each label's positives, [K].

    Source: Ben-Baruch et al., Asymmetric Loss for Multi-Label Classification (arXiv 2009.14119,
    ICCV 2021).
    """
    positive = -F.logsigmoid(logits)
    if settings.margin:
        negative = -(torch.sigmoid(-logits) + settings.margin).clamp(max=1).log()
    else:
        negative = -F.logsigmoid(-logits)
    if settings.gamma_positive:
        positive = positive * _power(torch.sigmoid(-logits), settings.gamma_positive)
    if settings.gamma_negative:
        shifted = torch.sigmoid(logits) - settings.margin
        negative = negative * _power(shifted, settings.gamma_negative)
    if weight is not None:
        positive = positive * weight
    return torch.where(targets > 0, positive, negative).mean()


def balanced_pos_weight(targets: Tensor, limit: float) -> Tensor:
    """Negatives per positive of each label, between 1 and `limit`, float [K]."""
    positives = targets.float().sum(0)
    return ((len(targets) - positives) / positives.clamp(min=1)).clamp(min=1, max=limit)


def _power(base: Tensor, exponent: float) -> Tensor:
    return base.clamp(min=_SMALLEST_BASE) ** exponent
