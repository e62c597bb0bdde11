"""What is evaluated: the answers of one network on one split, and how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.checkpoint import CHECKPOINT_FILE, PROBE_SPLITS, load_checkpoint
from qdr_edge.decision import DecisionRule
from qdr_edge.errors import CheckpointError, DatasetError
from qdr_edge.files import sha256_file
from qdr_edge.operating_point import Target, fit
from qdr_edge.samples import SPLITS, SampleSet, read_csv

DATA_FILE, RUN_FILE = "data.csv", "run.json"
INT8, FLOAT = "int8", "float"
ALL = "all"
# The forms whose logits training records in a checkpoint.
_PROBES = {INT8: "reference_logits", FLOAT: "float_logits"}
_SAME_ROWS = "these are the rows that thresholds were fitted on: figures at them are optimistic"


@dataclass(frozen=True, eq=False)
class Rejection:
    """An image without an answer: which, what the device said, and why."""

    file: str
    outcome: str
    reason: str


@dataclass(frozen=True, eq=False)
class Subject:
    """One network's answers on one split.

    Args:
        name: Of the checkpoint or bundle.
        facts: What it is, as JSON values.
        samples: Every image of its modality in the split.
        split: "train", "val", "test" or "all".
        rule: Temperature and thresholds.
        point: How they came about, as JSON values.
        logits: By form, float32 [G, K] of the graded images: "int8" and, where it is known,
            "float"; "float" alone for a network that has no int8 form.
        graded: Which of `samples` have an answer, bool [N].
        rejections: The others.
        gated: Whether the gate was asked; a run's recorded answers are of every image.
        artefact_sha256: Fingerprint of what answered.
        bundle_id: "" for a run.
        folder: Where the evaluation is recorded.
        notes: What a reader must know.
    """

    name: str
    facts: Mapping[str, Any]
    samples: SampleSet
    split: str
    rule: DecisionRule
    point: Mapping[str, Any]
    logits: Mapping[str, NDArray[np.float32]]
    graded: NDArray[np.bool_]
    rejections: tuple[Rejection, ...]
    gated: bool
    artefact_sha256: str
    bundle_id: str
    folder: Path
    notes: tuple[str, ...]

    @property
    def modality(self) -> str:
        """ "fundus" or "oct"."""
        return str(self.facts["modality"])


def open_run(run: Path, split: str, student: str | None = None) -> list[Subject]:
    """The students of a run, with the answers that training recorded.

    Args:
        run: A run directory, or one stage's folder in it.
        split: "val" or "test".
        student: Name of one stage, a teacher's too; None for every student.

    Raises:
        CheckpointError: No finished stage, or a damaged checkpoint.
        DatasetError: The table has changed since, or has no image in the split.
    """
    if split not in PROBE_SPLITS:
        raise DatasetError(
            f"a run has no recorded answers to split {split!r}",
            where=str(run),
            expected=" or ".join(PROBE_SPLITS),
            fix="export the run and evaluate the bundle",
        )
    root, stages = _stages(run, student)
    table = root / DATA_FILE
    if not table.is_file():
        raise DatasetError(
            "the run's table of images is missing",
            where=str(table),
            expected="the data.csv that training wrote",
            fix="put it back",
        )
    return [_of_stage(table, folder, split) for folder in stages]


def select_split(samples: SampleSet, modality: str, split: str) -> SampleSet:
    """The images of a modality in a split.

    Raises:
        DatasetError: There is none.
    """
    found = samples.select(modality, None if split == ALL else split)
    if not len(found):
        present = [s for s in SPLITS if len(samples.select(modality, s))]
        raise DatasetError(
            f"no {modality} image in split {split!r}",
            where=samples.source,
            expected=f"images to evaluate on; {modality} images are in "
            f"{', '.join(present) or 'no split'}",
            fix=f"choose with --split, or --split {ALL}",
        )
    return found


def split_notes(split: str) -> tuple[str, ...]:
    """What to know about figures on a split that is not the test split."""
    if split == "val":
        return (_SAME_ROWS,)
    if split in ("train", ALL):
        return ("the network may have been trained on these images",)
    return ()


def _of_stage(table: Path, folder: Path, split: str) -> Subject:
    checkpoint = load_checkpoint(folder)
    every = read_csv(table, checkpoint.labels)
    rows = {s: every.select(checkpoint.modality, s) for s in PROBE_SPLITS}
    if every.sha256 != checkpoint.provenance.get("data_sha256"):
        raise DatasetError(
            "rows or images have changed since training recorded its answers to them",
            where=str(table),
            expected="the table as training wrote it",
            fix="restore it, or export the run and evaluate the bundle with --data",
        )
    samples = select_split(every, checkpoint.modality, split)
    probes = {
        form: checkpoint.probe[key] for form, key in _PROBES.items() if key in checkpoint.probe
    }
    wanted = sum(map(len, rows.values()))
    if not probes or any(len(logits) != wanted for logits in probes.values()):
        raise CheckpointError(
            "it holds no answers to the run's validation and test images",
            where=str(folder),
            expected=f"{wanted} rows of logits",
            fix="train again",
        )
    n = len(rows["val"])
    shipped = INT8 if INT8 in probes else FLOAT
    val = rows["val"]
    target = Target.from_dict(checkpoint.operating_point)
    point = fit(probes[shipped][:n], val.targets(), checkpoint.labels, val.patients(), target)
    part = slice(n) if split == "val" else slice(n, None)
    notes = split_notes(split)
    if shipped == FLOAT:
        notes += ("a float network: it has no int8 form, and nothing of it ships to a device",)
    notes += ("answers as training recorded them, of every image: no gate was asked",)
    return Subject(
        name=checkpoint.name,
        facts={
            "kind": "run",
            "path": str(table.parent),
            "stage": folder.name,
            "role": checkpoint.role,
            "modality": checkpoint.modality,
            "synthetic": checkpoint.synthetic,
            "model": dict(checkpoint.model),
        },
        samples=samples,
        split=split,
        rule=point.rule,
        point={**point.to_dict(), "fitted_on": f"{shipped}, split val, {n} images"},
        logits={form: logits[part] for form, logits in probes.items()},
        graded=np.ones(len(samples), bool),
        rejections=(),
        gated=False,
        artefact_sha256=sha256_file(folder / CHECKPOINT_FILE),
        bundle_id="",
        folder=table.parent,
        notes=notes,
    )


def _stages(run: Path, student: str | None) -> tuple[Path, list[Path]]:
    if (run / CHECKPOINT_FILE).is_file():
        return run.resolve().parent, [run]
    finished = sorted(p.parent for p in run.glob(f"*/{CHECKPOINT_FILE}"))
    chosen = [
        folder
        for folder in finished
        if (folder.name.startswith("student-") if student is None else folder.name == student)
    ]
    if chosen:
        return run, chosen
    names = ", ".join(folder.name for folder in finished)
    if student is not None and finished:
        raise CheckpointError(
            f"no finished stage {student!r}",
            where=str(run),
            expected=f"one of {names}",
            fix="correct --student",
        )
    raise CheckpointError(
        "no such file or folder" if not run.exists() else "no finished student here",
        where=str(run),
        expected="a run directory of `qdr-edge train`, or a .qdr bundle",
        fix=f"finish the run, or name a stage with --student: {names}" if names else "check it",
    )


def find_run(start: Path) -> Path | None:
    """The run directory that a file lies in, at most three folders up: RUN/export/NAME.qdr."""
    for folder in list(start.resolve().parents)[:3]:
        try:
            content = json.loads((folder / RUN_FILE).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and (folder / DATA_FILE).is_file():
            return folder
    return None
