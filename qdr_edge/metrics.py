"""Metrics of screening models, with confidence intervals bootstrapped by patient.

`qdr_edge.figures` has the figures, `qdr_edge.bootstrap` the resampling: one matrix of image
weights, so that a thousand resamples cost a few array passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bootstrap import Floats, PatientWeights, ap_curve, auc_curve, ranked, rates
from qdr_edge.figures import ECE_BINS, Answers, Figures, figures
from qdr_edge.labels import LabelSet

_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Args:
        value: The figure on the data as they are; NaN where undefined.
        low: Lower end; NaN without a bootstrap.
        high: Upper end; NaN without a bootstrap.
        n: Images it rests on; eyes or patients, where those are evaluated.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Floats, n: int) -> Estimate:
        """The estimate that a figure [1 + B] on the data and on resamples gives."""
        resampled = values[1:][~np.isnan(values[1:])]
        low, high = np.percentile(resampled, _INTERVAL) if resampled.size else (math.nan, math.nan)
        return cls(float(values[0]), float(low), float(high), n)

    def to_dict(self) -> dict[str, float | int | None]:
        """A JSON object; NaN becomes null."""
        return {
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "n": self.n,
        }


@dataclass(frozen=True)
class LabelEvaluation:
    """One label's figures.

    Args:
        code: Code of the label.
        positives: Images that carry it.
        ap: Average precision.
        auc: Area under the ROC curve.
        chance_ap: Average precision of a constant score, the prevalence.
        sensitivity: At the operating point; None where no decisions were given. So are the next.
        specificity: True negatives among the images without the label.
        f1: Harmonic mean of precision and sensitivity.
        f1_sens_spec: Harmonic mean of sensitivity and specificity, which the paper calls F1.
        accuracy: Images decided rightly.
        kappa: Cohen's kappa of decision and truth.
        ece: Expected calibration error in 15 bins; None where no probabilities were given.
        brier: Mean squared error of the probability; None likewise.
    """

    code: str
    positives: int
    ap: Estimate
    auc: Estimate
    chance_ap: float
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    f1: Estimate | None = None
    f1_sens_spec: Estimate | None = None
    accuracy: Estimate | None = None
    kappa: Estimate | None = None
    ece: Estimate | None = None
    brier: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return _entries(self)


@dataclass(frozen=True)
class Evaluation:
    """How well answers fit targets.

    Args:
        images: Images evaluated; eyes or patients, where those are evaluated.
        patients: Patients they are of; the unit of the bootstrap.
        map: Mean average precision over `labels`.
        auc: Mean area under the ROC curve over `labels`.
        chance_map: mAP of a constant score: the mean prevalence.
        map_above_chance: mAP minus the mAP of chance, paired.
        accuracy: Images whose highest-scoring label is one of theirs.
        majority_accuracy: The same for always answering the commonest label.
        accuracy_above_majority: Accuracy minus that of the majority answer, paired.
        labels: One entry for each label with both positives and negatives.
        skipped: Codes of the others: they enter no mean.
        without_positives: Those of them that no image carries.
        without_negatives: Those of them that every image carries.
        f1: Mean over labels of F1 at the operating point; None without decisions. So are the next.
        sensitivity: Mean over labels.
        specificity: Mean over labels.
        f1_sens_spec: Mean over labels of the paper's "F1".
        label_accuracy: Mean over labels of the share of images decided rightly.
        kappa: Mean over labels.
        ece: Mean over labels; None without probabilities.
        brier: Mean over labels; None without probabilities.
        top1_kappa: Cohen's kappa, unweighted, of the highest-scoring label and the true one; None
            where labels do not exclude each other. So is the next.
        confusion: Images by true label (row) and highest-scoring label (column), in the order of
            the vocabulary, of images with exactly one label.
    """

    images: int
    patients: int
    map: Estimate
    auc: Estimate
    chance_map: float
    map_above_chance: Estimate
    accuracy: Estimate
    majority_accuracy: float
    accuracy_above_majority: Estimate
    labels: tuple[LabelEvaluation, ...]
    skipped: tuple[str, ...]
    without_positives: tuple[str, ...] = ()
    without_negatives: tuple[str, ...] = ()
    f1: Estimate | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    f1_sens_spec: Estimate | None = None
    label_accuracy: Estimate | None = None
    kappa: Estimate | None = None
    ece: Estimate | None = None
    brier: Estimate | None = None
    top1_kappa: Estimate | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; undefined figures are null."""
        return _entries(self)


AT_POINT = ("sensitivity", "specificity", "f1", "f1_sens_spec", "kappa")
CALIBRATION = ("ece", "brier")


def evaluate(
    scores: NDArray[Any],
    targets: NDArray[Any],
    labels: LabelSet,
    *,
    groups: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    decisions: NDArray[Any] | None = None,
) -> Evaluation:
    """Evaluate scores, with 95 % intervals by patient.

    Args:
        scores: [N, K], finite: `decision.label_scores` of logits.
        targets: 0/1 [N, K].
        labels: The K labels.
        groups: Patient id of each image; None takes every image as a patient of its own.
        n_bootstrap: Resamples; 0 leaves the intervals out.
        seed: Seed of the resampling.
        decisions: 0/1 [N, K], the labels called positive at the operating point.

    Raises:
        ValueError: Shapes differ, there are no images, or a score is not a finite number.
    """
    s, y = _checked(scores, targets)
    if s.ndim != 2 or s.shape[1] != len(labels):
        raise ValueError(f"scores {s.shape} are not [N, {len(labels)}]")
    d = None
    if decisions is not None:
        d = np.asarray(decisions, dtype=np.float64)
        if d.shape != y.shape:
            raise ValueError(f"decisions {d.shape} and targets {y.shape} differ in shape")
    weights = PatientWeights(len(s), groups, n_bootstrap, seed)
    return summarise(figures(Answers(s, d), y, labels, weights), y, labels, weights)


def summarise(
    found: Figures, targets: Floats, labels: LabelSet, weights: PatientWeights
) -> Evaluation:
    """Estimates with intervals of figures; arguments as of `figures`."""
    images = len(targets)
    positives = targets.sum(axis=0).astype(int)
    whole = found.whole

    def estimates(values: Mapping[str, Floats], names: Sequence[str]) -> dict[str, Estimate]:
        return {name: Estimate.of(values[name], images) for name in names if name in values}

    confusion = found.confusion
    return Evaluation(
        images=images,
        patients=weights.clusters,
        chance_map=float(whole["chance_map"][0]),
        map_above_chance=Estimate.of(whole["map"] - whole["chance_map"], images),
        accuracy=Estimate.of(whole["top1"], images),
        majority_accuracy=float(whole["majority"][0]),
        accuracy_above_majority=Estimate.of(whole["top1"] - whole["majority"], images),
        labels=tuple(
            LabelEvaluation(
                code=code,
                positives=int(positives[labels.codes.index(code)]),
                chance_ap=float(values["prevalence"][0]),
                **estimates(values, ("ap", "auc", *AT_POINT, "accuracy", *CALIBRATION)),
            )
            for code, values in found.labels.items()
        ),
        skipped=tuple(code for code in labels.codes if code not in found.labels),
        without_positives=_where(labels, positives == 0),
        without_negatives=_where(labels, positives == images),
        confusion=None if confusion is None else tuple(map(tuple, confusion.tolist())),
        **estimates(whole, ("map", "auc", *AT_POINT, "label_accuracy", *CALIBRATION, "top1_kappa")),
    )


def paired_map_difference(
    a: NDArray[Any],
    b: NDArray[Any],
    targets: NDArray[Any],
    groups: Sequence[str] | None = None,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """mAP of scores `a` minus mAP of scores `b` on the same images, resampled together.

    Args:
        a: Scores [N, K].
        b: Scores [N, K].
        targets: 0/1 [N, K].
        groups: Patient id of each image.
        n_bootstrap: Resamples; 0 leaves the interval out.
        seed: Seed of the resampling.
    """
    first, y = _checked(a, targets)
    second, _ = _checked(b, targets)
    weights = PatientWeights(len(y), groups, n_bootstrap, seed)
    labels = LabelSet.custom(str(k) for k in range(y.shape[1]))
    of_a, of_b = (figures(Answers(s), y, labels, weights).whole["map"] for s in (first, second))
    return Estimate.of(of_a - of_b, len(y))


def average_precision(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """Sum over distinct scores of recall step x precision; NaN without positives.

    Args:
        scores: [N], finite.
        targets: 0/1 [N].
    """
    s, y = _checked(scores, targets)
    return float(ranked(ap_curve, s, y, PatientWeights(len(s), None, 0, 0))[0])


def roc_auc(scores: NDArray[Any], targets: NDArray[Any]) -> float:
    """Chance that a positive scores above a negative, ties half; NaN without both kinds.

    Args:
        scores: [N], finite.
        targets: 0/1 [N].
    """
    s, y = _checked(scores, targets)
    return float(ranked(auc_curve, s, y, PatientWeights(len(s), None, 0, 0))[0])


def sensitivity(predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    """True positives among the positives; NaN without any. Both arguments 0/1 [N]."""
    return _rate("sensitivity", predicted, targets)


def specificity(predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    """True negatives among the negatives; NaN without any. Both arguments 0/1 [N]."""
    return _rate("specificity", predicted, targets)


def f1(predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    """Harmonic mean of precision and sensitivity; NaN with nothing to find and nothing found."""
    return _rate("f1", predicted, targets)


def f1_sens_spec(predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    """Harmonic mean of sensitivity and specificity; what the paper calls F1."""
    return _rate("f1_sens_spec", predicted, targets)


def ece(probabilities: NDArray[Any], targets: NDArray[Any], bins: int = ECE_BINS) -> float:
    """Expected calibration error over all labels, in bins of equal width.

    Args:
        probabilities: 0..1, any shape.
        targets: 0/1, the same shape.
        bins: Number of bins.
    """
    p, y = _checked(probabilities, targets)
    if p.min() < 0 or p.max() > 1:
        raise ValueError("a probability is outside 0..1")
    which = np.minimum((p.ravel() * bins).astype(int), bins - 1)
    gap = np.bincount(which, weights=p.ravel() - y.ravel(), minlength=bins)
    return float(np.abs(gap).sum() / p.size)


def brier(probabilities: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean squared error of probabilities, over all labels."""
    p, y = _checked(probabilities, targets)
    return float(np.mean((p - y) ** 2))


def _rate(name: str, predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    d, y = _checked(predicted, targets)
    return float(rates(d, y, PatientWeights(len(y), None, 0, 0))[name][0])


def _where(labels: LabelSet, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(code for code, is_chosen in zip(labels.codes, chosen, strict=True) if is_chosen)


def _checked(scores: NDArray[Any], targets: NDArray[Any]) -> tuple[Floats, Floats]:
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    if s.shape != y.shape:
        raise ValueError(f"scores {s.shape} and targets {y.shape} differ in shape")
    if s.size == 0:
        raise ValueError("no images")
    if not np.isfinite(s).all():
        raise ValueError("a score is not a finite number")
    return s, y


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _entries(record: LabelEvaluation | Evaluation) -> dict[str, Any]:
    return {name: _json(entry) for name, entry in vars(record).items()}


def _json(value: Any) -> Any:
    if isinstance(value, (Estimate, LabelEvaluation)):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_json(entry) for entry in value]
    return _finite(value) if isinstance(value, float) else value
