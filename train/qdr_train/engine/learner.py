"""What learns: modules under one optimizer; and all that learns together in a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qdr_train.distill.guide import Guide
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.average import WeightAverage
from qdr_train.engine.precision import Precision
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.engine.schedule import build_optimizer
from qdr_train.engine.state import of_prefix, pack_optimizer, unpack_optimizer, with_prefix
from qdr_train.models import Classifier
from qdr_train.recipe import Optimizer


class Learner:
    """A network under an optimizer of its own.

    Args:
        network: Float, or prepared for QAT.
        settings: Optimizer and clipping.
        beside: Modules that learn with it and are thrown away in the end.
        average: Follows the network; None for none.
    """

    def __init__(
        self,
        network: Classifier,
        settings: Optimizer,
        *,
        beside: Sequence[nn.Module] = (),
        average: WeightAverage | None = None,
    ) -> None:
        self.network = network
        self.average = average
        self._clip_norm = settings.clip_norm
        self._beside = nn.ModuleList(beside)
        self.optimizer = build_optimizer([network, self._beside], settings)

    @property
    def judged(self) -> Classifier:
        """The network that is validated and kept: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def parameters(self) -> list[Tensor]:
        """All parameters that learn."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def step(self, precision: Precision) -> None:
        """From gradients to new weights."""
        precision.unscale(self.optimizer)
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self.parameters(), self._clip_norm)
        precision.step(self.optimizer)
        if self.average is not None:
            self.average.follow(self.network)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that has weights."""
        averages = () if self.average is None else (self.average.network,)
        return (self.network, self._beside, *averages)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that continuing needs, as tensors and JSON values."""
        moments, optimizer = pack_optimizer(self.optimizer)
        tensors = {
            **with_prefix("network", self.network.state_dict()),
            **with_prefix("beside", self._beside.state_dict()),
            **with_prefix("optimizer", moments),
        }
        values: dict[str, Any] = {"optimizer": optimizer}
        if self.average is not None:
            tensors |= with_prefix("average", self.average.network.state_dict())
            values["averaged_steps"] = self.average.steps
        return tensors, values

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.network.load_state_dict(of_prefix("network", tensors))
        self._beside.load_state_dict(of_prefix("beside", tensors))
        unpack_optimizer(self.optimizer, of_prefix("optimizer", tensors), values["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(of_prefix("average", tensors))
            self.average.steps = values["averaged_steps"]


@dataclass(frozen=True)
class Trainee:
    """Everything that takes part in the steps of a phase.

    Args:
        student: What the stage is about; a teacher stage's network too.
        objective: Its label loss.
        guides: Teachers; none for training on labels alone.
        aligns: An alignment MLP for each guide; they learn with the student.
        teachers: The guides' networks that go on learning.
        precision: Number formats.
        device: Where to compute.
        ranks: The processes that train together.
    """

    student: Learner
    objective: LabelLoss
    guides: tuple[Guide, ...]
    aligns: nn.ModuleList
    teachers: tuple[Learner, ...]
    precision: Precision
    device: torch.device
    ranks: Ranks = ALONE

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The student first."""
        return (self.student, *self.teachers)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that has weights."""
        return tuple(module for learner in self.learners for module in learner.modules)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that continuing needs, as tensors and JSON values."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {"precision": self.precision.state(), "learners": []}
        for number, learner in enumerate(self.learners):
            mine, plain = learner.state()
            tensors |= with_prefix(str(number), mine)
            values["learners"].append(plain)
        return tensors, values

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.precision.load(values["precision"])
        for number, (learner, plain) in enumerate(
            zip(self.learners, values["learners"], strict=True)
        ):
            learner.load(of_prefix(str(number), tensors), plain)
