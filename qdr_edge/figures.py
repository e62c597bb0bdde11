"""Every figure of merit, of each label and averaged, on the data and on each resample of patients.

`qdr_edge.metrics` makes estimates with intervals of them. Figures of two networks on the same
resamples may be subtracted row by row: that is what a paired difference is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bootstrap import (
    Floats,
    PatientWeights,
    ap_curve,
    auc_curve,
    calibration,
    kappa_of_classes,
    mean_over_labels,
    ranked_all,
    rates,
)
from qdr_edge.decision import label_decisions, label_probabilities, label_scores

if TYPE_CHECKING:
    from qdr_edge.decision import DecisionRule
    from qdr_edge.labels import LabelSet

ECE_BINS = 15
# What a label's figure is called once it is averaged over labels.
_MEAN_NAMES = {"ap": "map", "accuracy": "label_accuracy"}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answers about N images, eyes or patients.

    Args:
        scores: [N, K], finite; what ranks. See `decision.label_scores`.
        decisions: 0/1 [N, K] at an operating point, or None.
        probabilities: 0..1 [N, K], or None.
    """

    scores: Floats
    decisions: Floats | None = None
    probabilities: Floats | None = None

    @classmethod
    def of(cls, logits: NDArray[Any], rule: DecisionRule) -> Answers:
        """The answers that a rule makes of logits [N, K]."""
        return cls(
            label_scores(logits, rule.labels),
            label_decisions(logits, rule).astype(np.float64),
            label_probabilities(logits, rule),
        )

    def merged(self, unit: NDArray[np.int_]) -> Answers:
        """Of eyes or patients: each label's maximum over the images, as `decision.aggregate` says.

        Args:
            unit: Number of each image's unit [N]; every number from 0 on occurs.
        """

        def largest(values: Floats) -> Floats:
            most = np.full((int(unit.max()) + 1, values.shape[1]), -np.inf)
            np.maximum.at(most, unit, values)
            return most

        return Answers(
            largest(self.scores),
            None if self.decisions is None else largest(self.decisions),
            None if self.probabilities is None else largest(self.probabilities),
        )


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures on the data (entry 0) and on each resample; NaN where one is undefined.

    Args:
        labels: By code of each label with both positives and negatives, by name of the figure:
            ap, auc, prevalence; with decisions sensitivity, specificity, f1, f1_sens_spec,
            accuracy, kappa; with probabilities ece, brier. Each [1 + B].
        whole: By name: map, label_accuracy and the other names as means over those labels, and
            chance_map, top1, majority; where labels exclude each other top1_kappa.
        confusion: Where labels exclude each other: images by true label (row) and highest-scoring
            label (column) [K, K], of images with exactly one label.
    """

    labels: Mapping[str, Mapping[str, Floats]]
    whole: Mapping[str, Floats]
    confusion: NDArray[np.int_] | None = None


def figures(
    answers: Answers,
    targets: Floats,
    labels: LabelSet,
    weights: PatientWeights,
    *,
    only: Sequence[str] | None = None,
) -> Figures:
    """All figures of answers to targets 0/1 [N, K].

    Args:
        answers: Of N images, eyes or patients.
        targets: 0/1 [N, K].
        labels: The K labels.
        weights: The resamples.
        only: Codes to average over, where they have positives and negatives; None for all.
    """
    positives = targets.sum(axis=0)
    used = [
        k
        for k, code in enumerate(labels.codes)
        if 0 < positives[k] < len(targets) and (only is None or code in only)
    ]
    by_label = {labels.codes[k]: _of_label(answers, targets, k, weights) for k in used}
    rows = list(by_label.values())

    def mean(name: str) -> Floats:
        return mean_over_labels(np.stack([row[name] for row in rows]))

    names = [name for name in (rows[0] if rows else ()) if name != "prevalence"]
    whole = {_MEAN_NAMES.get(name, name): mean(name) for name in names}
    if rows:
        # A resample without a single positive of a label has no AP for it, and no chance either.
        chance = [np.where(np.isnan(row["ap"]), np.nan, row["prevalence"]) for row in rows]
        whole["chance_map"] = mean_over_labels(np.stack(chance))
    else:
        whole |= dict.fromkeys(("map", "auc", "chance_map"), weights.undefined)
    top = answers.scores.argmax(axis=1)
    whole["top1"] = weights.mean(targets[np.arange(len(top)), top])
    whole["majority"] = weights.mean(targets[:, int(positives.argmax())])
    if not labels.exclusive:
        return Figures(by_label, whole)
    single = targets.sum(axis=1) == 1
    found, true = np.eye(len(labels))[top[single]], targets[single]
    whole["top1_kappa"] = kappa_of_classes(found, true, weights.subset(single))
    return Figures(by_label, whole, (true.T @ found).astype(int))


def _of_label(
    answers: Answers, targets: Floats, k: int, weights: PatientWeights
) -> dict[str, Floats]:
    y = targets[:, k]
    ap, auc = ranked_all((ap_curve, auc_curve), answers.scores[:, k], y, weights)
    found = {"ap": ap, "auc": auc, "prevalence": weights.mean(y)}
    if answers.decisions is not None:
        found |= rates(answers.decisions[:, k], y, weights)
    if answers.probabilities is not None:
        found |= calibration(answers.probabilities[:, k], y, weights, ECE_BINS)
    return found
