"""Metrics under resampling: every figure for each row of a matrix of image weights at once.

Two images of one patient are not independent: a resample draws patients, not images. Row 0 weighs
every image once, so the figure itself and its resamples come out of the same arithmetic.
"""

from __future__ import annotations

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

    def mean(self, values: Floats) -> Floats:
        """Weighted mean of `values` [N] in each row."""
        means: Floats = (self.rows @ values) / self.totals
        return means


Curve = Callable[[Floats, Floats], Floats]


def ranked(curve: Curve, s: Floats, y: Floats, weights: PatientWeights) -> Floats:
    """A ranking metric for each row of weights [1 + B]."""
    order = np.argsort(-s, kind="stable")
    sorted_scores = s[order]
    # Equal scores have no order among themselves: the curve has points at their ends only.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), sorted_scores.size - 1)
    rows = max(1, _WEIGHTS_AT_ONCE // sorted_scores.size)
    parts = []
    for start in range(0, len(weights.rows), rows):
        w = weights.rows[start : start + rows][:, order]
        hits = np.cumsum(w * y[order], axis=1)[:, ends]
        flagged = np.cumsum(w, axis=1)[:, ends]
        parts.append(curve(hits, flagged))
    return np.concatenate(parts)


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
    """The figures of an operating point for each row of weights."""
    table = weights.rows @ np.stack([d * y, (1 - d) * y, d * (1 - y), (1 - d) * (1 - y)], axis=1)
    tp, fn, fp, tn = table.T
    sens, spec = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "sensitivity": sens,
        "specificity": spec,
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "f1_sens_spec": np.where(sens + spec == 0, 0.0, ratio(2 * sens * spec, sens + spec)),
    }


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    undefined = np.full_like(denominator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def mean_over_labels(values: Floats) -> Floats:
    """Mean over labels [K, 1 + B] -> [1 + B] of those that are defined."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(float))
