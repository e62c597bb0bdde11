"""The operating point: everything fitted on validation images, from int8 outputs, then frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qdr_edge.decision import DecisionRule, fit_temperature, fit_thresholds
from qdr_edge.gate import GateLimits, fit_limits
from qdr_edge.manifest import Decisions
from qdr_edge.metrics import Estimate, Evaluation, evaluate, paired_map_difference
from qdr_export.parity import decisions
from qdr_export.run_folder import Student
from qdr_export.rungs import FLOAT_TWIN, REFERENCE, Outputs

REJECTION_RATE = 0.01
QUALITY_COLUMN, UNGRADABLE_QUALITY = "quality", "3"
"""A table's optional column of grades, 0 (good) to 3 (ungradable)."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a device decides by, and how well that went on the images it was fitted on.

    Args:
        rule: Temperature and thresholds.
        limits: What the gate accepts.
        evaluation: The int8 reference on validation images.
        float_evaluation: The float twin on the same images.
        difference: mAP of int8 minus mAP of float, paired.
    """

    rule: DecisionRule
    limits: GateLimits
    evaluation: Evaluation
    float_evaluation: Evaluation
    difference: Estimate

    def to_manifest(self) -> Decisions:
        """The manifest's form."""
        # `confidence_bound` of a threshold is the interval of what it reached on validation.
        bounds = {
            label.code: (
                f"sensitivity {_interval(label.sensitivity)}, "
                f"specificity {_interval(label.specificity)}"
            )
            for label in self.evaluation.labels
        }
        return Decisions.of(
            self.rule,
            self.limits.to_dict(),
            fitted_for="largest F1",
            split="val",
            confidence_bounds=bounds,
        )

    def evidence(self) -> dict[str, Any]:
        """A JSON object for the bundle and the parity file."""
        return {
            "split": "val",
            "int8": self.evaluation.to_dict(),
            "float": self.float_evaluation.to_dict(),
            "int8_minus_float_map": self.difference.to_dict(),
        }


def fit_operating_point(student: Student, outputs: Outputs) -> OperatingPoint:
    """Fit temperature, thresholds and gate limits on the validation rows, and evaluate there."""
    n = student.validation_rows
    checkpoint = student.checkpoint
    samples = student.samples.select(split="val")
    logits, float_logits = outputs.logits[REFERENCE][:n], outputs.logits[FLOAT_TWIN][:n]
    targets, groups = samples.targets(), samples.patients()
    rule = DecisionRule(
        checkpoint.labels, fit_temperature(logits, targets), fit_thresholds(logits, targets)
    )
    # The gate is fitted to accept these, so those a grader called ungradable stay out.
    gradable = [
        features
        for features, sample in zip(outputs.features[:n], samples, strict=True)
        if sample.extra.get(QUALITY_COLUMN) != UNGRADABLE_QUALITY
    ]
    limits = fit_limits(gradable, checkpoint.modality, rejection_rate=REJECTION_RATE)

    def evaluated(scores: Any) -> Evaluation:
        called = decisions(scores, rule).astype(np.uint8)
        return evaluate(scores, targets, checkpoint.labels, groups=groups, decisions=called)

    return OperatingPoint(
        rule=rule,
        limits=limits,
        evaluation=evaluated(logits),
        float_evaluation=evaluated(float_logits),
        difference=paired_map_difference(logits, float_logits, targets, groups),
    )


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, 95 %)"
