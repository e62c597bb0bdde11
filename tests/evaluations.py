"""A run directory with one student, and tables of images, that can be evaluated."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from qdr_edge.checkpoint import save_checkpoint
from qdr_edge.evaluation.subject import Subject, open_run
from qdr_edge.files import sha256_bytes
from qdr_edge.labels import LabelSet
from qdr_edge.operating_point import Target
from qdr_edge.samples import SampleSet, read_csv
from tests.networks import checkpoint

LABELS = LabelSet.custom(("NOR", "AMD", "DR"), "test")
CODES = ("NOR", "AMD", "DR")
Row = dict[str, str]


def name(patient: int, eye: str, number: int) -> str:
    """A file name that tells nothing, as those of many archives do."""
    return sha256_bytes(f"{patient} {eye} {number}".encode())[:12] + ".png"


def row(patient: int, eye: str, number: int, split: str = "test", **changes: str) -> Row:
    return {
        "file": name(patient, eye, number),
        "modality": "fundus",
        "labels": CODES[patient % 3],
        "patient": f"p{patient}",
        "eye": eye,
        "split": split,
        "camera": "new" if number else "old",
        "age": str(30 + 4 * patient),
        "sex": "fm"[patient % 2],
        **changes,
    }


def write(folder: Path, rows: list[Row], labels: LabelSet | None = LABELS) -> SampleSet:
    for entry in rows:
        (folder / entry["file"]).touch()
    with (folder / "data.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return read_csv(folder / "data.csv", labels)


def logits_of(samples: SampleSet, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.normal(size=(len(samples), len(samples.labels)))
    return (noise + 1.5 * samples.targets()).astype(np.float32)


ROWS = [row(p, eye, n) for p in range(12) for eye in "LR" for n in range(2)]
VAL = [row(p, "L", n, "val") for p in range(20, 26) for n in range(2)]


def make_run(tmp_path: Path) -> Path:
    """A run directory with one student whose recorded answers are drawn at random."""
    folder = tmp_path / "run"
    folder.mkdir()
    # Training rows stand between: the probe holds val rows, then test rows, whatever the order.
    samples = write(folder, [*ROWS, row(90, "L", 0, "train"), *VAL])
    (folder / "run.json").write_text(json.dumps({"format": "qdr-run", "name": "tiny"}))
    parts = [samples.select("fundus", split) for split in ("val", "test")]
    int8 = np.concatenate([logits_of(part) for part in parts])
    made = replace(
        checkpoint("student", size=64, labels=LABELS),
        probe={"reference_logits": int8, "float_logits": int8 + np.float32(0.25) * int8[::-1]},
        provenance={"data_sha256": samples.sha256},
        operating_point=Target("sensitivity", 0.8).to_dict(),
    )
    save_checkpoint(folder / "student-fundus", made)
    return folder


def only(run: Path, split: str = "test") -> Subject:
    (subject,) = open_run(run, split)
    return subject
