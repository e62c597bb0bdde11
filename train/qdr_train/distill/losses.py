"""Distillation losses: class prototype matching and class similarity alignment.

Class means are one matrix product of a label mask with the features; nothing loops over classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Adds a tensor up over the processes that share a batch, with its gradient.
Gather = Callable[[Tensor], Tensor]

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


def alone(sums: Tensor) -> Tensor:
    """The sum over one process."""
    return sums


def class_means(values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of `values` over the images that carry each label.

    Args:
        values: Float [N, D].
        targets: 0/1 [N, K].

    Returns:
        Means [K, D], zero for a label without images, and the image counts [K].
    """
    return _means(_sums(targets, values))


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
    groups = torch.stack((major, ~major)).unsqueeze(1)  # [2, 1, D]
    return _masked_divergence(student, teacher, groups, rows, temperature) * temperature**2 / count


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
    gather: Gather = alone,
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
        gather: Adds up class sums where several processes share the batch; both terms are then
            those of the whole batch, the same in every process.

    Returns:
        The weighted CPM and CSA, scalars.
    """
    student = _sums(student_targets, aligned, student_logits)
    teacher = _sums(teacher_targets, teacher_features, teacher_logits).detach()
    # One message for both halves. Sums, since a mean of means would weigh an image by how the
    # others of its class happen to lie on the processes.
    sums = gather(torch.cat((student, teacher), dim=1))
    means_s, counts_s = _means(sums[:, : student.shape[1]])
    means_t, counts_t = _means(sums[:, student.shape[1] :].detach())
    shared = (counts_s > 0) & (counts_t > 0)
    classes = student_logits.shape[1]
    prototypes_s, answers_s = means_s[:, :-classes], means_s[:, -classes:]
    prototypes_t, answers_t = means_t[:, :-classes], means_t[:, -classes:]
    temperature = weights.temperature
    cpm = prototype_matching(prototypes_s, prototypes_t, shared, temperature)
    csa = similarity_alignment(answers_s, answers_t, shared, temperature)
    return weights.alpha * cpm, weights.beta * csa


def _sums(targets: Tensor, *values: Tensor) -> Tensor:
    """Sums of the values [N, D] over the images of each label, and their counts, [K, ΣD + 1]."""
    ones = values[0].new_ones(len(targets), 1)
    return targets.to(ones.dtype).T @ torch.cat((*values, ones), dim=1)


def _means(sums: Tensor) -> tuple[Tensor, Tensor]:
    counts = sums[:, -1].detach()
    return sums[:, :-1] / counts.clamp(min=1).unsqueeze(1), counts


def _masked_divergence(
    student: Tensor, teacher: Tensor, columns: Tensor, rows: Tensor, temperature: float
) -> Tensor:
    """Σ over rows of KL(teacher ‖ student) of softmaxes over the given columns only.

    Args:
        student: [K, D].
        teacher: [K, D].
        columns: Bool, [D], or [G, 1, D] for the sum over G sets of columns.
        rows: Weight of each row, [K].
        temperature: T.
    """
    outside = ~columns
    s, t = (values.masked_fill(outside, _EXCLUDED) / temperature for values in (student, teacher))
    log_s, log_t = F.log_softmax(s, dim=-1), F.log_softmax(t, dim=-1)
    # Not log_t.exp(): far below the range of float32 the vectorised exp is six times slower.
    return ((F.softmax(t, dim=-1) * (log_t - log_s)).sum(-1) @ rows).sum()


def _cosines(means: Tensor) -> Tensor:
    # The tiny eps keeps the gradient of a zero row finite without touching real ones.
    unit = means / means.norm(dim=1, keepdim=True).clamp(min=1e-8)
    cosines: Tensor = unit @ unit.T
    return cosines
