"""The result table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

STYLES = {"VALID": "green", "INVALID": "yellow", "FAILED": "red", "UNAVAILABLE": "dim"}
NONE = "–"
TABLE_WIDTH = 100


def megabytes(count: int | None) -> str:
    """Return bytes as MB of a million bytes."""
    return NONE if count is None else f"{count / 1e6:.2f}"


def milliseconds(value: float | None) -> str:
    """Return milliseconds with three significant digits, trailing zeros kept."""
    if value is None:
        return NONE
    decimals = next((n for n, low in ((0, 100), (1, 10), (2, 1)) if value >= low), 3)
    return f"{value:.{decimals}f}"


def percent(estimate: Mapping[str, Any] | None) -> str:
    """Return a figure of 0..1 and its interval in percent."""
    if estimate is None or estimate["value"] is None:
        return NONE
    text = f"{100 * estimate['value']:.1f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def table(report: Mapping[str, Any], bundle: str) -> Table:
    """Lay out the first table of a report for one bundle."""
    kind = "quick SingleStream" if report["quick"] else "SingleStream"
    counts = sorted({row["threads"] for row in report["rows"] if row["threads"]})
    threads = " and ".join(str(count) for count in counts) or report["plan"]["threads"]
    result = Table(
        title=f"{bundle}: {kind}, batch 1, {threads} threads",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    result.add_column("model", no_wrap=True)
    result.add_column("status", no_wrap=True)
    for name in ("MB", "mAP % [95 % CI]", "p50 ms", "p90 ms", "img/s", "peak MB", "× float"):
        result.add_column(name, justify="right", no_wrap=True)
    faster = {ratio["row"]: ratio["faster_than_float"] for ratio in report["ratios"]}
    for row in report["rows"]:
        if row["bundle"] != bundle:
            continue
        latency, accuracy, memory = row["latency"], row["accuracy"], row["memory"]
        timed = latency if accuracy is not None else None
        ratio = faster.get(row["id"]) if timed else None
        result.add_row(
            row["id"].removeprefix(f"{bundle}/").replace("/", " "),
            f"[{STYLES[row['status']]}]{row['status']}[/]",
            megabytes(row["model_bytes"]),
            percent(accuracy["map"]) if accuracy else NONE,
            milliseconds(timed["p50_ms"]) if timed else NONE,
            milliseconds(timed["p90_ms"]) if timed else NONE,
            f"{timed['images_per_second']:.0f}" if timed else NONE,
            megabytes(memory["model_bytes"]) if memory else NONE,
            f"{ratio['value']:.2f}" if ratio else NONE,
        )
    return result


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the table, the reasons against each row, and what a reader must know."""
    if console.width < TABLE_WIDTH:
        # A log file has no width; a narrow terminal folds lines more legibly than rich cells.
        console = Console(file=console.file, width=TABLE_WIDTH)
    for bundle in report["bundles"]:
        console.print(table(report, bundle["name"]))
    for entry in report["against_peers"]:
        times = entry["times"]
        console.print(
            f"{entry['ours']} is {times['value']:.2f} × as fast as {entry['row']} "
            f"[{times['low']:.2f}, {times['high']:.2f}]",
            markup=False,
            highlight=False,
        )
    for row in report["rows"]:
        if row["reasons"]:
            text = f"{row['id']}: {row['status']}: {'; '.join(row['reasons'])}"
            # A reason may quote a path with brackets: it is text, not markup.
            console.print(text, style="dim", markup=False, highlight=False)
    for bundle in report["bundles"]:
        for note in bundle["notes"]:
            console.print(f"{bundle['name']}: {note}", style="dim", markup=False)
        first = next(
            (r for r in report["rows"] if r["bundle"] == bundle["name"] and r["accuracy"]), None
        )
        if first:
            accuracy = first["accuracy"]
            console.print(
                f"{bundle['name']}: {accuracy['images']} images of {accuracy['patients']} patients;"
                f" chance mAP {100 * accuracy['chance_map']:.1f} %, accuracy of the majority "
                f"answer {100 * accuracy['majority_accuracy']:.1f} % against "
                f"{percent(accuracy['accuracy'])} %"
            )
    if report["synthetic"]:
        console.print("[yellow]Synthetic data: these figures say nothing about patients.[/]")
