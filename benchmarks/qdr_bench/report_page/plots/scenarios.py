"""Plots of ColdStart and Soak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from qdr_bench.report_page.plots import style
from qdr_bench.report_page.plots.style import INK, MUTED, PARTS
from qdr_bench.report_page.text import at, number

Rows = Sequence[Mapping[str, Any]]
START = {"import_ms": "import", "open_ms": "open, with self-test", "first_decision_ms": "decide"}


def cold_start_bars(rows: Rows, prefix: str) -> list[str]:
    """Plot the medians of a start's parts, stacked; a start with a warm cache beneath."""
    shown = []
    for row in rows:
        for key, kind in (("cold_start", ""), ("cached", " · cache warm")):
            found = at(row, "cold_start") if key == "cold_start" else at(row, "cold_start", key)
            if number(at(found, "total_ms")):
                shown.append({**row, "title": f"{row['title']}{kind}", "start": found})
    if not shown:
        return []
    longest = max(float(row["start"]["total_ms"]) for row in shown)
    charts = []
    for page, some in enumerate(style.pages(shown)):
        with style.figure(style.row_height(some, 1.1)) as figure:
            axes = style.row_axes(figure, some)
            for place, row in enumerate(some):
                start = row["start"]
                parts = {name: number(start.get(key)) or 0.0 for key, name in START.items()}
                total = f"{start['total_ms']:,.0f} ms"
                style.stacked(axes, place, parts, total=total, legend=place == 0)
            axes.set_xlim(0, 1.25 * longest)
            axes.set_xlabel("median, ms")
            figure.legend(loc="outside lower center", ncols=3, handlelength=1.4)
            charts.append(style.svg(figure, "Start of a process, by part", f"{prefix}{page}"))
    return charts


def soak_timeline(row: Mapping[str, Any], prefix: str) -> str:
    """Plot latency, memory and temperature over a soak; empty where nothing was kept."""
    timeline = [entry for entry in at(row, "soak", "timeline") or [] if number(at(entry, "at_s"))]
    if not timeline:
        return ""
    lines = [
        (
            "ms",
            [("p50", "p50_ms", 1.0, PARTS[1], "-"), ("p99", "p99_ms", 1.0, PARTS[2], "--")],
        ),
        ("memory, MB", [("", "rss_bytes", 1e-6, INK, "-")]),
        ("hottest, °C", [("", "temperature_c", 1.0, INK, "-")]),
    ]
    kept = [
        (name, curves)
        for name, curves in lines
        if any(number(at(entry, key)) is not None for entry in timeline for _, key, *_ in curves)
    ]
    if not kept:
        return ""
    with style.figure(0.9 + 1.15 * len(kept)) as figure:
        for axes, (name, curves) in zip(
            figure.subplots(len(kept), 1, sharex=True, squeeze=False)[:, 0], kept, strict=True
        ):
            for label, key, factor, colour, line in curves:
                points = [
                    (float(entry["at_s"]), value * factor)
                    for entry in timeline
                    if (value := number(at(entry, key))) is not None
                ]
                if not points:
                    continue
                dots = "o" if len(points) < 30 else ""
                axes.plot(
                    *zip(*points, strict=True), color=colour, linestyle=line, linewidth=1.6,
                    marker=dots, markersize=4, label=label or None,
                )  # fmt: skip
            top = axes.get_ylim()[1]
            low = min(axes.get_ylim()[0], 0.8 * top)
            axes.set_ylim(0 if name == "ms" else low, 1.15 * top if name == "ms" else top)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.set_ylabel(name)
            if any(label for label, *_ in curves) and axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper right", ncols=2, labelcolor=MUTED)
        axes.set_xlabel("seconds since the start")
        return style.svg(figure, f"Soak of {row['title']} over time", prefix)
