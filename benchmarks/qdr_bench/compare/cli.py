"""`qdr-edge compare`: what changed between two reports. Heavy modules are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise typer.BadParameter(f"{text!r} is no share; expected e.g. 5% or 0.05")
    return value


def compare(
    before: Annotated[Path, typer.Argument(help="The first report.json.")],
    after: Annotated[Path, typer.Argument(help="The second report.json.")],
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="End with exit code 16 if a figure is worse by more than this, e.g. 5%.",
            show_default="never",
        ),
    ] = None,
    band: Annotated[
        str, typer.Option(help="What counts as no change: two runs of one model differ by as much.")
    ] = "3%",
    force: Annotated[bool, typer.Option("--force", help="Compare unlike machines.")] = False,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML here.", show_default=False)
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Append Markdown to this file, e.g. $GITHUB_STEP_SUMMARY.", show_default=False
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write every figure as JSON here.")
    ] = None,
) -> None:
    """Tell what changed between two reports: same, better, worse, or cannot tell."""
    import json as encoder

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from qdr_bench.compare import judge, outputs
    from qdr_bench.compare.reading import differences, open_report
    from qdr_edge.errors import BenchmarkError, RegressionError
    from qdr_edge.files import append_text, atomic_write

    most, width = _share(fail_on), _share(band)
    old, new = open_report(before), open_report(after)
    around = differences(old, new)
    if around.machine and not force:
        raise BenchmarkError(
            f"measured on unlike machines: {'; '.join(around.machine)}",
            where=f"{before} and {after}",
            expected="the same processor, cores, threads and power settings",
            fix="measure both on one machine, or compare them all the same with --force",
        )
    changes = judge.compare(old, new, band=width or 0.0)
    lonely = judge.unmatched(old, new)
    if not changes:
        raise BenchmarkError(
            "no row is in both reports",
            where=f"{before} and {after}",
            expected="reports of the same bundles and targets",
            fix="; ".join(lonely[:4]),
        )
    colours = {"better": "green", "worse": "red", "cannot tell": "yellow"}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("row", "figure", "before → after", ""):
        table.add_column(column)
    for change in changes:
        failed = most is not None and change.fails(most)
        word = f"{change.word}{' FAILS' if failed else ''}"
        colour = colours.get(change.word.value, "")
        table.add_row(
            change.row,
            change.metric.name,
            outputs.figures(change),
            f"[{colour}]{word}[/]" if colour else word,
        )
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    notes = [*(f"machine: {line}" for line in around.machine), *around.software, *lonely]
    notes += sorted({f"{change.row}: {change.why}" for change in changes if change.why})
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False)
    if junit:
        atomic_write(junit, outputs.junit(changes, most))
    if summary:
        append_text(summary, outputs.markdown(changes, around, lonely, most))
    if json:
        content = {
            "format": "qdr-comparison",
            "schema_version": 1,
            "fail_on": most,
            "band": width,
            "machine": list(around.machine),
            "software": list(around.software),
            "unmatched": lonely,
            "changes": [
                {**change.to_dict(), "fails": most is not None and change.fails(most)}
                for change in changes
            ],
        }
        atomic_write(json, encoder.dumps(content, indent=1, ensure_ascii=False) + "\n")
    failed_ones = [change for change in changes if most is not None and change.fails(most)]
    if failed_ones:
        worst = max(failed_ones, key=lambda change: change.loss)
        raise RegressionError(
            f"{len(failed_ones)} of {len(changes)} figures are worse, most of all "
            f"{worst.metric.name} of {worst.row}: {outputs.figures(worst)}",
            where=str(after),
            expected=f"none worse than in {before} by more than {fail_on}",
            fix="find what changed, or accept the new report as the baseline",
        )
