"""`qdr-edge data`: make data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make data sets.")


@app.callback()
def data() -> None:
    """Make data sets."""


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write; empty, missing or unfinished.")],
    patients: Annotated[int, typer.Option(help="Number of patients, two eyes each.")] = 300,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    size: Annotated[int, typer.Option(help="Image height in pixels.")] = 256,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default one a core. Never changes the bytes.")
    ] = None,
) -> None:
    """Draw SYNTHETIC fundus photographs and OCT scans with labels (no real patients)."""
    # Heavy imports wait until the command runs, so that --help stays quick.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from qdr_train.synth import generate

    console = Console(stderr=True)
    with Progress(
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("drawing synthetic eyes", total=None)
        table = generate(
            out,
            patients,
            seed,
            size,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"SYNTHETIC data set: {table}")
