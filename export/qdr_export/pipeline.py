"""Export of one student: emit, run, freeze the operating point, compare, seal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import ParityError
from qdr_edge.files import atomic_write, make_folder
from qdr_edge.keys import SigningKey
from qdr_edge.operating_point import Target
from qdr_edge.preprocess import load_image
from qdr_export.emission import Emission, emit_all
from qdr_export.golden import make_golden
from qdr_export.map_evidence import MapEvidence, judge_maps
from qdr_export.operating_point import OperatingPoint, fit_operating_point
from qdr_export.parity import (
    GATES,
    Limits,
    ParityReport,
    Truth,
    compare_rungs,
    computes_integers,
)
from qdr_export.parity_page import render
from qdr_export.profiles import Profile
from qdr_export.reference import Reference
from qdr_export.run_folder import Student
from qdr_export.rungs import open_artefact, run_rungs
from qdr_export.seal import (
    is_proven,
    logit_step,
    read_back_summary,
    seal_student,
    tolerance_steps,
)


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    bundle: Path
    float_twin: Path
    parity_file: Path
    sha256: str
    emission: Emission
    parity: ParityReport
    point: OperatingPoint
    proven: bool
    page: Path
    maps: MapEvidence | None = None


# Validation images that set the range of the maps; more would hardly widen it.
_MAP_IMAGES = 128


@dataclass(frozen=True)
class Progress:
    """Where an export tells what it is doing.

    Args:
        step: Called with a line at the start of each step.
        advance: Called with the number of images done.
    """

    step: Callable[[str], None] = lambda _line: None
    advance: Callable[[int], None] = lambda _images: None


def export_student(
    student: Student,
    profiles: Sequence[Profile],
    *,
    name: str,
    out: Path,
    key: SigningKey,
    operating_target: Target | None = None,
    security_version: int = 0,
    limits: Limits | None = None,
    maps: bool = False,
    force: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Exported:
    """Export and prove a student; its bundle appears last, when everything held.

    Args:
        student: The checkpoint and the images to prove it on.
        profiles: Targets to emit for.
        name: Stem of the files.
        out: Folder; made if missing.
        key: Signs the bundle.
        operating_target: What to fit thresholds and gate for; None takes the recipe's.
        security_version: Rollback counter of the bundle.
        limits: What the gates allow.
        maps: Compute class activation maps as a second output.
        force: Seal in spite of a failed gate; the bundle is then marked unproven.
        threads: Threads of a runtime; 0 takes every core.
        progress: Where to report.

    Raises:
        ParityError: A gate failed. NAME.parity.json has every exception.
        ExportError: The network cannot be expressed for a target, or has no maps.
        OutputError: The folder cannot be written.
    """
    report = progress or Progress()
    make_folder(out)
    report.step("emitting")
    emission = emit_all(student.checkpoint, profiles, _calibration(student) if maps else None)
    report.step("running every form")
    outputs = run_rungs(student, emission, threads=threads, advance=report.advance)
    report.step("fitting the operating point")
    point = fit_operating_point(student, outputs, operating_target)
    report.step("comparing")
    images = [str(sample.file) for sample in student.samples]
    validation = student.samples.select(split="val")
    parity = compare_rungs(
        outputs,
        emission,
        point.rule,
        images,
        exact=computes_integers(student.checkpoint),
        limits=limits,
        truth=Truth(np.arange(len(validation)), validation.targets(), validation.patients()),
    )
    explained = judge_maps(student, outputs, point.rule)
    document = parity_document(name, student, emission, point, parity, explained)
    parity_file, page = out / f"{name}.parity.json", out / f"{name}.parity.html"
    atomic_write(parity_file, as_json(document))
    atomic_write(page, render(document))
    if parity.failures and not force:
        fix = "see the file for every exception; --force seals the bundle marked unproven"
        raise gate_error(parity, parity_file, fix)
    report.step("making golden vectors")
    with ExitStack() as stack:
        reference = Reference(emission.canonical).infer
        targets = dict.fromkeys(emission.artefacts, reference)
        for target, artefact in emission.artefacts.items():
            if artefact.availability.ok:
                session = open_artefact(artefact, threads)
                stack.callback(session.close)
                targets[target] = session.infer
        tolerance = logit_step(outputs) * max(
            tolerance_steps(profile, student.checkpoint) for profile in profiles
        )
        golden = make_golden(student, point.rule, point.limits, reference, targets, tolerance)
    report.step("sealing")
    twin = out / f"{name}.float.onnx"
    atomic_write(twin, emission.float_twin)
    bundle = out / f"{name}.qdr"
    digest = seal_student(
        bundle,
        student,
        emission,
        outputs,
        point,
        parity,
        golden,
        key,
        security_version=security_version,
        maps=explained,
    )
    return Exported(
        bundle=bundle,
        float_twin=twin,
        parity_file=parity_file,
        sha256=digest,
        emission=emission,
        parity=parity,
        point=point,
        proven=is_proven(parity),
        page=page,
        maps=explained,
    )


def _calibration(student: Student) -> NDArray[np.uint8]:
    """Validation images spread evenly over the table, uint8 [n, 3, S, S]."""
    rows = student.validation_rows
    chosen = np.linspace(0, rows - 1, min(rows, _MAP_IMAGES)).astype(int)
    files = [student.samples[int(row)].file for row in chosen]
    return np.stack([load_image(file, student.checkpoint.preprocess) for file in files])


def parity_document(
    name: str,
    student: Student,
    emission: Emission,
    point: OperatingPoint,
    parity: ParityReport,
    maps: MapEvidence | None = None,
) -> dict[str, Any]:
    """NAME.parity.json: every rung, every exception, and what each runtime executes in int8."""
    n = student.validation_rows
    return {
        "format": "qdr-parity",
        "version": 1,
        "made_by": "export",
        "modality": student.checkpoint.modality,
        "synthetic": student.checkpoint.synthetic,
        "proven": is_proven(parity),
        "name": name,
        "images": {"val": n, "test": len(student.samples) - n},
        "rule": point.rule.to_dict(),
        "operating_point": point.fit.to_dict(),
        "bytes": {
            "float": len(emission.float_twin),
            **{target: len(artefact.model) for target, artefact in emission.artefacts.items()},
        },
        "read_back": read_back_summary(emission),
        "evidence": point.evidence(),
        "maps": None if maps is None else maps.to_dict(),
        **parity.to_dict(),
    }


def as_json(document: Mapping[str, Any]) -> bytes:
    """The bytes of a parity document."""
    text = json.dumps(_json_numbers(document), indent=1, sort_keys=True, allow_nan=False)
    return text.encode()


def _json_numbers(value: Any) -> Any:
    """A copy in which infinities, which JSON does not have, are text."""
    if isinstance(value, Mapping):
        return {key: _json_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def gate_error(parity: ParityReport, where: Path, fix: str) -> ParityError:
    """The error of the gate that failed worst; flips come before the metric."""
    worst = max(parity.failures, key=lambda rung: (rung.role == GATES, len(rung.flips)))
    what = f"{worst.name}: {worst.reason}"
    if worst.role == GATES and worst.flips:
        flip = worst.flips[0]
        what = (
            f"{worst.name} flips {len(worst.flips)} decisions, first {flip.label} of {flip.image}: "
            f"logit {flip.logit:.6g}, reference {flip.reference_logit:.6g}, "
            f"threshold {flip.threshold:.6g}"
        )
    expected = (
        f"at most {worst.allowed} of {worst.decisions} decisions other than the reference's"
        if worst.role == GATES
        else f"at most {parity.limits.drop:g} points of mAP lost"
    )
    return ParityError(
        what,
        where=str(where),
        expected=expected,
        fix=fix,
    )
