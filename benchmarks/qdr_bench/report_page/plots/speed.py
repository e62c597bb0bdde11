"""Plots of latency: against accuracy, its distribution, against float, by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from qdr_bench.report_page.document import is_float, is_twin
from qdr_bench.report_page.plots import style
from qdr_bench.report_page.plots.style import BAR_HEIGHT, INK, MUTED, PAPER
from qdr_bench.report_page.text import at, number, numbers

Rows = Sequence[Mapping[str, Any]]
STAGES = {
    "decode_preprocess": "decode + preprocess",  # one stage in reports of schema version 1 and 2
    "decode": "decode",
    "preprocess": "preprocess",
    "gate": "quality gate",
    "h2d": "copy to the device",
    "infer": "infer",
    "d2h": "copy back",
    "postprocess": "decide",
}
REST = "the rest"
LABEL_PLACES = ((0, 9), (11, -4), (-11, -4), (0, -17), (11, 8), (-11, 8), (0, 20), (0, -28))


def accuracy_against_latency(rows: Rows, chance: float | None, prefix: str) -> list[str]:
    """Plot mAP with its interval over median latency; each artefact joined to its float twin."""
    points = {row["number"]: point for row in rows if (point := _point(row))}
    rows = [row for row in rows if row["number"] in points]
    if not rows:
        return []
    with style.figure(4.2) as figure:
        axes = figure.subplots()
        twins = {_kin(row): row["number"] for row in rows if is_twin(row)}
        for row in rows:
            x, y, low, high = points[row["number"]]
            colour, hollow = style.colour_of(row), is_float(row)
            error = [[y - low], [high - y]]
            axes.errorbar(x, y, error, fmt="none", ecolor=colour, elinewidth=1.3, capsize=3)
            axes.plot(
                x,
                y,
                style.marker_of(row),
                markersize=8,
                color=colour,
                markerfacecolor=PAPER if hollow else colour,
                markeredgewidth=1.8,
                zorder=3,
            )
            twin = points.get(twins.get(_kin(row), 0))
            if row["variant"] == "int8" and not _is_peer(row) and twin is not None:
                arrow = {
                    "arrowstyle": "-|>", "color": colour, "alpha": 0.55,
                    "linewidth": 1.5, "shrinkA": 9, "shrinkB": 9,
                }  # fmt: skip
                axes.annotate("", xy=(x, y), xytext=twin[:2], arrowprops=arrow)
        _chance(axes, chance)
        style.log_axis(axes, [point[0] for point in points.values()])
        bottom = min([point[2] for point in points.values()] + ([100 * chance] if chance else []))
        top = max(point[3] for point in points.values())
        room = 0.12 * max(top - bottom, 1.0)
        axes.set_ylim(max(0.0, bottom - room), min(100.0, top + room))
        axes.set_xlabel("median latency, ms (left is faster)")
        axes.set_ylabel("mAP, % (up is better)")
        figure.legend(handles=_signs(rows), loc="outside lower center", ncols=3, handletextpad=0.4)
        figure.canvas.draw()
        _numbers(axes, {key: point[:2] for key, point in points.items()})
        title = "Accuracy against latency: mAP with 95 % interval over median latency"
        return [style.svg(figure, title, prefix)]


def _chance(axes: Axes, chance: float | None) -> None:
    if chance is None:
        return
    axes.axhline(100 * chance, color=MUTED, linestyle=(0, (4, 4)), linewidth=1.2)
    axes.annotate(
        "chance",
        (1, 100 * chance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color=MUTED,
    )


def _numbers(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """Write each row's number beside its point, where no other point or number stands."""
    scale = 72 / axes.figure.dpi  # pixels to points
    spots = {key: axes.transData.transform(point) * scale for key, point in points.items()}
    taken = [spot + np.array([0, 0]) for spot in spots.values()]
    for key, spot in spots.items():
        clear = {
            place: min(float(np.hypot(*(spot + np.array(place) + (0, 4) - t))) for t in taken)
            for place in LABEL_PLACES
        }
        # The first place with enough room, or else the one with the most.
        place = next((p for p in LABEL_PLACES if clear[p] > 11), max(clear, key=lambda p: clear[p]))
        taken.append(spot + np.array(place) + (0, 4))
        axes.annotate(
            str(key), points[key], xytext=place, textcoords="offset points", ha="center",
            fontsize=10, fontweight="bold", zorder=5,
        )  # fmt: skip


def _signs(rows: Rows) -> list[Line2D]:
    """What markers mean, one a runtime."""
    seen = {str(row.get("backend")): row for row in rows}
    signs = [
        Line2D([], [], linestyle="none", marker=style.marker_of(row), markersize=8,
               color=style.colour_of(row), label=name)
        for name, row in seen.items()
    ]  # fmt: skip
    if any(is_float(row) for row in rows):
        signs.append(
            Line2D([], [], linestyle="none", marker="o", markersize=8, color=MUTED,
                   markerfacecolor=PAPER, markeredgewidth=1.8, label="hollow: float")
        )  # fmt: skip
    return signs


def latency_distributions(rows: Rows, prefix: str) -> list[str]:
    """Plot the distribution of raw latencies, one line a row, with median and p90."""
    rows = [row for row in rows if raw(row).size]
    if not rows:
        return []
    ends = [np.quantile(raw(row), [0.001, 0.995]) for row in rows]
    found = []
    for page, some in enumerate(style.pages(rows)):
        with style.figure(style.row_height(some, 0.75)) as figure:
            axes = style.row_axes(figure, some)
            for place, row in enumerate(some):
                values = raw(row)
                _ridge(axes, np.log10(values), -float(place), row)
                for quantile, line in ((0.5, "-"), (0.9, ":")):
                    mark = float(np.quantile(values, quantile))
                    span = (-place - 0.02, -place + BAR_HEIGHT)
                    axes.plot([mark, mark], span, color=INK, linestyle=line, linewidth=1.6)
            style.log_axis(axes, [float(end) for pair in ends for end in pair])
            axes.set_xlabel("ms (solid: median, dotted: p90)")
            found.append(style.svg(figure, "Distribution of raw latencies", f"{prefix}{page}"))
    return found


def _ridge(axes: Axes, logs: Any, base: float, row: Mapping[str, Any]) -> None:
    """Draw a smoothed histogram of log10 latencies above a base line."""
    colour = style.colour_of(row)
    low, high = np.quantile(logs, [0.001, 0.995])
    width = max(high - low, 0.02)
    edges = np.linspace(low - 0.15 * width, high + 0.15 * width, 81)
    counts, _ = np.histogram(logs, bins=edges)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    height = BAR_HEIGHT * smooth / max(smooth.max(), 1e-9)
    middle = 10 ** ((edges[:-1] + edges[1:]) / 2)
    axes.fill_between(middle, base, base + height, color=colour, alpha=0.35, linewidth=0)
    line = "--" if is_float(row) else "-"
    axes.plot(middle, base + height, color=colour, linewidth=1.5, linestyle=line)


def speed_ratios(rows: Rows, ratios: Mapping[str, Mapping[str, Any]], prefix: str) -> list[str]:
    """Plot how many times faster each row is than its float twin, with 95 % intervals."""
    rows = [row for row in rows if number(at(ratios.get(row["id"]), "value")) is not None]
    if not rows:
        return []
    spans = [_span(ratios[row["id"]]) for row in rows]
    low, high = min(span[0] for span in spans), max(span[2] for span in spans)
    found = []
    for page, some in enumerate(style.pages(rows)):
        with style.figure(style.row_height(some, 0.75)) as figure:
            axes = style.row_axes(figure, some)
            for place, row in enumerate(some):
                start, value, end = _span(ratios[row["id"]])
                y, colour = -place + 0.14, style.colour_of(row)
                axes.plot([start, end], [y, y], color=colour, linewidth=3)
                axes.plot(value, y, style.marker_of(row), color=colour, markersize=8)
                # Beside the interval: above it stands the row's name.
                axes.annotate(
                    f"{value:.2f} ×", (end, y), xytext=(8, 0), textcoords="offset points",
                    va="center", fontweight="bold",
                )  # fmt: skip
            axes.axvline(1, color=MUTED, linestyle=(0, (4, 4)), linewidth=1.2)
            axes.set_xlim(min(0.8, 0.9 * low), max(1.2, 1.2 * high))
            axes.set_xlabel("times faster than float (1: equal)")
            found.append(style.svg(figure, "Speed against float", f"{prefix}{page}"))
    return found


def stage_bars(rows: Rows, prefix: str) -> list[str]:
    """Plot the median time of each stage from file to decision, stacked."""
    rows = [row for row in rows if number(at(row, "stages", "median_ms", "end_to_end"))]
    if not rows:
        return []
    stages = [
        (key, name) for key, name in STAGES.items() if any(key in median_ms(row) for row in rows)
    ]
    longest = max(float(row["stages"]["median_ms"]["end_to_end"]) for row in rows)
    found = []
    for page, some in enumerate(style.pages(rows)):
        with style.figure(style.row_height(some, 1.3)) as figure:
            axes = style.row_axes(figure, some)
            for place, row in enumerate(some):
                median = median_ms(row)
                parts = {name: number(median.get(key)) or 0.0 for key, name in stages}
                # Medians do not add up exactly: what is left is never drawn as negative.
                parts[REST] = max(0.0, median["end_to_end"] - sum(parts.values()))
                total = f"{median['end_to_end']:.3g} ms"
                style.stacked(axes, place, parts, total=total, legend=place == 0)
            axes.set_xlim(0, 1.25 * longest)
            axes.set_xlabel("median, ms")
            figure.legend(loc="outside lower center", ncols=3, handlelength=1.4)
            title = "Time from image file to decision, by stage"
            found.append(style.svg(figure, title, f"{prefix}{page}"))
    return found


def median_ms(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Median of each stage of a row that has them."""
    return cast("Mapping[str, Any]", row["stages"]["median_ms"])


def raw(row: Mapping[str, Any]) -> Any:
    """Return every latency of a row in milliseconds, those above zero: [queries]."""
    rounds = at(row, "latency", "rounds_ns") or []
    values = np.array([value for values in rounds for value in numbers(values)]) / 1e6
    return values[values > 0]


def _point(row: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Median latency in ms, then mAP and its interval in percent; None where either is absent."""
    estimate, latencies = at(row, "accuracy", "map"), raw(row)
    value = number(at(estimate, "value"))
    if value is None or not latencies.size:
        return None
    low, value, high = _span(estimate)
    return float(np.median(latencies)), 100 * value, 100 * low, 100 * high


def _span(estimate: Mapping[str, Any]) -> tuple[float, float, float]:
    """Low, value and high; an end that is absent is the value."""
    value = float(estimate["value"])
    low, high = (number(estimate.get(end)) for end in ("low", "high"))
    # A value outside its own percentile interval is rare, and possible with few patients.
    return (
        value if low is None else min(low, value),
        value,
        value if high is None else max(high, value),
    )


def _kin(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row and its float twin have in common."""
    return row.get("backend"), row.get("device"), row.get("threads")


def _is_peer(row: Mapping[str, Any]) -> bool:
    return row.get("target") in ("peer", "float")
