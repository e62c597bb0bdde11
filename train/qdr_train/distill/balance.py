"""How strongly a teacher may pull beside the labels.

The published weights fix the size of the distillation losses, not of what they do to the network.
The gradient of prototype matching grows with the alignment MLP, and in short training it reaches
many times that of the labels; docs/adr/0004-distillation.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qdr_train.distill.losses import Gather, alone

# Keeps the quotient finite where no class is shared and the terms have no gradient at all.
_SMALLEST = 1e-30


def limited(
    terms: Mapping[str, Tensor],
    label_loss: Tensor,
    features: Tensor,
    limit: float,
    gather: Gather = alone,
) -> dict[str, Tensor]:
    """Scale distillation terms down until their gradient is at most `limit` times the labels'.

    Both gradients are taken where the terms meet, at the student's features: that costs a way back
    through the head and the alignment MLP, and none through the backbone. Weak terms stay as they
    are, and the terms keep their proportions.

    Args:
        terms: Weighted losses by name, scalars.
        label_loss: Scalar.
        features: The student's features [N, D], which all of them come from.
        limit: Largest ratio of the two gradients' norms, above 0.
        gather: Adds up over the processes that share the batch; all then scale alike.

    Returns:
        The terms, scaled by one factor of 0..1 that carries no gradient.
    """
    pull = torch.stack(list(terms.values())).sum()
    squares = torch.stack([_square(label_loss, features), _square(pull, features)])
    labels, teacher = gather(squares).sqrt()
    # The comparison, not a clamp of the quotient: 0 / 0 must leave a term that is 0 alone.
    factor = torch.where(
        teacher > limit * labels, limit * labels / teacher.clamp(min=_SMALLEST), 1.0
    )
    return {name: term * factor for name, term in terms.items()}


def _square(loss: Tensor, features: Tensor) -> Tensor:
    """Squared norm of the loss's gradient at the features, float32."""
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    return gradient.detach().float().square().sum()
