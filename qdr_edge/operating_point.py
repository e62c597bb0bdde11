"""The operating point: temperature and thresholds, fitted on validation answers, then frozen.

It is fitted on what the *int8* network answers, because that is what ships. Which thresholds are
right is the maker's choice, stated as a `Target` and sealed with what it came to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from qdr_edge.decision import NEVER, DecisionRule, label_scores
from qdr_edge.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.labels import LabelSet

KINDS = ("f1", "sensitivity")
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.1, 10.0
# The 97.5 % quantile of the normal distribution: a 95 % interval's lower end.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Target:
    """What thresholds and gate are fitted for.

    Args:
        kind: "f1": each label's largest F1; "sensitivity": each label's highest threshold at
            which the lower 95 % bound of its sensitivity reaches `sensitivity`.
        sensitivity: Wanted, in (0, 1); only for kind "sensitivity".
        rejection_rate: Share of gradable validation images that the gate may turn away.
    """

    kind: str = "f1"
    sensitivity: float = 0.87
    rejection_rate: float = 0.02

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _bad_target(f"target {self.kind!r}", f"one of {', '.join(KINDS)}")
        if not 0 < self.sensitivity < 1:
            raise _bad_target(f"sensitivity {self.sensitivity}", "a number between 0 and 1")
        if not 0 <= self.rejection_rate < 0.5:
            raise _bad_target(f"rejection_rate {self.rejection_rate}", "a number from 0 to 0.5")

    @property
    def text(self) -> str:
        """For people, and for the manifest's `fitted_for`."""
        if self.kind == "f1":
            return "largest F1"
        return f"sensitivity >= {self.sensitivity:g} by its lower 95 % bound"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: the recipe's own keys."""
        return {
            "target": self.kind,
            "sensitivity": self.sensitivity,
            "rejection_rate": self.rejection_rate,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Target:
        """The target that a checkpoint carries; without one, the recipe's defaults.

        Raises:
            CheckpointError: It is malformed.
        """
        if not value:
            return cls()
        try:
            return cls(value["target"], float(value["sensitivity"]), float(value["rejection_rate"]))
        except (KeyError, TypeError, ValueError, RecipeError) as error:
            raise CheckpointError(
                f"operating_point: {error}",
                expected="target, sensitivity and rejection_rate as in the recipe",
                fix="train again, or state the target at export",
            ) from error


@dataclass(frozen=True)
class Fitted:
    """One label's threshold and what it reaches on the images it was fitted on.

    Args:
        code: Code of the label.
        threshold: Of its score; `NEVER` for a label without positives.
        positives: Images that carry it.
        patients: Patients they are of.
        sensitivity: Share of the positives at or above the threshold; NaN without positives.
        lower_bound: Lower end of the 95 % interval of that share; NaN without positives.
        reached: The target was reached. False for a label without positives, and where even
            catching every positive leaves the bound below the wanted sensitivity: `lower_bound`
            is then the best that so few positives can show.
    """

    code: str
    threshold: float
    positives: int
    patients: int
    sensitivity: float
    lower_bound: float
    reached: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; what is undefined is null and a threshold of "never" is text."""
        value = asdict(self)
        value["threshold"] = repr(float(self.threshold))
        for name in ("sensitivity", "lower_bound"):
            if math.isnan(value[name]):
                value[name] = None
        return value


@dataclass(frozen=True)
class OperatingPoint:
    """A fitted rule, what it was fitted for, and what each label came to."""

    rule: DecisionRule
    target: Target
    fitted: tuple[Fitted, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "rule": self.rule.to_dict(),
            **self.target.to_dict(),
            "fitted_for": self.target.text,
            "labels": [label.to_dict() for label in self.fitted],
        }


def fit(
    logits: NDArray[Any],
    targets: NDArray[Any],
    labels: LabelSet,
    patients: Sequence[str],
    target: Target,
) -> OperatingPoint:
    """Fit a rule on validation images.

    Args:
        logits: [N, K] of the int8 network, finite.
        targets: 0/1 [N, K].
        labels: The K labels.
        patients: Patient id of each image.
        target: What for.
    """
    x, y = _checked(logits, targets)
    scores = label_scores(x, labels)
    fitted = fit_thresholds(scores, y, labels.codes, patients, target)
    rule = DecisionRule(
        labels,
        fit_temperature(x, y, exclusive=labels.exclusive),
        tuple(label.threshold for label in fitted),
    )
    return OperatingPoint(rule, target, fitted)


def fit_temperature(
    logits: NDArray[Any], targets: NDArray[Any], *, exclusive: bool = False
) -> float:
    """The temperature that minimises cross-entropy, between 0.1 and 10.

    Args:
        logits: [N, K], finite.
        targets: 0/1 [N, K]; one 1 a row where labels exclude each other.
        exclusive: Labels exclude each other: softmax, not one sigmoid a label.

    Returns:
        The temperature; 1.0 without data.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    import numpy as np

    x, y = _checked(logits, targets)
    if x.size == 0:
        return 1.0
    if exclusive and not (y.sum(axis=1) == 1).all():
        raise ValueError("an image has no label or several that exclude each other")

    def loss(inverse: float) -> float:
        z = x * inverse
        if exclusive:
            return float((np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1)).mean())
        return float((np.logaddexp(0.0, z) - y * z).mean())

    return 1 / _minimum(loss, 1 / _MAX_TEMPERATURE, 1 / _MIN_TEMPERATURE)


def fit_thresholds(
    scores: NDArray[Any],
    targets: NDArray[Any],
    codes: Sequence[str],
    patients: Sequence[str],
    target: Target,
) -> tuple[Fitted, ...]:
    """One threshold a label, midway between two neighbouring scores of the data.

    For F1 it is the best among cuts that call at most four times as many images positive as
    there are: with a handful of positives a single one that the network ranks last would
    otherwise make its label fire on everything. For a sensitivity it is the highest threshold
    whose bound reaches it; where none does, the highest that catches every positive.

    Args:
        scores: [N, K], finite; see `label_scores`.
        targets: 0/1 [N, K].
        codes: The K labels.
        patients: Patient id of each image.
        target: What for.
    """
    x, y = _checked(scores, targets)
    if len(patients) != len(x):
        raise ValueError(f"{len(patients)} patients for {len(x)} images")
    return tuple(
        _fit_label(code, x[:, k], y[:, k], patients, target) for k, code in enumerate(codes)
    )


def sensitivity_bound(caught: float, images_of_patient: Sequence[int]) -> float:
    """Lower end of the 95 % interval of a sensitivity; images of one patient are not independent.

    Wilson's interval with an effective number of images, (Σm)² / Σm² for patients with m positive
    images each: Kish's design effect with images of one patient taken as fully correlated. It
    is never too narrow on that account, it needs no correlation estimated from a handful of
    positives, and it grows with every image caught, so that "the highest threshold that reaches
    the target" is well defined – a bootstrap gives [1, 1] where all are caught. Wilson rather than
    Clopper–Pearson: it takes an effective number that is not whole, and near 1, where the target
    lies, the two differ by less than 1 %.

    Args:
        caught: Share of the positive images that are called positive, 0..1.
        images_of_patient: Number of positive images of each patient who has any.

    Source: Wilson 1927; Kish, "Survey Sampling", 1965.
    """
    n = sum(images_of_patient) ** 2 / sum(m * m for m in images_of_patient)
    spread = _Z * math.sqrt(caught * (1 - caught) / n + (_Z / (2 * n)) ** 2)
    return max(0.0, (caught + _Z * _Z / (2 * n) - spread) / (1 + _Z * _Z / n))


def _fit_label(
    code: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    patients: Sequence[str],
    target: Target,
) -> Fitted:
    import numpy as np

    positives = int(y.sum())
    if positives == 0:
        return Fitted(code, NEVER, 0, 0, math.nan, math.nan, False)
    of_patient = np.unique(np.asarray(patients)[y > 0], return_counts=True)[1].tolist()
    order = np.argsort(-x, kind="stable")
    ranked = x[order]
    # A cut after rank i is possible only where the next score differs.
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    hits = np.cumsum(y[order])[last]
    bounds = np.array([sensitivity_bound(h / positives, of_patient) for h in hits.tolist()])
    if target.kind == "f1":
        cut = _best_f1(last + 1, hits, positives)
        reached = True
    else:
        enough = bounds >= target.sensitivity
        reached = bool(enough.any())
        cut = int(enough.argmax() if reached else (hits == positives).argmax())
    if cut == last.size - 1:
        threshold = float(ranked[-1]) - 1.0
    else:
        threshold = (float(ranked[last[cut]]) + float(ranked[last[cut] + 1])) / 2
    return Fitted(
        code=code,
        threshold=threshold,
        positives=positives,
        patients=len(of_patient),
        sensitivity=float(hits[cut]) / positives,
        lower_bound=float(bounds[cut]),
        reached=reached,
    )


def _best_f1(flagged: NDArray[Any], hits: NDArray[Any], positives: int) -> int:
    import numpy as np

    score = np.where(flagged <= 4 * positives, 2 * hits / (flagged + positives), 0.0)
    if score.max() == 0:
        # Nothing separates: call about as many positive as there are.
        return int(np.abs(flagged - positives).argmin())
    return int(score.argmax())


def _minimum(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a convex function is least, by golden-section search."""
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
    return (low + high) / 2


def _checked(
    values: NDArray[Any], targets: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"logits {x.shape} and targets {y.shape} are not one [N, K]")
    if not np.isfinite(x).all():
        raise ValueError("a logit is not a finite number")
    return x, y


def _bad_target(what: str, expected: str) -> RecipeError:
    return RecipeError(what, where="operating point", expected=expected)
