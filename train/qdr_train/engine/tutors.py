"""Teachers as a student's stage holds them: frozen, or with a network that goes on learning."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qdr_train.data.images import Images
from qdr_train.distill.guide import Guide
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.average import WeightAverage
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.models import Classifier
from qdr_train.recipe import Stage, StudentStage


@dataclass(frozen=True)
class Tutor:
    """A guide, and what of it learns. The finished teacher stage keeps its own weights.

    Args:
        guide: What teaches.
        learner: The network that goes on learning from labels; None for a frozen teacher.
        average: The moving average of the learner, which then is what answers.
    """

    guide: Guide
    learner: Classifier | None = None
    average: WeightAverage | None = None


def tutor_of(
    network: Classifier,
    teacher: Stage,
    stage: StudentStage,
    theirs: Images,
    ours: Images,
    *,
    exclusive: bool,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Tutor:
    """A teacher for a student, as the student's recipe has it learn.

    Args:
        network: The selected network of the teacher's stage; a copy of this student's own.
        teacher: The teacher's stage.
        stage: The student's stage.
        theirs: Training images of the teacher's modality.
        ours: Training images of the student's.
        exclusive: Each image carries exactly one label.
        device: Where to compute.
        ranks: The processes that train together.
    """
    learns = stage.distill.teacher_learns
    learner = network if learns != "frozen" else None
    average = None
    if learns == "ema":
        # It follows a trained network, not random weights: no warm-up.
        average = WeightAverage(network, stage.distill.teacher_ema, warm_up=False)
    guide = Guide(
        average.network if average else network,
        theirs,
        teacher.views.ranges(teacher.modality),
        ours,
        same_modality=teacher.modality == stage.modality,
        settings=stage.distill,
        device=device,
        learner=learner,
        objective=LabelLoss.fitted(
            teacher.loss, theirs.targets, exclusive=exclusive, device=device
        ),
        ranks=ranks,
    )
    return Tutor(guide, learner, average)
