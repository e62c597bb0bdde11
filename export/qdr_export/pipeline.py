"""Export of one student: emit, run, freeze the operating point, compare, seal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdr_edge.errors import ParityError
from qdr_edge.files import atomic_write, make_folder
from qdr_edge.keys import SigningKey
from qdr_edge.operating_point import Target
from qdr_export.emission import Emission, emit_all
from qdr_export.golden import make_golden
from qdr_export.operating_point import OperatingPoint, fit_operating_point
from qdr_export.parity import ParityReport, compare_rungs
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
        force: Seal in spite of decision flips; the bundle is then marked unproven.
        threads: Threads of a runtime; 0 takes every core.
        progress: Where to report.

    Raises:
        ParityError: A decision flips. NAME.parity.json lists each one.
        ExportError: The network cannot be expressed for a target.
        OutputError: The folder cannot be written.
    """
    report = progress or Progress()
    make_folder(out)
    report.step("emitting")
    emission = emit_all(student.checkpoint, profiles)
    report.step("running every form")
    outputs = run_rungs(student, emission, threads=threads, advance=report.advance)
    report.step("fitting the operating point")
    point = fit_operating_point(student, outputs, operating_target)
    report.step("comparing")
    images = [str(sample.file) for sample in student.samples]
    parity = compare_rungs(outputs, emission, point.rule, images)
    parity_file = out / f"{name}.parity.json"
    atomic_write(parity_file, parity_document(name, student, emission, point, parity))
    if parity.failures and not force:
        raise _flips(parity, parity_file)
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
    )
    return Exported(bundle, twin, parity_file, digest, emission, parity, point, is_proven(parity))


def parity_document(
    name: str,
    student: Student,
    emission: Emission,
    point: OperatingPoint,
    parity: ParityReport,
) -> bytes:
    """NAME.parity.json: every rung, every exception, and what each runtime executes in int8."""
    n = student.validation_rows
    document = {
        "format": "qdr-parity",
        "version": 1,
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
        **parity.to_dict(),
    }
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


def _flips(parity: ParityReport, parity_file: Path) -> ParityError:
    worst = max(parity.failures, key=lambda rung: len(rung.flips))
    flip = worst.flips[0]
    return ParityError(
        f"{worst.name} flips {len(worst.flips)} decisions, first {flip.label} of {flip.image}: "
        f"logit {flip.logit:.6g}, reference {flip.reference_logit:.6g}, "
        f"threshold {flip.threshold:.6g}",
        where=str(parity_file),
        expected="the decision of the reference on every image",
        fix="see the file for every exception; --force seals the bundle marked unproven",
    )
