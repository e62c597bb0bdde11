"""The operating point: everything fitted on validation images, from int8 outputs, then frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qdr_edge import operating_point
from qdr_edge.decision import DecisionRule, label_decisions, label_scores
from qdr_edge.gate import GateLimits, fit_limits
from qdr_edge.manifest import Decisions
from qdr_edge.metrics import Estimate, Evaluation, evaluate, paired_map_difference
from qdr_edge.operating_point import Fitted, Target
from qdr_export.proof.rungs import FLOAT_TWIN, REFERENCE, Outputs
from qdr_export.run_folder import Student

QUALITY_COLUMN, UNGRADABLE_QUALITY = "quality", "3"
"""A table's optional column of grades, 0 (good) to 3 (ungradable)."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a device decides by, and how well that went on the images it was fitted on.

    Args:
        fit: Temperature and thresholds, what they were fitted for and what each label came to.
        limits: What the gate accepts.
        evaluation: The int8 reference on validation images.
        float_evaluation: The float twin on the same images.
        difference: mAP of int8 minus mAP of float, paired.
    """

    fit: operating_point.OperatingPoint
    limits: GateLimits
    evaluation: Evaluation
    float_evaluation: Evaluation
    difference: Estimate

    @property
    def rule(self) -> DecisionRule:
        """Temperature and thresholds."""
        return self.fit.rule

    @property
    def missed(self) -> tuple[Fitted, ...]:
        """Labels whose validation positives are too few, or none, to show the target."""
        return tuple(label for label in self.fit.fitted if not label.reached)

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
            fitted_for=self.fit.target.text,
            split="val",
            confidence_bounds=bounds,
            fitted=self.fit.fitted,
            rejection_rate=self.fit.target.rejection_rate,
        )

    def evidence(self) -> dict[str, Any]:
        """A JSON object for the bundle and the parity file."""
        return {
            "split": "val",
            "int8": self.evaluation.to_dict(),
            "float": self.float_evaluation.to_dict(),
            "int8_minus_float_map": self.difference.to_dict(),
        }


def fit_operating_point(
    student: Student, outputs: Outputs, target: Target | None = None
) -> OperatingPoint:
    """Fit temperature, thresholds and gate limits on the validation rows, and evaluate there.

    Args:
        student: Its checkpoint, and the images.
        outputs: What every form answers.
        target: What to fit for; None takes what the recipe stated.
    """
    n = student.validation_rows
    checkpoint = student.checkpoint
    samples = student.samples.select(split="val")
    logits, float_logits = outputs.logits[REFERENCE][:n], outputs.logits[FLOAT_TWIN][:n]
    targets, groups, labels = samples.targets(), samples.patients(), checkpoint.labels
    chosen = target if target is not None else Target.from_dict(checkpoint.operating_point)
    fit = operating_point.fit(logits, targets, labels, groups, chosen)
    # The gate is fitted to accept these, so those a grader called ungradable stay out.
    gradable = [
        features
        for features, sample in zip(outputs.features[:n], samples, strict=True)
        if sample.extra.get(QUALITY_COLUMN) != UNGRADABLE_QUALITY
    ]
    limits = fit_limits(gradable, checkpoint.modality, rejection_rate=chosen.rejection_rate)

    def evaluated(form: Any) -> Evaluation:
        called = label_decisions(form, fit.rule)
        scores = label_scores(form, labels)
        return evaluate(scores, targets, labels, groups=groups, decisions=called)

    return OperatingPoint(
        fit=fit,
        limits=limits,
        evaluation=evaluated(logits),
        float_evaluation=evaluated(float_logits),
        difference=paired_map_difference(
            label_scores(logits, labels), label_scores(float_logits, labels), targets, groups
        ),
    )


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, 95 %)"
