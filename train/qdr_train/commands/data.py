"""`qdr-edge data`: make data sets, look into them, split them by patient."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from qdr_edge.samples import SampleSet
    from qdr_train.recipe import Data

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make and check data sets.")

_Source = Annotated[Path, typer.Argument(help="CSV file or folder; see docs/datasets.md.")]
_Labels = Annotated[
    str | None, typer.Option(help="Name of a label set, or codes separated by commas.")
]
_Modality = Annotated[
    str | None, typer.Option(help="fundus or oct, for class folders that do not tell.")
]


@app.callback()
def data() -> None:
    """Make and check data sets."""


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
    from qdr_train.synth import generate

    with _bar("drawing synthetic eyes") as progress:
        table = generate(out, patients, seed, size, workers=workers, progress=progress)
    typer.echo(f"SYNTHETIC data set: {table}")


@app.command()
def check(
    source: _Source,
    labels: _Labels = None,
    modality: _Modality = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image as well.")] = False,
) -> None:
    """Show what a data set holds and what is wrong with it: leaks, doubles, damaged images."""
    from rich.console import Console

    from qdr_edge.errors import DatasetError
    from qdr_train.data.check import check_data
    from qdr_train.data.dicom import survey
    from qdr_train.data.read import DICOM, recognise

    console = Console(highlight=False)
    if recognise(source) is DICOM:
        lines, problems = survey(source)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
        _print_problems(problems, console)
        DICOM.read(source, None)  # always refuses, and says why
    with _bar("reading images") as progress:
        report = check_data(
            source,
            _data(labels).label_set(),
            _modalities(modality),
            decoded=decode,
            progress=progress,
        )
    _print_report(report.layout, report.samples, console)
    if report.problems:
        _print_problems(report.problems, console)
        raise DatasetError(
            f"{len(report.problems)} problems, see above",
            where=str(source),
            expected="none",
            fix="training results would not hold with them",
        )
    console.print("no problem found" if decode else "no problem found; --decode tries each image")


@app.command()
def split(
    source: _Source,
    out: Annotated[Path, typer.Option(help="CSV file to write; must not exist.")],
    seed: Annotated[int, typer.Option(help="Same seed, same split.")] = 0,
    shares: Annotated[
        str, typer.Option(help="Shares of patients for train, val and test.")
    ] = "0.7,0.15,0.15",
    anew: Annotated[bool, typer.Option("--anew", help="Ignore the split that is there.")] = False,
    labels: _Labels = None,
    modality: _Modality = None,
) -> None:
    """Write a data set as a CSV whose every row has a split; patients are kept apart."""
    from rich.console import Console

    from qdr_edge.errors import OutputError
    from qdr_edge.samples import write_csv
    from qdr_train.data.read import read_data, recognise
    from qdr_train.data.splits import split_samples

    if out.exists():
        raise OutputError("is there already", where=str(out), fix="name another with --out")
    rules = _data(labels, shares)
    samples = read_data(source, rules.label_set(), _modalities(modality), keep_splits=not anew)
    samples, note = split_samples(samples, rules, seed)
    write_csv(out, samples)
    console = Console(highlight=False)
    _print_report(recognise(source).name, samples, console)
    console.print(note or "the split of the data was kept; --anew makes another", markup=False)
    codes = ",".join(samples.labels.codes)
    exclusive = str(samples.labels.exclusive).lower()
    typer.echo(
        f"table: {out}; train with --data {out} --set data.labels='[{codes}]' "
        f"--set data.exclusive={exclusive}"
    )


@app.command()
def table(
    source: Annotated[Path, typer.Argument(help="Folder with DICOM files.")],
    out: Annotated[Path, typer.Option(help="CSV file to write; must not exist.")],
) -> None:
    """Write a CSV with a row for each DICOM frame, for you to fill in the labels."""
    from qdr_edge.errors import OutputError
    from qdr_edge.files import atomic_write
    from qdr_train.data.dicom import label_table

    if out.exists():
        raise OutputError("is there already", where=str(out), fix="name another with --out")
    text, rows = label_table(source)
    atomic_write(out, text)
    typer.echo(f"{rows} rows: {out}; fill in the column labels, and whatever else is empty")


def _data(labels: str | None, shares: str = "0.7,0.15,0.15") -> Data:
    from pydantic import ValidationError

    from qdr_edge.labels import LabelSet
    from qdr_train.recipe import Data

    codes: object = labels
    if labels is not None and "," in labels:
        codes = [code.strip() for code in labels.split(",")]
    elif labels is not None:
        LabelSet.named(labels)
    try:
        return Data.model_validate(
            {"labels": codes, "shares": [float(share) for share in shares.split(",")]}
        )
    except (ValidationError, ValueError) as error:
        raise typer.BadParameter(
            "three numbers that add up to 1, train and val above 0", param_hint="--shares"
        ) from error


def _modalities(modality: str | None) -> tuple[str, ...]:
    from qdr_edge.samples import MODALITIES

    if modality is None:
        return ()
    if modality not in MODALITIES:
        raise typer.BadParameter("fundus or oct", param_hint="--modality")
    return (modality,)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

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
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_problems(problems: Sequence[str], console: Console) -> None:
    for problem in problems:
        console.print(f"problem: {problem}", style="red", markup=False, soft_wrap=True)


def _print_report(layout: str, samples: SampleSet, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from qdr_train.data.check import parts

    found = parts(samples)
    console.print(f"{layout}: {samples.source}", markup=False, soft_wrap=True)
    for note in samples.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    images = Table(box=None, padding=(0, 2))
    for column in ("modality", "split", "images", "patients", "eyes", "eye unknown"):
        images.add_column(column, justify="left" if column in ("modality", "split") else "right")
    for part in found:
        numbers = (part.images, part.patients, part.eyes, part.unknown_eyes)
        images.add_row(part.modality, part.split or "none", *map(str, numbers))
    console.print(images)
    kind = "each image has one" if samples.labels.exclusive else "an image may have several"
    labels = Table(title=f"labels, {kind}", title_justify="left", box=None, padding=(0, 2))
    labels.add_column("label")
    for part in found:
        labels.add_column(f"{part.modality} {part.split}".strip(), justify="right")
    for row, code in enumerate(samples.labels.codes):
        labels.add_row(Text(code), *(str(part.labels[row]) for part in found))
    console.print(labels)
