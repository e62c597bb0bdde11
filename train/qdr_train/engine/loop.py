"""One epoch of training: batches in, gradients through, mean losses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qdr_train.data.augment import Augmentation, augment
from qdr_train.data.images import Images, network_input
from qdr_train.distill.guide import Guide, StudentBatch
from qdr_train.distill.losses import label_loss
from qdr_train.engine.schedule import set_learning_rate
from qdr_train.models import Classifier


class Trainee:
    """What learns in a stage: a network, one alignment MLP for each guide, their optimizer.

    Args:
        network: Float, or prepared for QAT.
        guides: Teachers; none for training on labels alone.
        aligns: As many as guides.
        optimizer: Over all of them.
    """

    def __init__(
        self,
        network: Classifier,
        guides: Sequence[Guide],
        aligns: nn.ModuleList,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.network = network
        self.guides = tuple(guides)
        self.aligns = aligns
        self.optimizer = optimizer

    def parameters(self) -> list[Tensor]:
        """All parameters that learn."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def train_epoch(
    trainee: Trainee,
    images: Images,
    views: Augmentation,
    *,
    batch: int,
    learning_rate: Callable[[float], float],
    clip_norm: float,
    pos_weight: Tensor | None,
    device: torch.device,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Show every training image once; the incomplete last batch is left for another epoch.

    Args:
        trainee: What learns; the caller has put it into its training phase.
        images: Training images.
        views: Augmentation.
        batch: Images a step.
        learning_rate: From the share of the epoch done, 0..1, to the rate of the next step.
        clip_norm: Largest gradient norm; 0 for no limit.
        pos_weight: Of the label loss, [K].
        device: Where to compute.
        generator: Source of order, views and pairs.
        progress: Called with (steps done, steps).

    Returns:
        Mean of each loss over the epoch, and their sum as "loss".
    """
    order = torch.randperm(len(images), generator=generator)
    batch = min(batch, len(images))
    steps = len(images) // batch
    totals: dict[str, Tensor] = {}
    for step in range(steps):
        set_learning_rate(trainee.optimizer, learning_rate(step / steps))
        rows = order[step * batch : (step + 1) * batch]
        losses = _losses(trainee, images, rows, views, pos_weight, device, generator)
        loss = torch.stack(list(losses.values())).sum()
        trainee.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip_norm:
            nn.utils.clip_grad_norm_(trainee.parameters(), clip_norm)
        trainee.optimizer.step()
        for name, value in {"loss": loss, **losses}.items():
            totals[name] = totals.get(name, torch.zeros((), device=device)) + value.detach()
        progress(step + 1, steps)
    return {name: float(total) / steps for name, total in totals.items()}


def _losses(
    trainee: Trainee,
    images: Images,
    rows: Tensor,
    views: Augmentation,
    pos_weight: Tensor | None,
    device: torch.device,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    view = augment(images.take(rows).to(device), views, generator)
    targets = images.targets[rows].to(device)
    features, logits = trainee.network.forward_features(network_input(view))
    losses = {"bce": label_loss(logits, targets, pos_weight)}
    seen = StudentBatch(rows, view, features, logits, targets)
    for guide, align in zip(trainee.guides, trainee.aligns, strict=True):
        for name, value in guide.losses(seen, align, generator).items():
            # The mean over guides: a second teacher must not double the weight.
            share = value / len(trainee.guides)
            losses[name] = losses[name] + share if name in losses else share
    return losses
