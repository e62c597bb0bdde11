"""From logits to a decision: scores, thresholds, and the five possible outcomes.

A threshold is held against a label's *score*. Where labels go together the score is the logit.
Where they exclude each other it is the log-odds of the label against all others,

    s_k = z_k − log Σ_{j≠k} exp z_j,    so that sigmoid(s_k) = softmax(z)_k,

which, unlike the logit, means the same for every image. Both are computed in float64 from float32
logits by `label_scores`, one row at a time in one order: the same logits give the same decision,
whatever runtime they came from and however many images were stacked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import BundleError, QdrError
from qdr_edge.labels import LabelSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEVER = math.inf
"""The threshold of a label that cannot be fitted: no score reaches it."""


class Outcome(StrEnum):
    """What a screening ends with."""

    POSITIVE = "POSITIVE"
    NEGATIVE = "NEGATIVE"
    UNGRADABLE = "UNGRADABLE"
    INVALID_INPUT = "INVALID_INPUT"
    FAULT = "FAULT"


@dataclass(frozen=True)
class LabelResult:
    """One label's answer.

    Args:
        code: Code of the label.
        name: What people read.
        logit: Raw output of the network.
        score: What decides: the logit, or the log-odds among labels that exclude each other.
        probability: Calibrated, 0..1.
        threshold: The operating point on the probability scale, for people; 1 means never. Among
            labels that exclude each other it is on the scale before calibration.
        positive: Whether the score reaches its threshold.
    """

    code: str
    name: str
    logit: float
    score: float
    probability: float
    threshold: float
    positive: bool


@dataclass(frozen=True)
class Decision:
    """What the device answers about an image or an eye.

    Args:
        outcome: One of five.
        labels: One result a label, in the order of the vocabulary; empty unless POSITIVE or
            NEGATIVE.
        reason: Why there is no result; "" otherwise.
        modality: "fundus" or "oct".
        bundle_id: Which bundle decided.
    """

    outcome: Outcome
    labels: tuple[LabelResult, ...]
    reason: str
    modality: str
    bundle_id: str = ""

    @property
    def findings(self) -> tuple[LabelResult, ...]:
        """The labels that are positive."""
        return tuple(label for label in self.labels if label.positive)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "outcome": self.outcome.value,
            "reason": self.reason,
            "modality": self.modality,
            "bundle_id": self.bundle_id,
            "labels": [asdict(label) for label in self.labels],
        }


@dataclass(frozen=True)
class DecisionRule:
    """The frozen operating point of a model.

    Args:
        labels: The vocabulary.
        temperature: Probability = sigmoid(score of logit / temperature).
        logit_thresholds: One a label. Compared with the scores of raw logits, so that a backend
            that gives the same logit gives the same answer, whatever its exp() does.
    """

    labels: LabelSet
    temperature: float
    logit_thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise _bad_rule(f"temperature {self.temperature}", "a positive number")
        if len(self.logit_thresholds) != len(self.labels):
            raise _bad_rule(
                f"{len(self.logit_thresholds)} thresholds", f"{len(self.labels)}, one a label"
            )
        if any(math.isnan(threshold) for threshold in self.logit_thresholds):
            raise _bad_rule("a threshold that is not a number", "a number or inf")

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; floats as text, so that they survive unchanged."""
        return {
            "labels": self.labels.to_dict(),
            "temperature": repr(float(self.temperature)),
            "logit_thresholds": [repr(float(value)) for value in self.logit_thresholds],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> DecisionRule:
        """The rule of a JSON object.

        Raises:
            BundleError: It is malformed.
        """
        try:
            return cls(
                LabelSet.from_dict(value["labels"]),
                float(value["temperature"]),
                tuple(float(text) for text in value["logit_thresholds"]),
            )
        except QdrError as error:
            raise _bad_rule(str(error), "labels, temperature, logit_thresholds") from error
        except (KeyError, TypeError, ValueError) as error:
            raise _bad_rule(repr(error), "labels, temperature, logit_thresholds") from error


def decide(logits: NDArray[np.float32], rule: DecisionRule, modality: str) -> Decision:
    """The decision for one image.

    Args:
        logits: float32 [K].
        rule: The operating point.
        modality: "fundus" or "oct".

    Returns:
        POSITIVE if a label other than NOR reaches its threshold, else NEGATIVE; FAULT if a
        logit is not a finite number or their count is wrong.
    """
    values = [float(value) for value in logits]
    if len(values) != len(rule.labels):
        return rejected(
            Outcome.FAULT,
            f"the network gave {len(values)} logits for {len(rule.labels)} labels",
            modality,
        )
    if not all(math.isfinite(value) for value in values):
        return rejected(Outcome.FAULT, "the network gave a logit that is no number", modality)
    exclusive = rule.labels.exclusive
    scores = _row_scores(values, exclusive)
    calibrated = _row_scores([value / rule.temperature for value in values], exclusive)
    shown = 1.0 if exclusive else rule.temperature
    results = tuple(
        LabelResult(
            code=rule.labels.codes[k],
            name=rule.labels.names[k],
            logit=values[k],
            score=scores[k],
            probability=sigmoid(calibrated[k]),
            threshold=sigmoid(threshold / shown),
            positive=scores[k] >= threshold,
        )
        for k, threshold in enumerate(rule.logit_thresholds)
    )
    return _of_results(results, rule, modality)


def rejected(outcome: Outcome, reason: str, modality: str) -> Decision:
    """A decision without results: UNGRADABLE, INVALID_INPUT or FAULT, and why."""
    return Decision(outcome, (), reason, modality)


def aggregate(logits: Sequence[NDArray[np.float32]], rule: DecisionRule, modality: str) -> Decision:
    """The decision for an eye: each label's maximum over the eye's images (the paper's rule).

    Args:
        logits: One float32 [K] an image.
        rule: The operating point.
        modality: "fundus" or "oct".

    Returns:
        As `decide`; a FAULT of one image is one of the eye.
    """
    if not logits:
        return rejected(Outcome.UNGRADABLE, "no gradable image of this eye", modality)
    images = [decide(one, rule, modality) for one in logits]
    for image in images:
        if image.outcome is Outcome.FAULT:
            return image
    results = tuple(
        replace(
            max(of_label, key=lambda result: result.score),
            probability=max(result.probability for result in of_label),
        )
        for of_label in zip(*(image.labels for image in images), strict=True)
    )
    return _of_results(results, rule, modality)


def label_scores(logits: NDArray[Any], labels: LabelSet) -> NDArray[np.float64]:
    """What thresholds are held against, float64 [N, K].

    Args:
        logits: [N, K]; where labels exclude each other, finite.
        labels: The K labels.
    """
    import numpy as np

    x = np.asarray(logits, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(labels):
        raise ValueError(f"logits {x.shape} are not [N, {len(labels)}]")
    if not labels.exclusive:
        return x
    return np.array([_row_scores(row, True) for row in x.tolist()], np.float64).reshape(x.shape)


def label_probabilities(logits: NDArray[Any], rule: DecisionRule) -> NDArray[np.float64]:
    """Calibrated probabilities, float64 [N, K], of logits [N, K]."""
    import numpy as np

    scores = label_scores(np.asarray(logits, np.float64) / rule.temperature, rule.labels)
    # Clipped where sigmoid is 0 or 1 anyway: exp must not overflow.
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
    return probabilities


def label_decisions(logits: NDArray[Any], rule: DecisionRule) -> NDArray[np.bool_]:
    """Which labels are positive, bool [N, K], of logits [N, K]; as `decide` says of each row."""
    import numpy as np

    thresholds = np.asarray(rule.logit_thresholds, dtype=np.float64)
    positive: NDArray[np.bool_] = label_scores(logits, rule.labels) >= thresholds
    return positive


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)) without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value)) if value > -700 else 0.0


def _of_results(results: tuple[LabelResult, ...], rule: DecisionRule, modality: str) -> Decision:
    disease = any(
        result.positive for index, result in enumerate(results) if index != rule.labels.normal
    )
    return Decision(Outcome.POSITIVE if disease else Outcome.NEGATIVE, results, "", modality)


def _row_scores(logits: list[float], exclusive: bool) -> list[float]:
    """The scores of one image. `fsum` rounds once, so that no order of summation enters."""
    if not exclusive:
        return logits
    scores = []
    for k, logit in enumerate(logits):
        others = logits[:k] + logits[k + 1 :]
        largest = max(others)
        total = math.fsum(math.exp(other - largest) for other in others)
        scores.append(logit - (largest + math.log(total)))
    return scores


def _bad_rule(what: str, expected: str) -> BundleError:
    return BundleError(what, where="decision rule", expected=expected)
