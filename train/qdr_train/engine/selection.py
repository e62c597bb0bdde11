"""Figures of merit during and after training, on validation images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.decision import label_scores
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import average_precision, evaluate
from qdr_train.data.images import Images


def mean_average_precision(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """mAP over the labels that have positives and negatives; NaN if none has.

    Args:
        scores: [N, K], `decision.label_scores` of logits.
        targets: 0/1 [N, K].
    """
    positives = targets.sum(axis=0)
    measurable = np.flatnonzero((positives > 0) & (positives < len(targets)))
    found = [average_precision(scores[:, k], targets[:, k]) for k in measurable]
    return float(np.mean(found)) if found else math.nan


def describe(
    logits: NDArray[np.float32], images: Images, labels: LabelSet, seed: int
) -> dict[str, Any]:
    """Metrics with 95 % intervals by patient, as JSON values (null where undefined)."""
    targets = images.targets.numpy().astype(np.uint8)
    scores = label_scores(logits, labels)
    return evaluate(scores, targets, labels, groups=images.patients, seed=seed).to_dict()
