"""`qdr-edge run`: screen images with a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qdr_edge.decision import Decision
    from qdr_edge.screener import Screener
    from qdr_edge.self_test import Look


def run(
    bundle: Annotated[Path, typer.Argument(help="The .qdr bundle.")],
    images: Annotated[list[Path], typer.Argument(help="Fundus photographs or OCT B-scans.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    target: Annotated[
        str | None, typer.Option(help="Which artefact to run; default: the first that runs here.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures of where each positive label was seen: IMAGE-LABEL.png."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 means every core.")] = 0,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Open a bundle that nobody signed.")
    ] = False,
) -> None:
    """Screen images with a bundle and print a decision for each.

    Exit code 0 if at least one image was read; 3 if every one is INVALID_INPUT; 10 on a FAULT.
    """
    from time import perf_counter

    from qdr_edge.screener import load

    with load(bundle, target=target, threads=threads, allow_unsigned=allow_unsigned) as screener:
        if maps is not None:
            _prepare(maps, screener)
        results = []
        written = 0
        for position, image in enumerate(images):
            start = perf_counter()
            look = screener.look(image, maps=maps is not None)
            results.append((image, look.decision, (perf_counter() - start) * 1000))
            if maps is not None:
                written += _write_maps(maps, image, look, images[:position])
        if json:
            _print_json(screener, results)
        else:
            _print_table(screener, results)
            if maps is not None:
                print(f"{written} maps written to {maps}")
    _exit(results)


def _prepare(folder: Path, screener: Screener) -> None:
    """Fail before the first image, not at the first finding."""
    from qdr_edge.errors import BackendError
    from qdr_edge.files import make_folder

    if not screener.has_maps:
        raise BackendError(
            "no class activation maps",
            where=f"{screener.bundle.name}: target {screener.target}",
            expected="an artefact exported with maps",
            fix="export with `--maps`, or choose an ONNX Runtime or OpenVINO --target",
        )
    make_folder(folder, fix="name another folder with --maps")


def _write_maps(folder: Path, image: Path, look: Look, earlier: Sequence[Path]) -> int:
    """Write a picture for each positive label; images of one name get a number."""
    from qdr_edge.files import atomic_write
    from qdr_edge.overlay import overlay

    if look.maps is None or look.pixels is None:
        return 0
    same = sum(other.stem == image.stem for other in earlier)
    stem = f"{image.stem}~{same}" if same else image.stem
    codes = [label.code for label in look.decision.labels]
    for finding in look.decision.findings:
        picture = overlay(look.pixels, look.maps[codes.index(finding.code)])
        atomic_write(folder / f"{stem}-{finding.code}.png", picture)
    return len(look.decision.findings)


def _exit(results: list[tuple[Path, Decision, float]]) -> None:
    from qdr_edge.decision import Outcome
    from qdr_edge.errors import BackendError, ImageError

    outcomes = {decision.outcome for _, decision, _ in results}
    if Outcome.FAULT in outcomes:
        raise typer.Exit(BackendError.exit_code)
    if outcomes == {Outcome.INVALID_INPUT}:
        raise typer.Exit(ImageError.exit_code)


def _print_json(screener: Screener, results: list[tuple[Path, Decision, float]]) -> None:
    from qdr_edge.commands.show import print_json

    manifest = screener.bundle.manifest
    document: dict[str, Any] = {
        "bundle": str(screener.bundle.path),
        "bundle_id": manifest.bundle_id,
        "bundle_sha256": screener.bundle.sha256,
        "signed_by": screener.bundle.key_id,
        "synthetic": manifest.synthetic,
        "proven": manifest.proven,
        "target": screener.target,
        "backend": f"{screener.session.backend} {screener.session.version}",
        "threads": screener.session.threads,
        "results": [
            {"image": str(image), "ms": round(ms, 2), **decision.to_dict()}
            for image, decision, ms in results
        ],
    }
    print_json(document)


def _print_table(screener: Screener, results: list[tuple[Path, Decision, float]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qdr_edge.commands.show import (
        SYNTHETIC_NOTICE,
        UNPROVEN_NOTICE,
        UNSIGNED_NOTICE,
        printable,
    )
    from qdr_edge.labels import NORMAL

    styles = {"POSITIVE": "bold red", "NEGATIVE": "green", "FAULT": "bold magenta"}
    manifest = screener.bundle.manifest
    table = Table(title=printable(f"{manifest.bundle_id} on {screener.target}"))
    table.add_column("image", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("findings (probability) or reason", overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    for image, decision, ms in results:
        findings = ", ".join(
            f"{label.code} {label.probability:.2f}"
            for label in decision.findings
            if label.code != NORMAL
        )
        outcome = decision.outcome.value
        table.add_row(
            Text(printable(image.name)),
            Text(outcome, style=styles.get(outcome, "yellow")),
            Text(printable(findings or decision.reason or "no finding")),
            f"{ms:.1f}",
        )
    console = Console()
    console.print(table)
    if manifest.synthetic:
        console.print(SYNTHETIC_NOTICE, style="yellow")
    if screener.bundle.key_id is None:
        console.print(UNSIGNED_NOTICE, style="yellow")
    if not manifest.proven:
        console.print(UNPROVEN_NOTICE, style="yellow")
    console.print("Research software, not a medical device.", style="dim")
