"""Metrics under resampling: every figure for each row of a matrix of image weights at once.

Two images of one patient are not independent: a resample draws patients, not images. Row 0 weighs
every image once, so the figure itself and its resamples come out of the same arithmetic.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_WEIGHTS_AT_ONCE = 1 << 21


class PatientWeights:
    """How often each image counts: row 0 once each, then one row a resample of patients."""

    def __init__(
        self, images: int, groups: Sequence[str] | None, n_bootstrap: int, seed: int
    ) -> None:
        if groups is not None and len(groups) != images:
            raise ValueError(f"{len(groups)} groups for {images} images")
        names = np.arange(images) if groups is None else np.asarray(groups)
        _, cluster = np.unique(names, return_inverse=True)
        self._cluster = cluster
        self.clusters = int(cluster.max()) + 1
        drawn = np.random.default_rng(seed).integers(
            0, self.clusters, size=(n_bootstrap, self.clusters)
        )
        offset = np.arange(n_bootstrap)[:, None] * self.clusters
        counts = np.bincount((drawn + offset).ravel(), minlength=n_bootstrap * self.clusters)
        counts = counts.reshape(n_bootstrap, self.clusters)
        resampled = counts[:, cluster]  # [B, patients] -> [B, N]
        self.rows: Floats = np.vstack([np.ones((1, images)), resampled])
        self.totals: Floats = self.rows.sum(axis=1)
        self.undefined: Floats = np.full(len(self.rows), np.nan)

    def subset(self, kept: NDArray[np.bool_]) -> PatientWeights:
        """The same resamples, seen by some of the images only; what two subsets give is paired."""
        part = copy.copy(self)
        part._cluster = self._cluster[kept]
        part.clusters = len(np.unique(part._cluster))
        part.rows = self.rows[:, kept]
        part.totals = part.rows.sum(axis=1)
        return part

    def mean(self, values: Floats) -> Floats:
        """Weighted mean of `values` [N] in each row; NaN where a resample holds no image."""
        return ratio(self.rows @ values, self.totals)


Curve = Callable[[Floats, Floats], Floats]


def ranked(curve: Curve, s: Floats, y: Floats, weights: PatientWeights) -> Floats:
    """A ranking metric for each row of weights [1 + B]."""
    return ranked_all((curve,), s, y, weights)[0]


def ranked_all(
    curves: Sequence[Curve], s: Floats, y: Floats, weights: PatientWeights
) -> tuple[Floats, ...]:
    """Several ranking metrics of the same scores, each for each row of weights [1 + B]."""
    order = np.argsort(-s, kind="stable")
    sorted_scores = s[order]
    # Equal scores have no order among themselves: the curve has points at their ends only.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), sorted_scores.size - 1)
    rows = max(1, _WEIGHTS_AT_ONCE // sorted_scores.size)
    parts: list[tuple[Floats, ...]] = []
    for start in range(0, len(weights.rows), rows):
        w = weights.rows[start : start + rows][:, order]
        hits = np.cumsum(w * y[order], axis=1)[:, ends]
        flagged = np.cumsum(w, axis=1)[:, ends]
        parts.append(tuple(curve(hits, flagged) for curve in curves))
    return tuple(np.concatenate(of_curve) for of_curve in zip(*parts, strict=True))


def ap_curve(hits: Floats, flagged: Floats) -> Floats:
    """Average precision of cumulated true positives and positives, each [B, points]."""
    steps = np.diff(hits, axis=1, prepend=0.0)
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return ratio((steps * precision).sum(axis=1), hits[:, -1])


def auc_curve(hits: Floats, flagged: Floats) -> Floats:
    """ROC area of cumulated true positives and positives, by the trapezoid rule."""
    false_alarms = flagged - hits
    steps = np.diff(false_alarms, axis=1, prepend=0.0)
    before = hits - np.diff(hits, axis=1, prepend=0.0)
    area = (steps * (hits + before) / 2).sum(axis=1)
    return ratio(area, hits[:, -1] * false_alarms[:, -1])


def rates(d: Floats, y: Floats, weights: PatientWeights) -> dict[str, Floats]:
    """The figures of an operating point for each row of weights.

    Args:
        d: 0/1 [N], called positive.
        y: 0/1 [N], positive.
        weights: The resamples.
    """
    table = weights.rows @ np.stack([d * y, (1 - d) * y, d * (1 - y), (1 - d) * (1 - y)], axis=1)
    tp, fn, fp, tn = table.T
    sens, spec = ratio(tp, tp + fn), ratio(tn, tn + fp)
    right = ratio(tp + tn, weights.totals)
    by_chance = ratio((tp + fn) * (tp + fp) + (tn + fp) * (tn + fn), weights.totals**2)
    return {
        "sensitivity": sens,
        "specificity": spec,
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "f1_sens_spec": np.where(sens + spec == 0, 0.0, ratio(2 * sens * spec, sens + spec)),
        "accuracy": right,
        "kappa": chance_corrected(right, by_chance),
    }


def calibration(p: Floats, y: Floats, weights: PatientWeights, bins: int) -> dict[str, Floats]:
    """Calibration errors for each row of weights.

    Args:
        p: Probabilities 0..1 [N].
        y: 0/1 [N].
        weights: The resamples.
        bins: Bins of equal width for the expected calibration error.
    """
    which = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.zeros((len(p), bins))
    gaps[np.arange(len(p)), which] = p - y
    return {
        "ece": ratio(np.abs(weights.rows @ gaps).sum(axis=1), weights.totals),
        "brier": weights.mean((p - y) ** 2),
    }


def kappa_of_classes(found: Floats, true: Floats, weights: PatientWeights) -> Floats:
    """Cohen's kappa over classes, unweighted, for each row of weights.

    Args:
        found: One-hot [N, K].
        true: One-hot [N, K].
        weights: The resamples.
    """
    right = weights.mean((found * true).sum(axis=1))
    marginals = ((weights.rows @ found) * (weights.rows @ true)).sum(axis=1)
    return chance_corrected(right, ratio(marginals, weights.totals**2))


def chance_corrected(right: Floats, by_chance: Floats) -> Floats:
    """Agreement above chance over the most that there could be; NaN where chance is sure."""
    return ratio(right - by_chance, 1 - by_chance)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """A quotient; NaN where the denominator is not positive."""
    undefined = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def mean_over_labels(values: Floats) -> Floats:
    """Mean over labels [K, 1 + B] -> [1 + B] of those that are defined."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(float))
