"""Training losses: binary cross-entropy, class prototype matching, class similarity alignment.

Class means are one matrix product of a label mask with the features; nothing loops over classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

# Far below any feature, yet finite: an excluded column gets probability 0 without inf - inf = NaN.
_EXCLUDED = -1e9


@dataclass(frozen=True)
class DistillationWeights:
    """How strongly the teacher's class structure is matched.

    Args:
        alpha: Weight of class prototype matching (CPM).
        beta: Weight of class similarity alignment (CSA).
        temperature: T of both softmaxes; the loss is scaled by T².
    """

    alpha: float = 2.0
    beta: float = 1.0
    temperature: float = 4.0


def class_means(values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `values` over the images that carry each label.

    Args:
        values: Float [N, D].
        targets: 0/1 [N, K].

    Returns:
        Means [K, D], zero for a label without images, and the image counts [K].
    """
    mask = targets.to(values.dtype)
    counts = mask.sum(0)
    return mask.T @ values / counts.clamp(min=1).unsqueeze(1), counts


def prototype_matching(
    student: Tensor, teacher: Tensor, shared: Tensor, temperature: float
) -> Tensor:
    """CPM without its weight: Σ_J T²/|K'| Σ_k KL(softmax(P^t_kJ/T) ‖ softmax(P^s_kJ/T)).

    J runs over the major and the minor features: those where the student's mean prototype is
    above its own mean over features, and the rest.

    Args:
        student: Class prototypes [K, D].
        teacher: Class prototypes [K, D], without gradient.
        shared: Classes present in both halves of the batch, bool [K].
        temperature: T.

    Returns:
        Scalar; 0 if no class is shared.

    Source: FDDM (arXiv 2308.00291), class prototype matching.
    """
    rows = shared.to(student.dtype)
    count = rows.sum().clamp(min=1)
    mean = (rows @ student.detach()) / count  # [D]
    major = mean > mean.mean()
    loss = student.new_zeros(())
    for columns in (major, ~major):
        loss = loss + _masked_divergence(student, teacher, columns, rows, temperature)
    return loss * temperature**2 / count


def similarity_alignment(
    student: Tensor, teacher: Tensor, shared: Tensor, temperature: float
) -> Tensor:
    """CSA without its weight: T²/|K'| Σ_k KL(softmax(S^t_k/T) ‖ softmax(S^s_k/T)).

    S_kl is the cosine between the mean logits of classes k and l, both shared.

    Args:
        student: Mean logits of each class [K, K].
        teacher: Mean logits of each class [K, K], without gradient.
        shared: Classes present in both halves of the batch, bool [K].
        temperature: T.

    Returns:
        Scalar; 0 if no class is shared.

    Source: FDDM (arXiv 2308.00291), class similarity alignment.
    """
    rows = shared.to(student.dtype)
    similarity_s, similarity_t = (_cosines(means) for means in (student, teacher))
    loss = _masked_divergence(similarity_s, similarity_t, shared, rows, temperature)
    return loss * temperature**2 / rows.sum().clamp(min=1)


def distillation(
    aligned: Tensor,
    student_logits: Tensor,
    student_targets: Tensor,
    teacher_features: Tensor,
    teacher_logits: Tensor,
    teacher_targets: Tensor,
    weights: DistillationWeights,
) -> tuple[Tensor, Tensor]:
    """CPM and CSA of an unpaired batch.

    Args:
        aligned: Student features behind the alignment MLP [N, D].
        student_logits: [N, K].
        student_targets: 0/1 [N, K].
        teacher_features: [M, D]; no gradient flows into them.
        teacher_logits: [M, K]; no gradient flows into them.
        teacher_targets: 0/1 [M, K].
        weights: Strength of both terms.

    Returns:
        The weighted CPM and CSA, scalars.
    """
    prototypes_s, counts_s = class_means(aligned, student_targets)
    prototypes_t, counts_t = class_means(teacher_features.detach(), teacher_targets)
    shared = (counts_s > 0) & (counts_t > 0)
    means_s, _ = class_means(student_logits, student_targets)
    means_t, _ = class_means(teacher_logits.detach(), teacher_targets)
    temperature = weights.temperature
    cpm = prototype_matching(prototypes_s, prototypes_t, shared, temperature)
    csa = similarity_alignment(means_s, means_t, shared, temperature)
    return weights.alpha * cpm, weights.beta * csa


def label_loss(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with logits, mean over images and labels."""
    return F.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), pos_weight=pos_weight
    )


def balanced_pos_weight(targets: Tensor, limit: float) -> Tensor:
    """Negatives per positive of each label, between 1 and `limit`, float [K]."""
    positives = targets.float().sum(0)
    return ((len(targets) - positives) / positives.clamp(min=1)).clamp(min=1, max=limit)


def _masked_divergence(
    student: Tensor, teacher: Tensor, columns: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Σ over rows of KL(teacher ‖ student) of softmaxes over the given columns only."""
    log_s = F.log_softmax(student.masked_fill(~columns, _EXCLUDED) / temperature, dim=1)
    log_t = F.log_softmax(teacher.masked_fill(~columns, _EXCLUDED) / temperature, dim=1)
    return (log_t.exp() * (log_t - log_s)).sum(1) @ rows


def _cosines(means: Tensor) -> Tensor:
    # The tiny eps keeps the gradient of a zero row finite without touching real ones.
    unit = means / means.norm(dim=1, keepdim=True).clamp(min=1e-8)
    cosines: Tensor = unit @ unit.T
    return cosines
