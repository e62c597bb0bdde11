"""What `qdr-edge bench` does: run a suite with a progress bar, write and show its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from qdr_bench.report import HTML_NAME, JSON_NAME
from qdr_bench.report_page import console as terminal
from qdr_bench.report_page.page import render
from qdr_bench.suite.run import run_suite
from qdr_bench.suite.schema import Suite
from qdr_edge.files import atomic_write, make_folder


def run(
    suite: Suite, bundles: Sequence[Path], *, out: Path, resume: bool, allow_unsigned: bool
) -> bool:
    """Measure and write the report.

    Args:
        suite: What to measure.
        bundles: Bundles named by the user; the suite's own if empty.
        out: Folder for the report and for what `resume` needs.
        resume: Go on where an interrupted run into the same folder stopped.
        allow_unsigned: Measure bundles without a signature.

    Returns:
        Whether it was interrupted; what was measured until then is in the report.

    Raises:
        BundleError: A bundle cannot be verified.
        BenchmarkError: There is nothing to measure.
        DatasetError: The evaluation data are wrong.
        OutputError: The report cannot be written.
    """
    make_folder(out)
    errors = Console(stderr=True)
    with _progress(errors) as progress:
        task = progress.add_task("preparing", total=1.0)
        content = run_suite(
            suite,
            bundles,
            out,
            resume=resume,
            allow_unsigned=allow_unsigned,
            on_step=lambda what, share: progress.update(task, description=what, completed=share),
            on_group=lambda text: progress.console.print(text, style="dim", markup=False),
        )
    files = save(content, out)
    terminal.show(content, Console())
    Console().print(f"Report: {files[1]} (raw figures: {files[0].name})", highlight=False)
    if content["interrupted"]:
        errors.print("interrupted: the same command with --resume goes on", style="yellow")
    return bool(content["interrupted"])


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def save(content: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html; what an earlier run left there is replaced whole.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    make_folder(folder)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = (folder / JSON_NAME, folder / HTML_NAME)
    atomic_write(files[0], text)
    atomic_write(files[1], render(content))
    return files
