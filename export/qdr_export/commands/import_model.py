"""`qdr-edge import`: another tool's QDQ ONNX file becomes a run that export takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qdr_edge.labels import LabelSet
    from qdr_edge.metrics import Estimate
    from qdr_export.importer.findings import Normalisation, Problem
    from qdr_export.importer.pixels import MeanStd
    from qdr_export.importer.proof import Proof

Colours = tuple[float, float, float]
_PLACES_SHOWN = 3


def import_onnx(
    model: Annotated[Path, typer.Argument(help="A QDQ ONNX file of any tool.")],
    data: Annotated[Path, typer.Option(help="CSV of images, with split val.")],
    labels: Annotated[
        str, typer.Option(help="A label set, e.g. TOPCON-MM, or codes in logit order: NOR,AMD,DR.")
    ],
    modality: Annotated[str, typer.Option(help="fundus or oct.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    mean: Annotated[
        Colours | None, typer.Option(help="Three means in pixel/255 its float input is made with.")
    ] = None,
    std: Annotated[
        Colours | None,
        typer.Option(help="Three deviations in pixel/255 its float input is made with."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Image side in pixels, where the file leaves it open.")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Each image carries exactly one of the labels.")
    ] = False,
    calibrate: Annotated[
        int,
        typer.Option(
            min=0, help="Quantize tensors that the file leaves in float, by this many images."
        ),
    ] = 0,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(help="KEY=NUMBER of the preprocessing, e.g. clahe_clip_x100=1; repeatable."),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="It was trained on synthetic images.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the run; the folder's.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Check, normalise and prove another tool's QDQ file; docs/import.md explains it all."""
    from rich.console import Console

    from qdr_export.importer.findings import UnsupportedModelError
    from qdr_export.importer.run import Request, import_model

    console = Console(highlight=False)
    request = Request(
        model,
        data,
        _labels(labels, exclusive=exclusive),
        modality,
        _mean_std(mean, std),
        size,
        _numbers(preprocess or []),
        calibrate,
        synthetic,
    )
    try:
        with console.status("reading the file") as status:
            made = import_model(request, out, name=name or "", threads=threads, step=status.update)
    except UnsupportedModelError as error:
        if len(error.problems) > 1:
            print_problems(console, model, error.problems)
        raise
    print_normalisations(console, made.normalisations)
    print_proof(console, made.proof)
    scheme = made.checkpoint.scheme.name if made.checkpoint.scheme else "float"
    console.print(f"imported: {out}, scheme {scheme}; next: qdr-edge export {out}", markup=False)


def print_problems(console: Console, model: Path, problems: Sequence[Problem]) -> None:
    """Every rule the file breaks."""
    from rich.table import Table

    table = Table(title=f"{model.name} cannot be imported", title_justify="left")
    for column in ("where", "found", "expected", "mend"):
        table.add_column(column, overflow="fold")
    for problem in problems:
        table.add_row(problem.place, problem.found, problem.expected, problem.mend)
    console.print(table, markup=False)
    console.print(f"the rules of a target: qdr-edge lint {model}", markup=False)


def print_normalisations(console: Console, made: Sequence[Normalisation]) -> None:
    """What the checkpoint says otherwise than the file, by rule."""
    from rich.table import Table

    if not made:
        console.print("nothing had to be normalised")
        return
    table = Table(title="Normalised", title_justify="left")
    for column in ("rule", "numbers", "what"):
        table.add_column(column, overflow="fold")
    for rule, count in Counter(entry.rule for entry in made).items():
        some = [entry for entry in made if entry.rule == rule]
        lines = [f"{entry.place}: {entry.what}" for entry in some[:_PLACES_SHOWN]]
        if count > _PLACES_SHOWN:
            lines.append(f"and {count - _PLACES_SHOWN} more; checkpoint.json names all")
        kept = all(entry.exact for entry in some)
        table.add_row(rule, "kept" if kept else "change", "\n".join(lines))
    console.print(table, markup=False)


def print_proof(console: Console, proof: Proof) -> None:
    """The original beside the reference."""
    console.print(
        f"against the original in ONNX Runtime, {proof.images} images: {proof.exact} bit-equal, "
        f"largest difference of a logit {proof.largest:.3g} "
        f"({proof.largest / proof.step if proof.step else 0:.2g} steps of its range / 127), "
        f"{100 * proof.share:.2f} % of logits beyond half a step, "
        f"{proof.flips} of {proof.decisions} decisions at 0 flip",
        markup=False,
    )
    console.print(
        f"mAP on validation: original {_text(proof.source.map)}, imported "
        f"{_text(proof.reference.map)}, difference (paired) {_text(proof.difference)}",
        markup=False,
    )


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _labels(text: str, *, exclusive: bool) -> LabelSet:
    from qdr_edge.labels import LabelSet

    if "," in text:
        codes = [code.strip() for code in text.split(",") if code.strip()]
        return LabelSet.custom(codes, exclusive=exclusive)
    return LabelSet.named(text)


def _mean_std(mean: Colours | None, std: Colours | None) -> MeanStd | None:
    from qdr_export.importer.pixels import MeanStd

    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise typer.BadParameter("--mean and --std belong together", param_hint="--mean, --std")
    return MeanStd(mean, std)


def _numbers(settings: Sequence[str]) -> dict[str, int]:
    numbers = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not value.lstrip("-").isdigit():
            raise typer.BadParameter(f"{setting!r} is not KEY=NUMBER", param_hint="--preprocess")
        numbers[key] = int(value)
    return numbers
