"""What the image-quality gate stops and what it lets through: ``python benchmarks/gate.py``.

Graded synthetic images are drawn in memory, four grades of every eye; limits are fitted on the
gradable images of one half of the patients and everything is counted on the other half. With
``--real DIR`` the same is done for the photographs and scans of every CSV table in a folder.
Shares come with exact (Clopper-Pearson) 95 % intervals, AUC with a bootstrap by patient.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from qdr_bench.statistics import exact_interval
from qdr_bench.strangers import STRANGERS, stranger
from qdr_edge.errors import QdrError
from qdr_edge.files import atomic_write
from qdr_edge.gate import (
    GateFeatures,
    GateLimits,
    GateResult,
    default_limits,
    fit_limits,
    judge,
    measure,
)
from qdr_edge.metrics import roc_auc
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import MODALITIES, Sample, read_csv
from qdr_train.synth.dataset import render
from qdr_train.synth.patients import EyePlan, Shot, plan_patient
from qdr_train.synth.writer import encode_jpeg

SEED = 20_260
GRADES = (0, 1, 2, 3)
UNGRADABLE = 3
RESAMPLES = 400


@dataclass(frozen=True)
class Seen:
    """One image, measured as what it is and as if it were of the other modality.

    Args:
        modality: What it is.
        patient: Patient id.
        grade: 0 (good) .. 3 (ungradable), None where nobody graded it.
        own: Features for its own modality.
        other: Features after the preprocessing of the other modality.
        name: File name; "" for a drawn image.
    """

    modality: str
    patient: str
    grade: int | None
    own: GateFeatures
    other: GateFeatures
    name: str = ""


Judge = Callable[[GateFeatures, str], GateResult]


def main() -> int:
    """Measure, print; return 1 if an image of the other modality or no retina was let through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder with CSV tables of real images")
    parser.add_argument(
        "--patients", type=int, default=126, help="synthetic patients, two eyes each"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    parser.add_argument("--rate", type=float, default=0.02, help="share of gradable ones to reject")
    parser.add_argument("--strangers", type=int, default=50, help="pictures of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.quick:
        options.patients, options.strangers = 12, 5
    console = Console(width=120)
    report: dict[str, Any] = {"size": options.size, "rate": options.rate, "seed": SEED}
    drawn = synthetic(options.patients, options.size, options.workers)
    report["graded"] = graded(drawn, options.rate, console)
    let_through = cross(drawn, "synthetic", options.rate, console, report)
    let_through += strangers(options.strangers, options.size, drawn, options.rate, console, report)
    if options.real is not None:
        photographs = real(options.real, options.size)
        report["real"] = ungraded(photographs, options.rate, console)
        let_through += cross(photographs, "real", options.rate, console, report)
    if options.json is not None:
        atomic_write(options.json, json.dumps(report, indent=1) + "\n")
    return 1 if let_through else 0


def synthetic(patients: int, size: int, workers: int) -> list[Seen]:
    """Every eye in every grade and both modalities, measured; the same for any workers."""
    draw = partial(_patient, size=size)
    if workers == 1:
        return [seen for index in range(patients) for seen in draw(index)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return [seen for some in pool.imap(draw, range(patients)) for seen in some]


def _patient(index: int, size: int) -> list[Seen]:
    cv2.setNumThreads(1)
    plan = plan_patient(SEED, index)
    return [
        _drawn(index, eye, Shot(modality, grade + 1, grade), size)
        for eye in plan.eyes
        for modality in MODALITIES
        for grade in GRADES
    ]


def _drawn(patient: int, eye: EyePlan, shot: Shot, size: int) -> Seen:
    # Twice the network's size, as the decoder leaves it of a camera's photograph.
    picture = render(SEED, patient, eye, shot, 2 * size)
    pixels: Any = picture.pixels
    if picture.jpeg_quality:
        pixels = encode_jpeg(pixels, picture.jpeg_quality, "synthetic")
    own, other = _features(pixels, shot.modality, size)
    return Seen(shot.modality, f"p{patient}", shot.quality, own, other)


def _features(source: Any, modality: str, size: int) -> tuple[GateFeatures, GateFeatures]:
    own, other = (
        measure(load_image(source, PreprocessSpec(kind, size)), kind)
        for kind in (modality, _other(modality))
    )
    return own, other


def _other(modality: str) -> str:
    return next(kind for kind in MODALITIES if kind != modality)


def real(folder: Path, size: int) -> list[Seen]:
    """The images of every table in a folder, measured."""

    def one(sample: Sample) -> Seen:
        own, other = _features(sample.file, sample.modality, size)
        name = sample.file.name
        return Seen(sample.modality, sample.patient, None, own, other, name)

    return [one(sample) for table in sorted(folder.glob("*.csv")) for sample in read_csv(table)]


def halves(images: Sequence[Seen]) -> tuple[list[Seen], list[Seen]]:
    """To fit on and to count on, by patient."""
    patients = sorted({image.patient for image in images})
    order = np.random.default_rng(SEED).permutation(len(patients))
    fit = {patients[i] for i in order[: len(patients) // 2]}
    return [i for i in images if i.patient in fit], [i for i in images if i.patient not in fit]


def both_limits(fit: Iterable[Seen], modality: str, rate: float) -> dict[str, GateLimits]:
    """The default limits, and those fitted on gradable images."""
    gradable = [image.own for image in fit if image.grade != UNGRADABLE]
    return {
        "default": default_limits(modality),
        f"fitted, n = {len(gradable)}": fit_limits(gradable, modality, rate),
    }


def graded(images: Sequence[Seen], rate: float, console: Console) -> list[dict[str, Any]]:
    """Rejected share of each grade, and how well the margin tells ungradable from gradable."""
    table = _table("Graded synthetic images, evaluation half", "modality", "limits", "grade")
    table.add_column("rejected", justify="right")
    table.add_column("AUC of the margin", justify="right")
    rows = []
    for modality in MODALITIES:
        fit, rest = halves([image for image in images if image.modality == modality])
        for name, limits in both_limits(fit, modality, rate).items():
            results = [judge(image.own, modality, limits) for image in rest]
            margins = np.array([result.margin for result in results])
            bad = np.array([image.grade == UNGRADABLE for image in rest])
            rejected = [
                _count(r for r, i in zip(results, rest, strict=True) if i.grade == grade)
                for grade in GRADES
            ]
            gradable = _count(r for r, i in zip(results, bad, strict=True) if not i)
            auc = _auc(margins, bad, [image.patient for image in rest])
            rows.append(
                {"modality": modality, "limits": name, "rejected_by_grade": rejected,
                 "rejected_gradable": gradable, "auc": auc}
            )  # fmt: skip
            for grade, count in zip(GRADES, rejected, strict=True):
                table.add_row(modality, name, str(grade), _share(*count))
            shown = f"{auc[0]:.4f} ({auc[1]:.4f}–{auc[2]:.4f})"
            table.add_row(modality, name, "0–2", _share(*gradable), shown, end_section=True)
    console.print(table)
    return rows


def ungraded(images: Sequence[Seen], rate: float, console: Console) -> list[dict[str, Any]]:
    """Rejected share of real images, and why."""
    table = _table("Real images: rejected, evaluation half", "modality", "limits")
    table.add_column("rejected", justify="right")
    table.add_column("most frequent reasons")
    rows = []
    for modality in MODALITIES:
        fit, rest = halves([image for image in images if image.modality == modality])
        for name, limits in both_limits(fit, modality, rate).items():
            results = [judge(image.own, modality, limits) for image in rest]
            reasons = Counter(r.reason.split(" (")[0] for r in results if r.outcome is not None)
            count = _count(results)
            worst = sorted(zip(results, rest, strict=True), key=lambda pair: pair[0].margin)
            rows.append(
                {"modality": modality, "limits": name, "rejected": count,
                 "reasons": dict(reasons), "worst": [image.name for _, image in worst[:20]]}
            )  # fmt: skip
            why = "; ".join(f"{reason} {n}" for reason, n in reasons.most_common(4))
            table.add_row(modality, name, _share(*count), why)
    console.print(table)
    return rows


def cross(
    images: Sequence[Seen], kind: str, rate: float, console: Console, report: dict[str, Any]
) -> int:
    """Images offered as the other modality, under default and fitted limits."""
    table = _table(f"Offered as the other modality, {kind}", "picture", "offered as", "limits")
    table.add_column("let through", justify="right")
    table.add_column("nearest margin", justify="right")
    rows, passed = [], 0
    for modality in MODALITIES:
        offered = [image for image in images if image.modality == modality]
        target = _other(modality)
        # Limits come from all images of the target: the widest a user could get.
        fitting = [image for image in images if image.modality == target]
        for name, limits in both_limits(fitting, target, rate).items():
            results = [judge(image.other, target, limits) for image in offered]
            through = sum(result.outcome is None for result in results)
            passed += through
            rows.append([modality, target, name, through, len(results)])
            nearest = max((r.margin for r in results), default=float("nan"))
            table.add_row(modality, target, name, _share(through, len(results)), f"{nearest:.2f}")
    console.print(table)
    report[f"cross_{kind}"] = rows
    return passed


def strangers(
    each: int,
    size: int,
    images: Sequence[Seen],
    rate: float,
    console: Console,
    report: dict[str, Any],
) -> int:
    """Pictures that are no retina."""
    table = _table("No retina: let through, under either limits", "picture")
    for modality in MODALITIES:
        table.add_column(f"as {modality}", justify="right")
    rows, passed = [], 0
    limits = {
        modality: both_limits([i for i in images if i.modality == modality], modality, rate)
        for modality in MODALITIES
    }
    for kind in STRANGERS:
        cells = []
        for modality in MODALITIES:
            spec = PreprocessSpec(modality, size)
            features = [
                measure(load_image(stranger(kind, seed), spec), modality) for seed in range(each)
            ]
            through = sum(
                any(judge(f, modality, some).outcome is None for some in limits[modality].values())
                for f in features
            )
            passed += through
            rows.append([kind, modality, through, each])
            cells.append(_share(through, each))
        table.add_row(kind, *cells)
    console.print(table)
    report["strangers"] = rows
    return passed


def _count(results: Iterable[GateResult]) -> tuple[int, int]:
    rejected = [result.outcome is not None for result in results]
    return sum(rejected), len(rejected)


def _auc(margins: np.ndarray, bad: np.ndarray, patients: list[str]) -> tuple[float, float, float]:
    """AUC of the margin for gradable against ungradable, with a bootstrap by patient."""
    rows = {p: np.flatnonzero([q == p for q in patients]) for p in dict.fromkeys(patients)}
    names, random = list(rows), np.random.default_rng(SEED)
    found = []
    for _ in range(RESAMPLES):
        picked = np.concatenate(
            [rows[names[i]] for i in random.integers(0, len(names), len(names))]
        )
        found.append(roc_auc(margins[picked], ~bad[picked]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(roc_auc(margins, ~bad)), float(low), float(high)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _share(count: int, n: int) -> str:
    if not n:
        return "–"
    low, high = exact_interval(count, n)
    return f"{count}/{n} = {count / n:.1%} ({low:.1%}–{high:.1%})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QdrError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
