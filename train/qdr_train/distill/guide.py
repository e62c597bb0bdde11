"""A frozen teacher beside a student: which images it explains, and what its answers cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdr_train.data.augment import Augmentation, augment
from qdr_train.data.images import PREDICT_BATCH, Images, network_input
from qdr_train.distill.losses import DistillationWeights, distillation
from qdr_train.distill.pairing import LabelPairing
from qdr_train.models import Classifier
from qdr_train.recipe import Distill


@dataclass(frozen=True)
class StudentBatch:
    """What a student made of its batch.

    Args:
        rows: Images of the student's training split, int64 [B].
        view: The pixels it saw, float32 [B, 3, S, S] on 0..255.
        features: [B, D].
        logits: [B, K].
        targets: 0/1 [B, K].
    """

    rows: Tensor
    view: Tensor
    features: Tensor
    logits: Tensor
    targets: Tensor


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
    """One frozen teacher.

    With "fixed" views its answers to the unaugmented training images are computed once and looked
    up afterwards: a step then costs no teacher forward at all.

    Args:
        teacher: Float network in evaluation mode.
        images: The teacher's training images.
        views: Its augmentation, used with augmented views.
        student: The student's training images.
        same_modality: The teacher sees the student's own images.
        settings: Weights and views.
        device: Where it computes.
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
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._images = images
        self._views = views
        self._same = same_modality
        self._settings = settings
        self._device = device
        self._weights = DistillationWeights(settings.alpha, settings.beta, settings.temperature)
        self._pairing = LabelPairing(student.targets, images.targets)
        self._table: tuple[Tensor, Tensor] | None = None

    @property
    def feature_dim(self) -> int:
        """Width of the teacher's features."""
        return self._teacher.feature_dim

    def losses(
        self, batch: StudentBatch, align: nn.Module, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """CPM, CSA and soft-label loss of a batch, weighted."""
        features, logits, targets = self._answers(batch, generator)
        cpm, csa = distillation(
            align(batch.features),
            batch.logits,
            batch.targets,
            features,
            logits,
            targets,
            self._weights,
        )
        found = {"cpm": cpm, "csa": csa}
        if self._same and self._settings.soft_labels:
            soft = F.binary_cross_entropy_with_logits(batch.logits, torch.sigmoid(logits))
            found["soft"] = self._settings.soft_labels * soft
        return found

    def _answers(
        self, batch: StudentBatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, logits and targets of the teacher's half of the batch."""
        rows = batch.rows
        if not self._same:
            rows = self._pairing.draw(rows, self._settings.teacher_images, generator)
        targets = self._images.targets[rows].to(self._device)
        if self._settings.teacher_views == "fixed":
            if self._table is None:
                self._table = self._explain_all()
            features, logits = (part[rows.to(self._device)] for part in self._table)
            return features, logits, targets
        view = batch.view
        if not self._same:
            view = augment(self._images.take(rows).to(self._device), self._views, generator)
        with torch.no_grad():
            features, logits = self._teacher.forward_features(network_input(view))
        return features, logits, targets

    def _explain_all(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            parts = [
                self._teacher.forward_features(
                    network_input(self._images.take(chosen).to(self._device))
                )
                for chosen in torch.split(torch.arange(len(self._images)), PREDICT_BATCH)
            ]
        return torch.cat([f for f, _ in parts]), torch.cat([logits for _, logits in parts])
