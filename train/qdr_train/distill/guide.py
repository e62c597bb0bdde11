"""A teacher beside a student: which images it explains, and what its answers cost the student.

No gradient of the student's losses ever reaches a teacher. One that goes on learning does so from
the labels of the images it explains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdr_train.data.augment import Augmentation, augment
from qdr_train.data.images import PREDICT_BATCH, Images, network_input
from qdr_train.distill.balance import limited
from qdr_train.distill.losses import DistillationWeights, distillation
from qdr_train.distill.objective import LabelLoss
from qdr_train.distill.pairing import LabelPairing
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.models import Classifier
from qdr_train.recipe import Distill

Answer = Callable[[Classifier, Tensor], tuple[Tensor, Tensor]]
"""Features [N, D] and logits [N, K] that a network gives to a view [N, 3, S, S] on 0..255."""


def plain_answer(network: Classifier, view: Tensor) -> tuple[Tensor, Tensor]:
    """In float32."""
    return network.forward_features(network_input(view))


@dataclass(frozen=True)
class StudentBatch:
    """What a student made of its batch.

    Args:
        rows: Images of the student's training split, int64 [B].
        view: The pixels it saw, float32 [B, 3, S, S] on 0..255.
        features: [B, D].
        logits: [B, K].
        targets: 0/1 [B, K].
        label_loss: What the logits cost against the labels, scalar.
    """

    rows: Tensor
    view: Tensor
    features: Tensor
    logits: Tensor
    targets: Tensor
    label_loss: Tensor


@dataclass(frozen=True)
class Guidance:
    """What a teacher's half of a batch costs.

    Args:
        student: The weighted losses of the student, by name.
        teacher: The label loss of a teacher that learns; None if it is frozen.
    """

    student: dict[str, Tensor]
    teacher: Tensor | None


def alignment(student_dim: int, teacher_dim: int) -> nn.Module:
    """The alignment MLP: student features to the teacher's space; thrown away after training."""
    return nn.Sequential(
        nn.Linear(student_dim, teacher_dim),
        nn.ReLU(),
        nn.Linear(teacher_dim, teacher_dim),
        nn.ReLU(),
        nn.Linear(teacher_dim, teacher_dim),
    )


class Guide:
    """One teacher.

    With "fixed" views its answers to the unaugmented training images are computed once and looked
    up afterwards: a step then costs no teacher forward at all.

    Args:
        teacher: The float network that answers.
        images: The teacher's training images.
        views: Its augmentation, used with augmented views.
        student: The student's training images.
        same_modality: The teacher sees the student's own images.
        settings: Weights and views.
        device: Where it computes.
        learner: The network that goes on learning: `teacher` itself, or the one whose moving
            average `teacher` is; None for a frozen teacher.
        objective: Label loss of the learner; also says whether labels exclude each other.
        ranks: The processes that share a batch: class sums are those of the whole.
    """

    def __init__(
        self,
        teacher: Classifier,
        images: Images,
        views: Augmentation,
        student: Images,
        *,
        same_modality: bool,
        settings: Distill,
        device: torch.device,
        learner: Classifier | None = None,
        objective: LabelLoss | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._teacher = teacher
        self._learner = learner
        if learner is not teacher:
            teacher.eval().requires_grad_(False)
        if learner is not None:
            learner.train().requires_grad_(True)
        self._images = images
        self._views = views
        self._same = same_modality
        self._settings = settings
        self._device = device
        self._ranks = ranks
        self._objective = objective or LabelLoss()
        self._weights = DistillationWeights(settings.alpha, settings.beta, settings.temperature)
        self._pairing = LabelPairing(student.targets, images.targets)
        self._table: tuple[Tensor, Tensor] | None = None

    @property
    def feature_dim(self) -> int:
        """Width of the teacher's features."""
        return self._teacher.feature_dim

    def losses(
        self,
        batch: StudentBatch,
        align: nn.Module,
        generator: torch.Generator,
        answer: Answer = plain_answer,
    ) -> Guidance:
        """CPM, CSA and soft-label loss of a batch, weighted, and the teacher's own loss.

        Args:
            batch: What the student made of its images.
            align: Alignment MLP of this teacher.
            generator: Source of pairs and views.
            answer: How a network is asked; in mixed precision, for example.
        """
        features, logits, targets, own = self._answers(batch, generator, answer)
        cpm, csa = distillation(
            align(batch.features),
            batch.logits,
            batch.targets,
            features,
            logits,
            targets,
            self._weights,
            self._ranks.add,
        )
        found = {"cpm": cpm, "csa": csa}
        limit = self._settings.gradient_limit
        if limit is not None:
            found = limited(found, batch.label_loss, batch.features, limit, self._ranks.add)
        if self._same and self._settings.soft_labels:
            soft = self._objective.against_answers(batch.logits, logits)
            found["soft"] = self._settings.soft_labels * soft
        return Guidance(found, own)

    def _answers(
        self, batch: StudentBatch, generator: torch.Generator, answer: Answer
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Features, logits and targets of the teacher's half of the batch; the teacher's loss."""
        rows = batch.rows
        if not self._same:
            each = self._settings.teacher_images
            rows = self._pairing.draw(rows, each, generator, self._ranks)
        targets = self._images.targets[rows].to(self._device)
        if self._settings.teacher_views == "fixed":
            if self._table is None:
                self._table = self._explain_all()
            features, logits = (part[rows.to(self._device)] for part in self._table)
            return features, logits, targets, None
        view = batch.view
        if not self._same:
            pixels = self._images.take(rows).to(self._device)
            view = augment(pixels, self._views, generator, self._ranks)
        own = None
        if self._learner is not None:
            features, logits = answer(self._learner, view)
            own = self._objective(logits, targets)
        if self._learner is not self._teacher:
            with torch.no_grad():
                features, logits = answer(self._teacher, view)
        return features.detach(), logits.detach(), targets, own

    def _explain_all(self) -> tuple[Tensor, Tensor]:
        """In float32 in every phase: a resumed run must look up the same answers."""
        count = len(self._images)
        with torch.no_grad():
            own = torch.arange(count)[self._ranks.part(count)]
            parts = [
                plain_answer(self._teacher, self._images.take(chosen).to(self._device))
                for chosen in torch.split(own, PREDICT_BATCH)
            ]
        features, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return self._ranks.join(features, count), self._ranks.join(logits, count)
