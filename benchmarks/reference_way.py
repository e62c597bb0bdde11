"""A step of mutual distillation as the published code does it, for benchmarks/training.py.

Written anew from what that code does (QD-RetNet, MIUA 2025, and FDDM): both losses with loops in
Python over classes and images; a student prepared for QAT with a configuration that is meant for
calibration, so that module after module passes a histogram observer in every step and nothing is
fake-quantized; a teacher that trains along and is asked for its answers a second time, in training
mode.

Left out, though it costs them time: the residual that is added twice, and from the tenth epoch on
a third network. Kept the same as ours, though theirs is slower: weights in channels-last order.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao import quantization

from qdr_train.distill.guide import alignment
from qdr_train.models import Classifier
from qdr_train.models.blocks import Add, Input

tq: Any = quantization  # most of it carries no types
ALPHA, BETA, TEMPERATURE = 2.0, 1.0, 4.0


def loop_loss(
    aligned: Tensor,
    student_logits: Tensor,
    student_targets: Tensor,
    teacher_features: Tensor,
    teacher_logits: Tensor,
    teacher_targets: Tensor,
) -> Tensor:
    """CPM + CSA, class by class and image by image; arguments as `qdr_train.distill`'s."""
    prototypes_s, prototypes_t, answers_s, answers_t = [], [], [], []
    for k in range(student_targets.shape[1]):
        prototype_s = torch.zeros_like(aligned[0])
        prototype_t = torch.zeros_like(teacher_features[0])
        answer_s = torch.zeros_like(student_logits[0])
        answer_t = torch.zeros_like(teacher_logits[0])
        count_s = count_t = 0
        for image in range(len(student_targets)):
            if student_targets[image][k]:
                prototype_s += aligned[image]
                answer_s += student_logits[image]
                count_s += 1
            if teacher_targets[image][k]:
                prototype_t += teacher_features[image]
                answer_t += teacher_logits[image]
                count_t += 1
        if count_s and count_t:
            prototypes_s.append(prototype_s / count_s)
            prototypes_t.append(prototype_t / count_t)
            answers_s.append(answer_s / count_s)
            answers_t.append(answer_t / count_t)
    if not prototypes_s:
        return torch.zeros(())
    p_s, p_t = torch.stack(prototypes_s), torch.stack(prototypes_t)
    mean = p_s.mean(0)
    major, minor = torch.where(mean > mean.mean())[0], torch.where(mean <= mean.mean())[0]
    matching = sum(_divergence(p_s[:, part], p_t[:, part]) for part in (major, minor))
    similar_s, similar_t = (
        F.cosine_similarity(q.unsqueeze(1), q.unsqueeze(0), dim=-1)
        for q in (torch.stack(answers_s), torch.stack(answers_t))
    )
    return ALPHA * matching + BETA * _divergence(similar_s, similar_t)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """T² times the mean over classes of KL(softmax(teacher/T) ‖ softmax(student/T))."""
    log_s, p_t = F.log_softmax(student / TEMPERATURE, 1), F.softmax(teacher / TEMPERATURE, 1)
    return F.kl_div(log_s, p_t, reduction="batchmean") * TEMPERATURE**2


class _ObservedAdd(nn.Module):
    """A residual sum that the observers see."""

    def __init__(self, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.sum = torch.ao.nn.quantized.FloatFunctional()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total: Tensor = self.sum.add(a, b)
        return torch.relu(total) if self.relu else total


def observed(network: nn.Module) -> Any:
    """A float network as the published code prepares it for QAT; changed in place."""
    for name, module in list(network.named_modules()):
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, Input):
            setattr(parent, name.rpartition(".")[2], tq.QuantStub())
        elif isinstance(module, Add):
            setattr(parent, name.rpartition(".")[2], _ObservedAdd(relu=module.relu))
    prepared: Any = network.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        prepared.qconfig = tq.get_default_qconfig("qnnpack")
        tq.prepare_qat(prepared, inplace=True)
    return prepared


class ReferenceStep:
    """One direction of the mutual step on one fixed batch.

    Args:
        student: Float network; becomes an observed one.
        teacher: Float network.
        device: Where to compute.
    """

    def __init__(self, student: Classifier, teacher: Classifier, device: torch.device) -> None:
        align = nn.Sequential(tq.QuantStub(), alignment(student.feature_dim, teacher.feature_dim))
        self._teacher = teacher.train().to(device)
        self._student = observed(student).to(device)
        self._align = observed(align).to(device)
        settings: Any = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
        learns = [*self._student.parameters(), *self._align.parameters()]
        self._optimizer = torch.optim.SGD(learns, **settings)
        self._teacher_optimizer = torch.optim.SGD(self._teacher.parameters(), **settings)

    def __call__(
        self, view: Tensor, targets: Tensor, teacher_view: Tensor, teacher_targets: Tensor
    ) -> None:
        """Train on network inputs [B, 3, S, S] and their 0/1 targets [B, K]."""
        self._optimizer.zero_grad()
        self._teacher_optimizer.zero_grad()
        _, own_logits = self._teacher.forward_features(teacher_view)
        features, logits = self._student.forward_features(view)
        with torch.no_grad():
            answers = self._teacher.forward_features(teacher_view)
        distilled = loop_loss(self._align(features), logits, targets, *answers, teacher_targets)
        loss = F.binary_cross_entropy_with_logits(logits, targets) + distilled
        own_loss = F.binary_cross_entropy_with_logits(own_logits, teacher_targets)
        loss.backward()  # type: ignore[no-untyped-call]
        own_loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._teacher_optimizer.step()
        loss.item()  # as they log it
