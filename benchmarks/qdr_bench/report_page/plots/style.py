"""What all plots share: the page's colours, signs of runtimes, charts with a line for each row.

matplotlib is given sentinel colours, which are then replaced by the page's CSS variables; text
stays text, so that it can be searched, read aloud and printed. Colour is never the only sign: a
runtime has a marker of its own, a float model is hollow or dashed, a row has its number.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from qdr_bench.report_page.text import shortened

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
BACKEND_COLOURS = {
    "onnxruntime": "#050501",
    "openvino": "#050502",
    "tensorrt": "#050503",
    "torch": "#050504",
    "native": "#050509",
}
OTHER_BACKEND = "#05050a"
PARTS = ("#050505", "#050507", "#050508", "#050506")
"""Colours of the parts of a stacked bar, in their order."""
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--card",
    **{colour: f"--{backend}" for backend, colour in BACKEND_COLOURS.items()},
    OTHER_BACKEND: "--other",
    **{colour: f"--part-{place}" for place, colour in enumerate(PARTS, start=1)},
}
MARKERS = {"onnxruntime": "o", "openvino": "s", "tensorrt": "D", "torch": "^", "native": "P"}
OTHER_MARKER = "X"
HATCHES = ("", "////", "....", "", "xxxx", "", "----", "////")
"""What tells apart parts of the same colour: there are twice as many as colours."""
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
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
}
WIDTH_IN = 5.2
LINE_IN = 0.56
ROWS_A_CHART = 12
"""So many fit on a printed page; more go to a further chart."""
LONGEST_NAME = 46
NAME_AT, BAR_HEIGHT = 0.40, 0.34


def colour_of(row: Mapping[str, Any]) -> str:
    """Return the colour of a row's runtime."""
    return BACKEND_COLOURS.get(str(row.get("backend")), OTHER_BACKEND)


def marker_of(row: Mapping[str, Any]) -> str:
    """Return the marker of a row's runtime."""
    return MARKERS.get(str(row.get("backend")), OTHER_MARKER)


def row_name(row: Mapping[str, Any]) -> str:
    """Return what a row is called in a plot: its number in the first table, and its title."""
    return shortened(f"{row['number']}  {row['title']}", LONGEST_NAME)


def pages(rows: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """Return the rows in as many parts as charts are needed, none of them nearly empty."""
    charts = math.ceil(len(rows) / ROWS_A_CHART)
    size = math.ceil(len(rows) / max(1, charts))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@contextmanager
def figure(height: float, width: float = WIDTH_IN) -> Iterator[Figure]:
    """A figure in the page's style."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Text is drawn by the browser: a glyph that matplotlib's own font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield Figure(figsize=(width, height), layout="constrained")


def row_axes(drawn: Figure, rows: Sequence[Mapping[str, Any]]) -> Axes:
    """Return axes with a line for each row, at y = 0, −1, −2, …; its name stands above it."""
    axes = drawn.subplots()
    for place, row in enumerate(rows):
        axes.annotate(
            row_name(row),
            (0, -place + NAME_AT),
            xycoords=("axes fraction", "data"),
            va="bottom",
            annotation_clip=False,
        )
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-len(rows) + 0.65, 0.78)
    return axes


def row_height(rows: Sequence[Mapping[str, Any]], beside: float) -> float:
    """Return the height of a figure of rows, with room for axis and legend."""
    return beside + LINE_IN * len(rows)


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Give an axis of times a logarithmic scale with round figures."""
    low, high = min(values), max(values)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    span = high / low
    if span > 60:
        axes.xaxis.set_major_locator(LogLocator(numticks=8))
    elif span > 6:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def stacked(
    axes: Axes, place: int, parts: Mapping[str, float], *, total: str, legend: bool
) -> None:
    """Draw one row's bar of parts, left to right, and what they come to."""
    left = 0.0
    for (name, value), colour, hatch in zip(parts.items(), 2 * PARTS, HATCHES, strict=False):
        label = name if legend else None
        bar: Any = {"height": BAR_HEIGHT, "color": colour, "hatch": hatch, "label": label}
        axes.barh(-place + 0.14, value, left=left, edgecolor=PAPER, linewidth=0.6, **bar)
        left += value
    axes.annotate(
        total,
        (left, -place + 0.14),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontweight="bold",
    )


def svg(drawn: Figure, title: str, prefix: str) -> str:
    """Return a figure as an SVG element for inlining.

    Args:
        drawn: The figure.
        title: What a screen reader says.
        prefix: Unique on the page; every id in the element starts with it.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"font: (bold |700 )?([\d.]+)px [^;\"]+", _font, text)
    head = f'<svg role="img" aria-label="{html.escape(title)}"'
    return re.sub(r' (width|height)="[\d.]+pt"', "", text.replace("<svg", head, 1), count=2)


def _font(match: re.Match[str]) -> str:
    weight = "700 " if match.group(1) else ""
    return f"font: {weight}{match.group(2)}px system-ui, sans-serif"
