"""ROC, precision-recall and reliability curves of an artefact, small enough for a report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.figures import ECE_BINS
from qdr_edge.labels import LabelSet

MOST_POINTS = 200
DIGITS = 5

Floats = NDArray[np.float64]


def curves(
    scores: NDArray[Any],
    probabilities: NDArray[Any],
    targets: NDArray[Any],
    called: NDArray[Any],
    labels: LabelSet,
) -> dict[str, Any]:
    """Draw the curves behind AP, AUC and ECE.

    Args:
        scores: [N, K], finite: what a threshold is held against.
        probabilities: [N, K], calibrated, 0..1.
        targets: 0/1 [N, K].
        called: 0/1 [N, K], the labels positive at the frozen operating point.
        labels: The K labels.

    Returns:
        A JSON object. `labels` has, for each label with both positives and negatives, `roc` as
        [false positive rate, sensitivity], `pr` as [recall, precision], both from the highest
        threshold to the lowest and of at most 200 points, and the operating `point`. `reliability`
        has, for every bin of `ece` that holds an answer, over all labels: mean probability, share
        of them that were positive, and answers.
    """
    drawn = {}
    for place, code in enumerate(labels.codes):
        y = np.asarray(targets[:, place], dtype=np.float64)
        if 0 < y.sum() < len(y):
            drawn[code] = _label(np.asarray(scores[:, place], dtype=np.float64), y,
                                 np.asarray(called[:, place], dtype=bool))  # fmt: skip
    return {"labels": drawn, "reliability": reliability(probabilities, targets)}


def _label(scores: Floats, y: Floats, called: NDArray[np.bool_]) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")
    # Images of one score are on the same side of every threshold: one point for all of them.
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(y[order])[ends]  # [thresholds]
    alarms = ends + 1 - hits
    positives, negatives = y.sum(), len(y) - y.sum()
    roc = np.stack([alarms / negatives, hits / positives], axis=1)
    roc = _without_straight(np.concatenate([np.zeros((1, 2)), roc]))
    pr = np.stack([hits / positives, hits / (ends + 1)], axis=1)
    # Average precision sums over the thresholds at which recall grows: the others add nothing.
    pr = pr[np.diff(hits, prepend=0) > 0]
    true, all_called = float(y[called].sum()), int(called.sum())
    return {
        "roc": _listed(_thinned(roc)),
        "pr": _listed(_thinned(pr)),
        "point": {
            "false_positive_rate": round(float((all_called - true) / negatives), DIGITS),
            "sensitivity": round(float(true / positives), DIGITS),
            "precision": round(true / all_called, DIGITS) if all_called else None,
        },
    }


def reliability(probabilities: NDArray[Any], targets: NDArray[Any]) -> list[list[float]]:
    """Return mean probability, share of positives and count of each bin that is not empty.

    Args:
        probabilities: 0..1, any shape.
        targets: 0/1, the same shape.
    """
    p = np.asarray(probabilities, dtype=np.float64).ravel()
    y = np.asarray(targets, dtype=np.float64).ravel()
    which = np.minimum((p * ECE_BINS).astype(int), ECE_BINS - 1)
    count = np.bincount(which, minlength=ECE_BINS)
    held = np.flatnonzero(count)
    mean = np.bincount(which, weights=p, minlength=ECE_BINS)[held] / count[held]
    share = np.bincount(which, weights=y, minlength=ECE_BINS)[held] / count[held]
    return [
        [round(float(m), DIGITS), round(float(s), DIGITS), int(n)]
        for m, s, n in zip(mean, share, count[held], strict=True)
    ]


def _without_straight(points: Floats) -> Floats:
    """Leave out points [n, 2] in the middle of a horizontal or vertical run."""
    step = np.diff(points, axis=0) != 0  # [n - 1, 2]
    turns = (step[1:] != step[:-1]).any(axis=1) | step[1:].all(axis=1)
    kept: Floats = points[np.concatenate([[True], turns, [True]])]
    return kept


def _thinned(points: Floats) -> Floats:
    """At most 200 points [n, 2], the two ends among them."""
    if len(points) <= MOST_POINTS:
        return points
    kept: Floats = points[np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int)]
    return kept


def _listed(points: Floats) -> list[list[float]]:
    listed: list[list[float]] = points.round(DIGITS).tolist()
    return listed
