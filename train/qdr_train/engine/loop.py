"""One epoch of training: batches in, gradients through, mean losses out.

Where several processes train together (ranks.py), each makes the same order and the same steps,
draws for every image of a part, and computes its share of the part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qdr_train.data.augment import Augmentation, augment
from qdr_train.data.images import Images
from qdr_train.data.sampling import epoch_order, steps_of
from qdr_train.distill.guide import StudentBatch
from qdr_train.engine.learner import Trainee
from qdr_train.engine.schedule import set_learning_rate
from qdr_train.recipe import Stage


def train_epoch(
    trainee: Trainee,
    images: Images,
    stage: Stage,
    *,
    learning_rate: Callable[[float], float],
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """One pass over the training images; the incomplete last batch is left for another epoch.

    Args:
        trainee: What learns; the caller has put it into its training phase.
        images: Training images.
        stage: Batch, parts, sampler, views.
        learning_rate: From the share of the epoch done, 0..1, to the rate of the next step.
        generator: Source of order, views and pairs.
        progress: Called with (steps done, steps).

    Returns:
        Mean of each loss over the epoch; "loss" is the sum of the student's, "teacher" the label
        loss of teachers that learn.
    """
    order = epoch_order(images.targets, stage.sampler, generator)
    steps = steps_of(order, stage.batch, stage.accumulate, trainee.ranks.size)
    views = stage.views.ranges(stage.modality)
    totals: dict[str, Tensor] = {}
    for done, parts in enumerate(steps):
        for learner in trainee.learners:
            set_learning_rate(learner.optimizer, learning_rate(done / len(steps)))
            learner.optimizer.zero_grad(set_to_none=True)
        for name, value in gradients(trainee, images, parts, views, generator).items():
            totals[name] = totals[name] + value if name in totals else value
        _update(trainee)
        progress(done + 1, len(steps))
    if not totals:
        return {}
    means = trainee.ranks.mean(torch.stack(list(totals.values()))).tolist()
    return {name: mean / len(steps) for name, mean in zip(totals, means, strict=True)}


def gradients(
    trainee: Trainee,
    images: Images,
    parts: tuple[Tensor, ...],
    views: Augmentation,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Add up the gradients of a step's parts, each weighed by its share of the images.

    Returns:
        The losses of the step, without gradient.
    """
    count = sum(len(rows) for rows in parts)
    totals: dict[str, Tensor] = {}
    for rows in parts:
        losses, teachers = _losses(trainee, images, rows, views, generator)
        loss = torch.stack(list(losses.values())).sum()
        # A teacher shares no weight and no gradient with the student: one way back serves both.
        everything = torch.stack([loss, *teachers]).sum()
        share = len(rows) / count
        trainee.precision.backward(everything * share)
        shown = {"loss": loss, **losses}
        if teachers:
            shown["teacher"] = torch.stack(teachers).mean()
        for name, value in shown.items():
            part = value.detach() * share
            totals[name] = totals[name] + part if name in totals else part
    return totals


def _update(trainee: Trainee) -> None:
    """Step all optimizers. Here the gradients of the whole batch are ready, none is used yet."""
    for learner in trainee.learners:
        trainee.ranks.average(learner.parameters())
        trainee.ranks.agree(learner.network)
        learner.step(trainee.precision)
    trainee.precision.end_step()


def _losses(
    trainee: Trainee,
    images: Images,
    rows: Tensor,
    views: Augmentation,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The student's losses by name, and the label loss of each teacher that learns."""
    rows = rows[trainee.ranks.part(len(rows))]
    view = augment(images.take(rows).to(trainee.device), views, generator, trainee.ranks)
    targets = images.targets[rows].to(trainee.device)
    answer = trainee.precision.answer
    features, logits = answer(trainee.student.network, view)
    label_loss = trainee.objective(logits, targets)
    losses = {"label": label_loss}
    teachers = []
    seen = StudentBatch(rows, view, features, logits, targets, label_loss)
    for guide, align in zip(trainee.guides, trainee.aligns, strict=True):
        guidance = guide.losses(seen, align, generator, answer)
        if guidance.teacher is not None:
            teachers.append(guidance.teacher)
        for name, value in guidance.student.items():
            # The mean over guides: a second teacher must not double the weight.
            share = value / len(trainee.guides)
            losses[name] = losses[name] + share if name in losses else share
    return losses, teachers
