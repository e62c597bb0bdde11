"""`qdr-edge parity`: the parity ladder of a sealed bundle, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def parity(
    bundle: Annotated[Path, typer.Argument(help="The .qdr bundle.")],
    data: Annotated[
        Path | None,
        typer.Option(help="CSV of images; default: the golden images and drawn pixels."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target to compare; repeatable. Default: all that run here."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every exception as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that opens offline.")] = None,
    max_flips: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Per cent of decisions that may flip where a target does not compute the "
            "reference's integers; where it does, none may.",
        ),
    ] = 0.2,
    max_drop: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Points of mAP that int8 may cost against the float model beside the bundle.",
        ),
    ] = 2.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Open a bundle that nobody signed.")
    ] = False,
) -> None:
    """Compare every target of a bundle that runs here with the bundle's own integer reference.

    Exit code 13 if a gate fails. docs/export.md explains the ladder.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from qdr_edge.bundle import read_bundle
    from qdr_edge.files import atomic_write, make_folder
    from qdr_export import tables
    from qdr_export.bundle_parity import compare_bundle
    from qdr_export.parity import Limits
    from qdr_export.parity_page import render
    from qdr_export.pipeline import as_json, gate_error

    console = Console(highlight=False)
    for file, option in ((json, "--json"), (html, "--html")):
        if file is not None:
            make_folder(file.parent, fix=f"name another file with {option}")
    verified = read_bundle(bundle, allow_unsigned=allow_unsigned)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("comparing", total=None)
        compared = compare_bundle(
            verified,
            data=data,
            targets=target or (),
            limits=Limits(flips=max_flips / 100, drop=max_drop),
            threads=threads,
            begin=lambda images: bars.update(task, total=images),
            advance=lambda images: bars.advance(task, images),
        )
    counts = ", ".join(f"{count} {kind} images" for kind, count in compared.images.items())
    title = f"{verified.manifest.bundle_id}: parity with its integer reference, {counts}"
    tables.print_ladder(console, title, compared.report)
    if compared.equal_maps:
        equal = ", ".join(
            f"{name} {count}/{compared.map_images}" for name, count in compared.equal_maps.items()
        )
        console.print(f"  maps bit-equal to the reference's: {equal}", markup=False)
    document = compared.document(verified)
    if json is not None:
        atomic_write(json, as_json(document))
    if html is not None:
        atomic_write(html, render(document))
    for file in (json, html):
        if file is not None:
            console.print(f"written: {file}", markup=False)
    if compared.report.failures:
        fix = "do not use a target that fails; --json lists every exception"
        raise gate_error(compared.report, bundle, fix)
