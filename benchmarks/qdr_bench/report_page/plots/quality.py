"""Plots of accuracy: ROC and precision-recall of each label, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from qdr_bench.report_page.document import is_float
from qdr_bench.report_page.plots import style
from qdr_bench.report_page.plots.style import INK, MUTED, PAPER
from qdr_bench.report_page.text import at, number, numbers

Rows = Sequence[Mapping[str, Any]]


def label_curves(rows: Rows, code: str, chance: float | None, prefix: str) -> str:
    """Plot a label's ROC and precision-recall curve, with the frozen operating point.

    Args:
        rows: The artefact, and its float twin if there is one.
        code: The label.
        chance: Its prevalence.
        prefix: Unique on the page.
    """
    with style.figure(2.75) as figure:
        roc, pr = figure.subplots(1, 2)
        roc.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (4, 4)), linewidth=1.0)
        if chance is not None:
            pr.axhline(100 * chance, color=MUTED, linestyle=(0, (4, 4)), linewidth=1.0)
        # The artefact last, so that it lies on top.
        for row in reversed(rows):
            drawn = at(row, "accuracy", "curves", "labels", code)
            _line(roc, row, at(drawn, "roc"), steps=None)
            _line(pr, row, at(drawn, "pr"), steps="steps-pre")
            point = at(drawn, "point") or {}
            _point(roc, row, point.get("false_positive_rate"), point.get("sensitivity"))
            _point(pr, row, point.get("sensitivity"), point.get("precision"))
        for axes, x, y in (
            (roc, "1 − specificity, %", "sensitivity, %"),
            (pr, "recall, %", "precision, %"),
        ):
            axes.set_xlim(-2, 102)
            axes.set_ylim(-2, 104)
            axes.set_xticks([0, 50, 100])
            axes.set_yticks([0, 50, 100])
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.set_box_aspect(1)
        return style.svg(figure, f"ROC and precision-recall curve of {code}", prefix)


def _line(axes: Axes, row: Mapping[str, Any], points: Any, *, steps: str | None) -> None:
    pairs = [pair for entry in points or [] if len(pair := numbers(entry)) == 2]
    if not pairs:
        return
    if steps:
        # Up to the first threshold precision is what it is there.
        pairs = [[0.0, pairs[0][1]], *pairs]
    x, y = ([100 * pair[axis] for pair in pairs] for axis in (0, 1))
    hollow = is_float(row)
    axes.plot(
        x,
        y,
        color=MUTED if hollow else style.colour_of(row),
        linestyle="--" if hollow else "-",
        linewidth=1.4 if hollow else 2.0,
        drawstyle=steps or "default",
        zorder=2 if hollow else 3,
    )


def _point(axes: Axes, row: Mapping[str, Any], x: Any, y: Any) -> None:
    across, up = number(x), number(y)
    if across is None or up is None:
        return
    hollow = is_float(row)
    axes.plot(
        100 * across,
        100 * up,
        "o",
        markersize=7,
        markeredgewidth=1.6,
        color=MUTED if hollow else INK,
        markerfacecolor=PAPER if hollow else INK,
        zorder=4,
        clip_on=False,
    )


def reliability_diagram(rows: Rows, prefix: str) -> list[str]:
    """Plot how often an answer of some probability is right, and how many answers there are."""
    bins = {
        row["number"]: held
        for row in rows
        if (held := _bins(at(row, "accuracy", "curves", "reliability")))
    }
    if not bins:
        return []
    with style.figure(4.2) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (4, 4)), linewidth=1.2)
        for row in rows:
            if row["number"] not in bins:
                continue
            found = bins[row["number"]]
            hollow, colour = is_float(row), style.colour_of(row)
            axes.plot(
                [100 * entry[0] for entry in found],
                [100 * entry[1] for entry in found],
                marker=style.marker_of(row),
                markersize=6,
                color=MUTED if hollow else colour,
                markerfacecolor=PAPER if hollow else colour,
                linestyle="--" if hollow else "-",
                linewidth=1.6,
                label=style.row_name(row),
            )
        first = next(row for row in rows if row["number"] in bins)
        counted = bins[first["number"]]
        below.bar([100 * e[0] for e in counted], [e[2] for e in counted], 4.0, color=MUTED)
        below.set_yscale("log")
        below.set_ylim(bottom=0.8)
        below.minorticks_off()
        below.set_ylabel("answers")
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        axes.set_ylabel("of them right, %")
        below.set_xlabel("probability given, %")
        figure.legend(loc="outside lower center", ncols=1, handlelength=2.4)
        return [style.svg(figure, "Reliability: probability given against share right", prefix)]


def _bins(value: Any) -> list[list[float]]:
    return [entry for raw in value or [] if len(entry := numbers(raw)) == 3 and entry[2] > 0]
