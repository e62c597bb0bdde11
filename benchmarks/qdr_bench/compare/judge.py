"""Same, better, worse, or cannot tell.

A figure's interval is set against a band about "no change": inside it is the *same*, beyond it
*better* or *worse*, across its edge nobody can *tell*. The band stands for what no single run can
know of itself: how much another process on the same machine would have differed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from qdr_bench.compare.metrics import METRICS, RESAMPLES, Metric
from qdr_bench.compare.reading import Report

BAND = 0.03
"""Share by which a ratio may differ from 1 and still be the same."""
MAP_BAND = 0.5
"""Points by which mAP may differ and still be the same."""


class Word(StrEnum):
    """What is said of a figure."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Change:
    """One figure of one row in two reports.

    Args:
        row: The row's id.
        metric: The figure.
        before: Its value in the first report.
        after: Its value in the second.
        value: after / before, or after − before for mAP.
        low: Lower end of its 95 % interval.
        high: Upper end.
        word: What to make of it.
        why: What stands in the way of telling; empty if nothing.
        loss: By how much it is worse, as a share or in points; negative where it is better.
    """

    row: str
    metric: Metric
    before: float
    after: float
    value: float
    low: float
    high: float
    word: Word
    why: str
    loss: float

    def fails(self, most: float) -> bool:
        """Whether it is worse by more than a share (mAP: by more than a hundred times as many
        points), and beyond the noise."""
        return self.word is Word.WORSE and self.loss > (
            most if self.metric.relative else 100 * most
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "row": self.row,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "before": self.before,
            "after": self.after,
            "kind": "ratio" if self.metric.relative else "difference",
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "word": self.word.value,
            "why": self.why,
        }


def compare(before: Report, after: Report, *, band: float = BAND, seed: int = 0) -> list[Change]:
    """Compare every figure that both reports have, in the order of the second report's rows.

    Args:
        before: The first report.
        after: The second.
        band: Share of a ratio that counts as no change.
        seed: Of the bootstrap.
    """
    found = []
    for name, new in after.rows.items():
        old = before.rows.get(name)
        if old is None:
            continue
        doubt = _doubt(old, new)
        # One and the same measurement is drawn from alike: it differs from itself by nothing.
        sides = (0, 0) if old == new else (0, 1)
        for number, metric in enumerate(METRICS):
            # Each figure its own generators: one more metric must not change the others.
            draws = [np.random.default_rng([seed, side, number]) for side in sides]
            samples = [
                metric.samples(row, draw) for row, draw in zip((old, new), draws, strict=True)
            ]
            if samples[0] is not None and samples[1] is not None:
                found.append(_change(name, metric, samples[0], samples[1], band, doubt))
    return found


def unmatched(before: Report, after: Report) -> list[str]:
    """Rows that only one of the reports has."""
    return [
        f"{name}: only in {side.file}"
        for side, other in ((before, after), (after, before))
        for name in side.rows
        if name not in other.rows
    ]


def _change(
    row: str, metric: Metric, old: np.ndarray, new: np.ndarray, band: float, doubt: str
) -> Change:
    before, after = float(np.median(old)), float(np.median(new))
    if metric.relative:
        value = after / before
        spread: Sequence[float] = np.quantile(_spread(new) / _spread(old), [0.025, 0.975])
        edges = (1 - band, 1 / (1 - band))
        loss = (value if metric.lower_is_better else 1 / value) - 1
    else:
        value = after - before
        spread = np.quantile(_spread(new) - _spread(old), [0.025, 0.975])
        edges = (-MAP_BAND, MAP_BAND)
        loss = value if metric.lower_is_better else -value
    low, high = (float(end) for end in spread)
    timed = metric.name not in ("size", "mAP")
    why = doubt if timed else ""
    if why:
        word = Word.CANNOT_TELL
    elif edges[0] <= low and high <= edges[1]:
        word = Word.SAME
    elif low > edges[1] or high < edges[0]:
        word = Word.BETTER if (high < edges[0]) == metric.lower_is_better else Word.WORSE
    else:
        word, why = Word.CANNOT_TELL, "the interval crosses the edge of the band"
    return Change(row, metric, before, after, value, low, high, word, why, loss)


def _spread(samples: np.ndarray) -> np.ndarray:
    """As many samples as there are of the others; one value stands for all."""
    return np.full(RESAMPLES, samples[0]) if len(samples) == 1 else samples


def _doubt(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why the times of a row cannot be compared."""
    for side, row in (("first", old), ("second", new)):
        if row["status"] != "VALID":
            reasons = "; ".join(row["reasons"])
            return f"{row['status']} in the {side} report: {reasons}"
    return ""
