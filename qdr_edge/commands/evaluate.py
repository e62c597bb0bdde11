"""`qdr-edge evaluate`: how well what ships answers, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from qdr_edge.evaluation.subject import Subject

_LEVELS = ("image", "eye", "patient", "all")
_SPLITS = ("test", "val", "train", "all")


def evaluate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|BUNDLE", help="Run directory, stage folder or .qdr.")
    ],
    split: Annotated[str, typer.Option(help=f"One of {', '.join(_SPLITS)}.")] = "test",
    data: Annotated[
        Path | None,
        typer.Option(help="CSV of labelled images; default: the data.csv of the bundle's run."),
    ] = None,
    level: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(_LEVELS)}; repeatable; image.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Subgroups by a column of the table; repeatable. age:40,60 sets bins of numbers."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Which artefact of a bundle; the first that runs here.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Which stage of a run; default: every student.")
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, max=100_000, help="Bootstrap resamples; 0 for no intervals.")
    ] = 1000,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Open a bundle that nobody signed.")
    ] = False,
) -> None:
    """Evaluate the int8 network, its float form beside it; docs/evaluation.md explains it all.

    A run's own recorded answers need no runtime; a bundle screens every image as a device does.
    Each evaluation is recorded in RUN/evaluations.jsonl, so that looks at a test split are counted.
    """
    from rich.console import Console

    from qdr_edge.errors import BackendError
    from qdr_edge.evaluation import ledger, tables
    from qdr_edge.evaluation.document import evaluate_subject
    from qdr_edge.evaluation.levels import LEVELS

    _check("--split", [split], _SPLITS)
    _check("--level", level or [], _LEVELS)
    chosen = level or ["image"]
    levels = LEVELS if "all" in chosen else tuple(name for name in LEVELS if name in chosen)
    console = Console(highlight=False)
    columns = tuple(dict.fromkeys(by or ()))
    is_bundle = source.is_file() and source.suffix != ".json"
    _check_options(is_bundle, {"--data": data, "--target": target}, {"--student": student})
    if json is not None:
        _check_writable(json)

    with _progress(console) as (advance, step):
        if is_bundle:
            from qdr_edge.evaluation.device import open_bundle

            subjects: list[Subject] = [
                open_bundle(
                    source,
                    split,
                    data=data,
                    target=target,
                    threads=threads,
                    allow_unsigned=allow_unsigned,
                    advance=advance,
                )
            ]
        else:
            from qdr_edge.evaluation.subject import open_run

            subjects = open_run(source, split, student)
        documents = []
        for subject in subjects:
            document = evaluate_subject(
                subject, levels, columns, resamples=resamples, step=step(subject.name)
            )
            # Recorded before a figure is shown: a look that leaves no trace is not a look.
            document["evaluated_before"] = ledger.record(subject, levels, columns)
            documents.append(document)
    tables.print_all(console, documents)
    if json is not None:
        _write(json, documents)
        console.print(f"written: {json}", markup=False)
    if any("FAULT" in document["gate"]["rejected"] for document in documents):
        raise typer.Exit(BackendError.exit_code)


def _check(option: str, given: list[str], allowed: tuple[str, ...]) -> None:
    for value in given:
        if value not in allowed:
            raise typer.BadParameter(f"{option} {value}: expected one of {', '.join(allowed)}")


def _check_options(
    is_bundle: bool, of_bundles: dict[str, object], of_runs: dict[str, object]
) -> None:
    wrong = of_runs if is_bundle else of_bundles
    for option, value in wrong.items():
        if value is not None:
            raise typer.BadParameter(
                f"{option} is for runs: a bundle holds one student"
                if is_bundle
                else f"{option} is for bundles: a run's answers are recorded; export it first"
            )


def _check_writable(path: Path) -> None:
    from qdr_edge.files import make_folder

    make_folder(path.parent, fix="name another file with --json")


def _write(path: Path, documents: list[dict[str, Any]]) -> None:
    import json

    from qdr_edge.evaluation.document import as_file
    from qdr_edge.files import atomic_write

    text = json.dumps(as_file(documents), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text + "\n")


@contextmanager
def _progress(
    console: Console,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], Callable[[str], None]]]]:
    """Where images done and steps are shown; gone when all is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("verifying", total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, description="screening", completed=done, total=total)

        def step(name: str) -> Callable[[str], None]:
            return lambda line: bars.update(task, description=f"{name}: figures, {line}")

        yield advance, step
