"""What export and lint show people: progress, tables, and the words around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from qdr_edge.keys import DevelopmentKey
from qdr_edge.metrics import Estimate
from qdr_export.lint import Finding
from qdr_export.map_evidence import WITHOUT_MAPS, MapEvidence
from qdr_export.parity import FAILED, GATES, ROUNDING_STEPS, UNAVAILABLE, UNSURE, ParityReport, Rung
from qdr_export.pipeline import Exported, Progress
from qdr_export.run_folder import Student

# Exceptions shown on the terminal; the parity file has them all.
_SHOWN_FLIPS = 10
_PLACES_SHOWN = 3


@contextmanager
def progress(console: Console, name: str, images: int) -> Iterator[Progress]:
    """A progress bar over the images of one student, with the current step."""
    columns = (
        TextColumn("{task.fields[bundle]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images, {task.description}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=images, bundle=name)
        yield Progress(
            step=lambda line: bars.update(task, description=line),
            advance=lambda count: bars.advance(task, count),
        )


def print_development_key(console: Console, key: DevelopmentKey) -> None:
    """Say that the bundle will be signed by a key that proves nothing to others."""
    if key.created:
        console.print(f"[yellow]A development key was made: {key.path}[/]")
    console.print(
        f"[yellow]Signing with this user's DEVELOPMENT key {key.key.key_id}: it is trusted on this "
        "machine only. For a device, sign with --key FILE.[/]"
    )


def print_parity(console: Console, name: str, student: Student, exported: Exported) -> None:
    """The parity table and the exceptions."""
    validation = student.validation_rows
    print_ladder(
        console,
        f"{name}: parity with the integer reference, {validation} validation and "
        f"{len(student.samples) - validation} test images",
        exported.parity,
    )
    if chosen := student.checkpoint.graph.float_layers:
        console.print(
            f"  in float by the recipe: {', '.join(chosen)}. Float sums differ from runtime to "
            f"runtime, so a logit may be {ROUNDING_STEPS} steps of its range away; decisions must "
            "agree as always.",
            markup=False,
        )
    if exported.maps is not None:
        print_maps(console, exported.maps)
    for target, artefact in exported.emission.artefacts.items():
        if artefact.readback and artefact.readback.float_layers:
            layers = ", ".join(
                f"{x.name} ({x.kernel})" for x in artefact.readback.float_layers[:_SHOWN_FLIPS]
            )
            console.print(f"  {target} executes in float: {layers}", markup=False)


def print_ladder(console: Console, title: str, report: ParityReport) -> None:
    """Every rung, then what a gate found and every exception of those that gate."""
    table = Table(title=title, title_justify="left")
    for column in _LADDER:
        left = column in ("form", "computed by", "gate")
        table.add_column(column, justify="left" if left else "right")
    for rung in report.rungs:
        table.add_row(*_ladder_row(rung))
    console.print(table)
    console.print(f"  a step is the largest reference logit / 127: {report.logit_step:.4g}")
    for rung in report.rungs:
        if rung.status == UNAVAILABLE:
            console.print(f"  {rung.name} is unavailable: {rung.reason}", markup=False)
        elif rung.verdict in (FAILED, UNSURE):
            console.print(f"  {rung.name}: {rung.verdict}: {rung.reason}", markup=False)
        if rung.role == GATES:
            for flip in rung.flips[:_SHOWN_FLIPS]:
                console.print(
                    f"  {rung.name} flips {flip.label} of {flip.image}: logit {flip.logit:.6g}, "
                    f"reference {flip.reference_logit:.6g}, threshold {flip.threshold:.6g}",
                    markup=False,
                )


def print_maps(console: Console, maps: MapEvidence) -> None:
    """Where maps equal the reference's, and how like the float network's they are."""
    equal = ", ".join(f"{name} {count}/{maps.images}" for name, count in maps.equal.items())
    agreement = maps.agreement
    console.print(f"  maps bit-equal to the reference's: {equal or 'not run'}; {WITHOUT_MAPS}")
    if agreement.pairs:
        console.print(
            f"  maps of {agreement.pairs} positive labels against the float network's: correlation "
            f"{_estimate(agreement.correlation)}, same or neighbouring peak "
            f"{_estimate(agreement.same_peak)}"
        )


def print_exports(console: Console, exported: Sequence[tuple[Student, Exported]]) -> None:
    """The last table: one line for each artefact, then the files."""
    table = Table(title="Exported", title_justify="left")
    for column in ("bundle", "target", "bytes", "of float", "int8 MACs", "parity", "flips"):
        justify: Literal["left", "right"] = "right" if column in _NUMERIC else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for _, result in exported:
        for name, artefact in result.emission.artefacts.items():
            rung = result.parity.rung(name)
            size = len(artefact.model)
            share = artefact.readback.int8_share if artefact.readback else None
            table.add_row(
                result.bundle.stem,
                name,
                f"{size:,}",
                f"{100 * size / len(result.emission.float_twin):.1f} %",
                "not read" if share is None else f"{100 * share:.2f} %",
                _verdict(rung),
                "-" if rung.status == UNAVAILABLE else str(len(rung.flips)),
            )
    console.print(table)
    for student, result in exported:
        proof = "proven" if result.proven else "UNPROVEN"
        synthetic = ", trained on synthetic images" if student.checkpoint.synthetic else ""
        console.print(f"{result.bundle}  sha256 {result.sha256[:16]}…  {proof}{synthetic}")
        console.print(
            f"  mAP on validation: int8 {_estimate(result.point.evaluation.map)}, float "
            f"{_estimate(result.point.float_evaluation.map)}, difference (paired) "
            f"{_estimate(result.point.difference)}; chance {result.point.evaluation.chance_map:.3f}"
        )
        console.print(f"  thresholds fitted for {result.point.fit.target.text}", markup=False)
        for label in result.point.missed:
            why = (
                f"{label.positives} positive validation images of {label.patients} patients show "
                f"no more than {label.lower_bound:.3f}; its threshold catches them all"
                if label.positives
                else "no positive validation image; it never fires"
            )
            console.print(f"  [yellow]{label.code}: not reached[/], {why}")
        beside = (result.float_twin, result.parity_file, result.page)
        console.print(f"  beside it: {', '.join(path.name for path in beside)}")
    first = exported[0][1].bundle
    console.print(f"next: qdr-edge run {first} IMAGE, qdr-edge bench {first}")


def print_findings(console: Console, model: Path, target: str, findings: Sequence[Finding]) -> None:
    """One line for each broken rule, with its explanation and mend."""
    if not findings:
        console.print(f"{model}: keeps every rule of {target}", markup=False)
        return
    table = Table(title=f"{model.name}: rules of {target} that it breaks", title_justify="left")
    for column in ("rule", "severity", "where", "why it matters", "mend"):
        table.add_column(column)
    counts = Counter(finding.rule for finding in findings)
    for rule, count in counts.items():
        broken = [finding for finding in findings if finding.rule == rule]
        places = [f"{finding.place}: {finding.what}" for finding in broken[:_PLACES_SHOWN]]
        if count > _PLACES_SHOWN:
            places.append(f"and {count - _PLACES_SHOWN} more")
        first = broken[0]
        table.add_row(rule, first.severity, "\n".join(places), first.explanation, first.mend)
    console.print(table)


_NUMERIC = ("flips", "bytes", "of float", "int8 MACs")
_LADDER = ("form", "computed by", "bit-equal", "logits ≠", "max steps", "flips", "ΔmAP pts", "gate")


def _ladder_row(rung: Rung) -> tuple[str, ...]:
    if rung.status == UNAVAILABLE:
        return (rung.name, "unavailable", "-", "-", "-", "-", "-", "not run")
    return (
        rung.name,
        rung.runtime,
        f"{rung.exact}/{rung.images}",
        f"{100 * rung.unequal:.3g} %",
        f"{rung.steps:.2g}",
        str(len(rung.flips)),
        _points(rung.map_difference),
        rung.verdict or "informs",
    )


def _points(difference: Estimate | None) -> str:
    if difference is None:
        return "-"
    if difference.value == difference.low == difference.high == 0:
        return "0"
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.value:+.2f} ({low:+.2f} to {high:+.2f})"


def _verdict(rung: Rung) -> str:
    if rung.status == UNAVAILABLE:
        return "not run"
    if rung.exact == rung.images:
        return "bit-equal"
    return "same decisions" if not rung.flips else "FLIPS"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
