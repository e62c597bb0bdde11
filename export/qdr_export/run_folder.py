"""What export reads of a training run: students to export and the images to prove them on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from qdr_edge.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from qdr_edge.errors import CheckpointError, DatasetError, ExportError
from qdr_edge.samples import SampleSet, read_csv

PROOF_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Student:
    """One student of a run.

    Args:
        folder: Its stage folder.
        checkpoint: What was trained.
        samples: Validation rows, then test rows, of its modality, in the table's order.
        same_data: The rows are those the trainer computed its probe on.
    """

    folder: Path
    checkpoint: Checkpoint
    samples: SampleSet
    same_data: bool

    @property
    def validation_rows(self) -> int:
        """How many of the samples are validation rows; they come first."""
        return len(self.samples.select(split="val"))


def find_students(run: Path, data: Path | None = None) -> tuple[str, list[Student]]:
    """The students of a run directory, or the one of a stage directory.

    Args:
        run: A run directory (with student-* in it) or a stage directory.
        data: Table to prove on; None takes the run's own.

    Returns:
        Name of the run, and its students.

    Raises:
        CheckpointError: There is no student here, or its checkpoint is damaged.
        DatasetError: The table is wrong or has no validation rows.
    """
    stages = _stages(run)
    root = run if stages != [run] else run.parent
    table = data if data is not None else root / "data.csv"
    if data is None and not table.is_file():
        raise DatasetError(
            "the run's table of images is missing",
            where=str(table),
            expected="the data.csv that training wrote",
            fix="name the images with --data CSV",
        )
    students = []
    for folder in stages:
        checkpoint = load_checkpoint(folder)
        if checkpoint.scheme is None:
            raise ExportError(
                f"a float {checkpoint.role} has no int8 form",
                where=str(folder),
                expected="a quantized student",
                fix="export the run, or one of its student-* folders",
            )
        every = read_csv(table, checkpoint.labels)
        samples = SampleSet(
            tuple(s for split in PROOF_SPLITS for s in every.select(checkpoint.modality, split)),
            every.labels,
            every.source,
        )
        student = Student(
            folder,
            checkpoint,
            samples,
            same_data=every.sha256 == checkpoint.provenance.get("data_sha256"),
        )
        if not student.validation_rows:
            raise DatasetError(
                f"no {checkpoint.modality} image in split val",
                where=str(table),
                expected="validation images, to fit thresholds on",
                fix="give some patients split val",
            )
        students.append(student)
    return _run_name(root), students


def _stages(run: Path) -> list[Path]:
    if (run / CHECKPOINT_FILE).is_file():
        return [run]
    stages = sorted(p.parent for p in run.glob(f"student-*/{CHECKPOINT_FILE}"))
    if stages:
        return stages
    if not run.is_dir():
        problem, fix = "no such folder", "check the path"
    elif (run / "run.json").is_file():
        problem, fix = "the run has no finished student", "finish it with `qdr-edge train --resume`"
    else:
        problem, fix = "not a training run", "name the folder given to `qdr-edge train --out`"
    raise CheckpointError(
        problem, where=str(run), expected="a folder with student-*/checkpoint.json", fix=fix
    )


def _run_name(root: Path) -> str:
    try:
        name = json.loads((root / "run.json").read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = root.resolve().name
    return str(name)


def student_stem(name: str, student: Student) -> str:
    """NAME-MODALITY; NAME and the stage's own name where the run has more students of the modality,
    so that none takes another's file.

    Raises:
        ExportError: Nothing of the name is left.
    """
    stage, modality = student.folder.resolve(), student.checkpoint.modality
    others = stage.parent.glob(f"student-*/{CHECKPOINT_FILE}")
    if any(_modality(other) == modality for other in others if other.parent != stage):
        return file_stem(name, stage.name.removeprefix("student-"))
    return file_stem(name, modality)


def _modality(file: Path) -> str:
    try:
        return str(json.loads(file.read_bytes())["modality"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def file_stem(name: str, which: str) -> str:
    """NAME-WHICH, with what a bundle's id may not hold replaced by a dash.

    Raises:
        ExportError: Nothing of the name is left.
    """
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+")[:80]
    if not stem:
        raise ExportError(
            f"name {name!r}", expected="letters, digits, dot, dash", fix="give another --name"
        )
    return f"{stem}-{which}"
