"""A moving average of a network's weights."""

from __future__ import annotations

import copy

import torch

from qdr_train.models import Classifier


class WeightAverage:
    """A second network whose weights follow those of one that learns.

    Buffers (BatchNorm's statistics) are copied: they are averages over batches already.

    Args:
        network: What is followed; the average begins with its weights.
        decay: Share of the average that stays in each step, 0..1.
        warm_up: Average quickly at first, as min(decay, (1 + n) / (10 + n)) in step n: random
            initial weights would otherwise weigh on it for 1 / (1 - decay) steps.
    """

    def __init__(self, network: Classifier, decay: float, *, warm_up: bool) -> None:
        self.network: Classifier = copy.deepcopy(network).eval().requires_grad_(False)
        self.steps = 0
        self._decay = decay
        self._warm_up = warm_up

    @torch.no_grad()
    def follow(self, network: Classifier) -> None:
        """Take in the weights after a step."""
        decay = self._decay
        if self._warm_up:
            decay = min(decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for average, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
