"""Optimizers and learning rates, from the recipe's words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from qdr_train.recipe import Optimizer

SGD_MOMENTUM = 0.9
PLATEAU_PATIENCE = 5
PLATEAU_FACTOR = 0.5


def build_optimizer(modules: Iterable[nn.Module], settings: Optimizer) -> torch.optim.Optimizer:
    """An optimizer over all parameters; weight decay spares biases and BatchNorm."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=SGD_MOMENTUM)
    return torch.optim.AdamW(groups, lr=settings.lr)


def learning_rate(settings: Optimizer, progress: float, epochs: int, factor: float = 1.0) -> float:
    """The learning rate at a moment of a phase.

    Args:
        settings: Peak, schedule, warm-up.
        progress: Epochs done in this phase, with fractions.
        epochs: Epochs of the phase.
        factor: What the plateau rule has made of the peak.
    """
    peak = settings.lr * factor
    # A warm-up never takes more than a third of a phase that was scaled down.
    warmup = min(settings.warmup_epochs, epochs / 3)
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    if settings.schedule != "cosine":
        return peak
    done = (progress - warmup) / max(epochs - warmup, 1e-9)
    low = settings.final_lr_share
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def plateau_factor(values: Sequence[float]) -> float:
    """× 0.5 for every 5 epochs in a row without a new best value.

    Args:
        values: The selection metric of each epoch of the phase so far.
    """
    factor, best, waited = 1.0, -math.inf, 0
    for value in values:
        if value > best:
            best, waited = value, 0
            continue
        waited += 1
        if waited == PLATEAU_PATIENCE:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


def epochs_waited(values: Sequence[float]) -> int:
    """Epochs since the last new best value; 0 where there is none yet."""
    if not values:
        return 0
    return len(values) - 1 - max(range(len(values)), key=lambda i: (values[i], -i))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use one learning rate for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value
