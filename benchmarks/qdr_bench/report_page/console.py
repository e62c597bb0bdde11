"""The first table on the terminal: 80 columns, each row's interval beneath its figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qdr_bench.report_page.document import of_bundle
from qdr_bench.report_page.first_table import COLUMNS, FirstTable, Line, first_table
from qdr_bench.report_page.text import NONE, at, interval, percent
from qdr_bench.scenarios import TITLES, Scenario

STYLES = {"VALID": "green", "INVALID": "yellow", "FAILED": "red", "UNAVAILABLE": "dim"}
TABLE_WIDTH = 80
MAP = next(place for place, column in enumerate(COLUMNS) if column.name == "mAP")


def scenario_names(report: Mapping[str, Any]) -> list[str]:
    """Return what was asked of every row, as MLPerf spells it; version 1 had SingleStream only."""
    titles = {scenario.value: title for scenario, title in TITLES.items()}
    asked = report.get("scenarios") or [Scenario.SINGLE_STREAM.value]
    return [titles.get(str(name), str(name)) for name in asked]


def thread_counts(report: Mapping[str, Any]) -> str:
    """Return the threads of the rows in words, e.g. "1 and 4"."""
    found = {row.get("threads") for row in report["rows"]} - {None, 0}
    counts = sorted(count for count in found if isinstance(count, int))
    return " and ".join(str(count) for count in counts) or str(at(report, "plan", "threads"))


def table(report: Mapping[str, Any], found: FirstTable, bundle: Any) -> Table:
    """Lay out the rows of one bundle."""
    kind = "quick " if report.get("quick") else ""
    title = f"{bundle}: {kind}{', '.join(scenario_names(report))}, {thread_counts(report)} threads"
    result = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    result.add_column("model", overflow="fold", min_width=20)
    for column in COLUMNS:
        result.add_column(column.short, justify="right", no_wrap=True)
    for line in found.of(bundle):
        result.add_row(_model(line, bundle), *_figures(line))
    return result


def _model(line: Line, bundle: Any) -> Text:
    # The id is what `report.json` and the messages call the row; it may hold brackets.
    name = str(line.row["id"]).removeprefix(f"{bundle}/").replace("/", " ")
    return Text.assemble(name, "\n  ", (line.status, STYLES[line.status]))


def _figures(line: Line) -> list[str]:
    texts = [cell.text for cell in line.cells]
    # Of the notes only the metric's interval has room, and must not be missing.
    if line.cells[MAP].note:
        texts[MAP] += "\n" + line.cells[MAP].note.replace(" ", "")
    return texts


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the table, the reasons against each row, and what a reader must know."""
    if console.width < TABLE_WIDTH:
        # A narrow terminal folds lines more legibly than rich cells.
        console = Console(file=console.file, width=TABLE_WIDTH)
    found = first_table(report)
    for bundle in report["bundles"]:
        console.print(table(report, found, bundle["name"]))
    for entry in report.get("against_peers") or ():
        times = entry["times"]
        text = (
            f"{entry['ours']} is {times['value']:.2f} × as fast as {entry['row']} "
            f"[{times['low']:.2f}, {times['high']:.2f}]"
        )
        console.print(text, markup=False, highlight=False)
    for line in found.lines:
        if line.reasons:
            text = f"{line.row['id']}: {line.status}: {'; '.join(line.reasons)}"
            # A reason may quote a path with brackets: it is text, not markup.
            console.print(text, style="dim", markup=False, highlight=False)
    for bundle in report["bundles"]:
        for note in bundle.get("notes") or ():
            console.print(f"{bundle['name']}: {note}", style="dim", markup=False)
        _accuracy(report, bundle["name"], console)
    if report.get("synthetic"):
        console.print("[yellow]Synthetic data: these figures say nothing about patients.[/]")


def _accuracy(report: Mapping[str, Any], bundle: Any, console: Console) -> None:
    """Say what the accuracy has to be held against."""
    rows = of_bundle(list(report["rows"]), bundle)
    accuracy = next((row["accuracy"] for row in rows if row.get("accuracy")), None)
    if accuracy is None:
        return
    estimate = accuracy.get("accuracy")
    ends = interval(estimate)
    text = (
        f"{bundle}: {accuracy.get('images', NONE)} images of {accuracy.get('patients', NONE)} "
        f"patients; chance mAP {percent(accuracy.get('chance_map'))} %, accuracy of the majority "
        f"answer {percent(accuracy.get('majority_accuracy'))} % against "
        f"{percent(at(estimate, 'value'))}{f' [{ends}]' if ends else ''} %"
    )
    console.print(text, markup=False)
