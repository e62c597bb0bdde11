"""From logits to a decision: temperature, thresholds, and the five possible outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import BundleError, QdrError
from qdr_edge.labels import LabelSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEVER = math.inf
"""The logit threshold of a label that cannot be fitted: no logit reaches it."""

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.1, 10.0


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
        probability: Calibrated, 0..1.
        threshold: The operating point on the probability scale, for people; 1 means never.
        positive: Whether the raw logit reaches the logit threshold.
    """

    code: str
    name: str
    logit: float
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
        temperature: Probability = sigmoid(logit / temperature).
        logit_thresholds: One a label. Compared with raw logits, so that a backend that gives
            the same logit gives the same answer, whatever its exp() does.
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
    results = tuple(
        LabelResult(
            code=code,
            name=name,
            logit=logit,
            probability=sigmoid(logit / rule.temperature),
            threshold=sigmoid(threshold / rule.temperature),
            positive=logit >= threshold,
        )
        for code, name, logit, threshold in zip(
            rule.labels.codes, rule.labels.names, values, rule.logit_thresholds, strict=True
        )
    )
    disease = any(
        result.positive for index, result in enumerate(results) if index != rule.labels.normal
    )
    return Decision(Outcome.POSITIVE if disease else Outcome.NEGATIVE, results, "", modality)


def rejected(outcome: Outcome, reason: str, modality: str) -> Decision:
    """A decision without results: UNGRADABLE, INVALID_INPUT or FAULT, and why."""
    return Decision(outcome, (), reason, modality)


def aggregate(logits: Sequence[NDArray[np.float32]], rule: DecisionRule, modality: str) -> Decision:
    """The decision for an eye: each label's maximum over the eye's images (the paper's rule).

    Args:
        logits: One float32 [K] an image.
        rule: The operating point.
        modality: "fundus" or "oct".
    """
    import numpy as np

    if not logits:
        return rejected(Outcome.UNGRADABLE, "no gradable image of this eye", modality)
    # np.max passes NaN on, so that one faulty image makes the eye FAULT.
    return decide(np.max(np.stack(list(logits)), axis=0), rule, modality)


def fit_temperature(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """The temperature that minimises binary cross-entropy, between 0.1 and 10.

    Args:
        logits: [N, K], finite.
        targets: 0/1 [N, K].

    Returns:
        The temperature; 1.0 without data.
    """
    import numpy as np

    x, y = _checked(logits, targets)
    if x.size == 0:
        return 1.0

    def loss(inverse: float) -> float:
        z = x * inverse
        return float((np.logaddexp(0.0, z) - y * z).mean())

    # The loss is convex in 1/T: golden-section search.
    low, high = 1 / _MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(60):
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return 2 / (low + high)


def fit_thresholds(
    logits: NDArray[Any], targets: NDArray[Any], *, target_sensitivity: float | None = None
) -> tuple[float, ...]:
    """One logit threshold a label, midway between two neighbouring logits of the data.

    Without a target the threshold maximises F1, among cuts that call at most four times as many
    images positive as there are: with a handful of positives a single one that the network
    ranks last would otherwise make its label fire on everything. With a target it is the
    highest threshold that reaches it. A label without positives never fires.

    Args:
        logits: [N, K], finite.
        targets: 0/1 [N, K].
        target_sensitivity: Wanted sensitivity in (0, 1], or None.
    """
    if target_sensitivity is not None and not 0 < target_sensitivity <= 1:
        raise ValueError(f"target_sensitivity {target_sensitivity} is not in (0, 1]")
    x, y = _checked(logits, targets)
    return tuple(_threshold(x[:, k], y[:, k], target_sensitivity) for k in range(x.shape[1]))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)) without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value)) if value > -700 else 0.0


def _threshold(x: NDArray[Any], y: NDArray[Any], target_sensitivity: float | None) -> float:
    import numpy as np

    positives = int(y.sum())
    if positives == 0:
        return NEVER
    order = np.argsort(-x, kind="stable")
    ranked = x[order]
    # A cut after rank i is possible only where the next logit differs.
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    flagged = last + 1
    hits = np.cumsum(y[order])[last]
    if target_sensitivity is not None:
        cut = int(np.argmax(hits >= target_sensitivity * positives - 1e-9))
    else:
        score = np.where(flagged <= 4 * positives, 2 * hits / (flagged + positives), 0.0)
        cut = int(score.argmax())
        if score[cut] == 0:
            # Nothing separates: call about as many positive as there are.
            cut = int(np.abs(flagged - positives).argmin())
    if cut == last.size - 1:
        return float(ranked[-1]) - 1.0
    return (float(ranked[last[cut]]) + float(ranked[last[cut] + 1])) / 2


def _checked(
    logits: NDArray[Any], targets: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    x = np.asarray(logits, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"logits {x.shape} and targets {y.shape} are not one [N, K]")
    if not np.isfinite(x).all():
        raise ValueError("a logit is not a finite number")
    return x, y


def _bad_rule(what: str, expected: str) -> BundleError:
    return BundleError(what, where="decision rule", expected=expected)
