"""Accuracy of the artefact that was timed, beside chance, majority answer and float twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_bench.curves import curves
from qdr_edge.decision import (
    DecisionRule,
    label_decisions,
    label_probabilities,
    label_scores,
)
from qdr_edge.metrics import ece, evaluate, paired_map_difference


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """What is known about the evaluated images: targets 0/1 [N, K] and a patient id for each."""

    targets: NDArray[np.uint8]
    patients: tuple[str, ...]
    rule: DecisionRule


def assess(
    logits: NDArray[np.float32], truth: GroundTruth, twin: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Evaluate logits at the frozen operating point.

    Args:
        logits: [N, K] of the artefact, finite.
        truth: Targets, patients and decision rule.
        twin: Logits of the float twin on the same runtime, if it ran.

    Returns:
        A JSON object: `Evaluation.to_dict()`, `ece`, `curves`, and `against_float` with label
        flips and the paired mAP difference.
    """
    labels = truth.rule.labels
    scores = label_scores(logits, labels)
    called = label_decisions(logits, truth.rule)
    evaluation = evaluate(scores, truth.targets, labels, groups=truth.patients, decisions=called)
    result = evaluation.to_dict()
    probabilities = label_probabilities(logits, truth.rule)
    result["ece"] = ece(probabilities, truth.targets)
    result["curves"] = curves(scores, probabilities, truth.targets, called, labels)
    result["against_float"] = None
    if twin is not None:
        flips = (called != label_decisions(twin, truth.rule)).sum(axis=0)
        twin_scores = label_scores(twin, labels)
        difference = paired_map_difference(scores, twin_scores, truth.targets, truth.patients)
        result["against_float"] = {
            "label_flips": int(flips.sum()),
            "decisions": int(called.size),
            "flips_by_label": _by_label(labels.codes, flips.tolist()),
            "map_difference": difference.to_dict(),
            "max_logit_difference": float(np.abs(logits - twin).max()),
        }
    return result


def _by_label(codes: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(codes, counts, strict=True))
