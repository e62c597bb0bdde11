"""Plots of a report as inline SVG whose colours follow the page, light or dark.

matplotlib is given sentinel colours, which are then replaced by the page's CSS variables; text
stays text, so that it can be searched, read aloud and printed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
BACKEND_COLOURS = {
    "onnxruntime": "#050501",
    "openvino": "#050502",
    "tensorrt": "#050503",
    "torch": "#050504",
}
STAGE_COLOURS = {
    "decode_preprocess": "#050505",
    "infer": "#050507",
    "postprocess": "#050508",
    "rest": "#050506",
}
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--card",
    **{BACKEND_COLOURS[b]: f"--{b}" for b in BACKEND_COLOURS},
    STAGE_COLOURS["decode_preprocess"]: "--stage-preprocess",
    STAGE_COLOURS["infer"]: "--stage-infer",
    STAGE_COLOURS["postprocess"]: "--stage-decide",
    STAGE_COLOURS["rest"]: "--stage-rest",
}
MARKERS = {"onnxruntime": "o", "openvino": "s", "tensorrt": "D", "torch": "^"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qdr-bench",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}
WIDTH_IN = 5.2


def accuracy_against_latency(rows: Sequence[Mapping[str, Any]], chance: float | None) -> str:
    """Plot mAP with its interval over median latency; each artefact joined to its float twin."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
        axes = figure.subplots()
        twins = {row["backend"]: row for row in rows if row["target"] == "float"}
        for row in rows:
            x, y, low, high = _point(row)
            colour = BACKEND_COLOURS[row["backend"]]
            hollow = row["target"] == "float"
            axes.errorbar(
                x,
                y,
                yerr=[[y - low], [high - y]],
                fmt="none",
                ecolor=colour,
                elinewidth=1.5,
                capsize=4,
            )
            axes.plot(
                x,
                y,
                MARKERS[row["backend"]],
                markersize=9,
                color=colour,
                markerfacecolor=PAPER if hollow else colour,
                markeredgewidth=2,
                zorder=3,
                label=row_name(row),
            )
            twin = twins.get(row["backend"])
            if not hollow and twin is not None:
                x_twin, y_twin, _, _ = _point(twin)
                arrow = {
                    "arrowstyle": "-|>", "color": colour, "alpha": 0.55,
                    "linewidth": 1.5, "shrinkA": 9, "shrinkB": 9,
                }  # fmt: skip
                axes.annotate("", xy=(x, y), xytext=(x_twin, y_twin), arrowprops=arrow)
        if chance is not None:
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
        _log_axis(axes, [_point(row)[0] for row in rows])
        bottom = min([_point(row)[2] for row in rows] + ([100 * chance] if chance else []))
        top = max(_point(row)[3] for row in rows)
        room = 0.12 * max(top - bottom, 1.0)
        axes.set_ylim(max(0.0, bottom - room), min(100.0, top + room))
        axes.set_xlabel("median latency, ms (left is faster)")
        axes.set_ylabel("mAP, % (up is better)")
        figure.legend(loc="outside lower center", ncols=2, handletextpad=0.4)
        title = "Accuracy against latency: mAP with 95 % interval over median latency"
        return _svg(figure, title, "accuracy")


def latency_distributions(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot the distribution of raw latencies, one line a row, with median and p90."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.1 + 0.72 * len(rows)), layout="constrained")
        axes = figure.subplots()
        everything = []
        for place, row in enumerate(rows):
            values = np.concatenate([np.array(r) for r in row["latency"]["rounds_ns"]]) / 1e6
            everything += [float(np.quantile(values, 0.001)), float(np.quantile(values, 0.995))]
            _ridge(axes, np.log10(values), -float(place), BACKEND_COLOURS[row["backend"]])
            for quantile, style in ((0.5, "-"), (0.9, ":")):
                at = float(np.quantile(values, quantile))
                y = (-place, -place + 0.72)
                axes.plot([at, at], y, color=INK, linestyle=style, linewidth=1.6, zorder=4)
        axes.set_yticks([-place for place in range(len(rows))], [row_name(row) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        _log_axis(axes, everything)
        axes.set_ylim(-len(rows) + 0.8, 0.95)
        axes.set_xlabel("ms (solid: median, dotted: p90)")
        return _svg(figure, "Distribution of raw latencies", "latency")


def speed_ratios(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Plot how many times faster each artefact is than its float twin, with 95 % intervals."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.1 + 0.55 * len(ratios)), layout="constrained")
        axes = figure.subplots()
        for place, entry in enumerate(ratios):
            ratio, colour = entry["faster_than_float"], BACKEND_COLOURS[entry["backend"]]
            axes.plot([ratio["low"], ratio["high"]], [-place] * 2, color=colour, linewidth=3)
            axes.plot(ratio["value"], -place, MARKERS[entry["backend"]], color=colour, markersize=9)
            axes.annotate(
                f"{ratio['value']:.2f} ×",
                (ratio["value"], -place),
                xytext=(0, 10),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
        axes.axvline(1, color=MUTED, linestyle=(0, (4, 4)), linewidth=1.2)
        names = [f"int8 · {entry['backend']}" for entry in ratios]
        axes.set_yticks([-place for place in range(len(ratios))], names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-len(ratios) + 0.5, 0.75)
        ends = [entry["faster_than_float"] for entry in ratios]
        low, high = min(e["low"] for e in ends), max(e["high"] for e in ends)
        axes.set_xlim(min(0.8, 0.9 * low), max(1.2, 1.08 * high))
        axes.set_xlabel("times faster than float (1: equal)")
        return _svg(figure, "Speed of int8 against float, with 95 % interval", "ratio")


def stage_bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot the median time of each stage from file to decision, stacked."""
    names = {
        "decode_preprocess": "decode + preprocess",
        "infer": "infer",
        "postprocess": "decide",
        "rest": "quality gate and the rest",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.5 + 0.62 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            median = row["stages"]["median_ms"]
            parts = {name: median[name] for name in names if name in median}
            # Medians do not add up exactly: what is left is never drawn as negative.
            parts["rest"] = max(0.0, median["end_to_end"] - sum(parts.values()))
            left = 0.0
            for name, value in parts.items():
                label = names[name] if place == 0 else None
                colour = STAGE_COLOURS[name]
                axes.barh(-place, value, left=left, height=0.55, color=colour, label=label)
                left += value
            axes.annotate(
                f"{median['end_to_end']:.1f} ms",
                (left, -place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
        axes.set_yticks([-place for place in range(len(rows))], [row_name(row) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.set_xlabel("median, ms")
        figure.legend(loc="outside lower center", ncols=2, handlelength=1.0)
        return _svg(figure, "Time from image file to decision, by stage", "stages")


def row_name(row: Mapping[str, Any]) -> str:
    """Return what a row is called in a plot."""
    return f"{row['variant']} · {row['backend']}"


def _point(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    estimate = row["accuracy"]["map"]
    value = 100 * estimate["value"]
    low = value if estimate["low"] is None else 100 * estimate["low"]
    high = value if estimate["high"] is None else 100 * estimate["high"]
    # A value outside its own percentile interval is rare, and possible with few patients.
    return float(np.median(_raw(row))) / 1e6, value, min(low, value), max(high, value)


def _raw(row: Mapping[str, Any]) -> list[int]:
    return [value for latencies in row["latency"]["rounds_ns"] for value in latencies]


def _ridge(axes: Axes, logs: Any, base: float, colour: str) -> None:
    """Draw a smoothed histogram of log10 latencies above a base line."""
    low, high = np.quantile(logs, [0.001, 0.995])
    width = max(high - low, 0.02)
    edges = np.linspace(low - 0.15 * width, high + 0.15 * width, 97)
    counts, _ = np.histogram(logs, bins=edges)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    height = 0.72 * smooth / max(smooth.max(), 1e-9)
    at = 10 ** ((edges[:-1] + edges[1:]) / 2)
    axes.fill_between(at, base, base + height, color=colour, alpha=0.35, linewidth=0)
    axes.plot(at, base + height, color=colour, linewidth=1.5)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    span = high / low
    if span > 6:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _svg(figure: Figure, title: str, prefix: str) -> str:
    """Return the figure as an SVG element for inlining, its ids made unique on the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"font: (bold |700 )?([\d.]+)px [^;\"]+", _font, text)
    head = f'<svg role="img" aria-label="{title}"'
    return re.sub(r' (width|height)="[\d.]+pt"', "", text.replace("<svg", head, 1), count=2)


def _font(match: re.Match[str]) -> str:
    weight = "700 " if match.group(1) else ""
    return f"font: {weight}{match.group(2)}px system-ui, sans-serif"
