"""The labelled images a bundle is evaluated on, found, checked and preprocessed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdr_bench.accuracy import GroundTruth
from qdr_bench.child import Child
from qdr_edge.bundle import Bundle
from qdr_edge.errors import DatasetError
from qdr_edge.samples import read_csv

DATA_FILE = "data.csv"
MAX_LEVELS = 3
"""RUN/export/NAME.qdr is the usual place: RUN/data.csv is at most this many folders up."""


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """Images of one split, as the network takes them.

    Args:
        source: The table.
        split: Its split.
        sha256: Fingerprint of the rows used.
        files: Images that could be read.
        tensors: Their preprocessed form, a .npy file uint8 [N, 3, S, S]; rows as `files`.
        truth: Their labels.
        unreadable: Images that could not be read, and why.
    """

    source: str
    split: str
    sha256: str
    files: tuple[Path, ...]
    tensors: Path
    truth: GroundTruth
    unreadable: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the images themselves stay where they are."""
        return {
            "file": Path(self.source).name,
            "split": self.split,
            "sha256": self.sha256,
            "images": len(self.files),
            "patients": len(set(self.truth.patients)),
            "unreadable": list(self.unreadable),
        }


def find_table(bundle: Path) -> Path | None:
    """Return the run's data.csv, found by walking up from the bundle."""
    for folder in list(bundle.resolve().parents)[:MAX_LEVELS]:
        if (folder / DATA_FILE).is_file():
            return folder / DATA_FILE
    return None


def prepare(bundle: Bundle, table: Path, split: str, folder: Path) -> EvaluationData:
    """Read a table and preprocess the split's images of the bundle's modality in a child process.

    Raises:
        DatasetError: The table is wrong, has no such image, or none can be read.
    """
    manifest = bundle.manifest
    labels = manifest.labels.label_set()
    samples = read_csv(table, labels).select(manifest.modality, split)
    if not len(samples):
        raise DatasetError(
            f"no {manifest.modality} image in split {split!r}",
            where=str(table),
            expected="images to evaluate on",
            fix="name another split with --split, or another table with --data",
        )
    files = [sample.file for sample in samples]
    child = Child("preprocessing", timeout_s=3600)
    tensors = folder / "images.npy"
    try:
        answer = child.call(
            "prepare",
            files=[str(file) for file in files],
            spec=dict(manifest.preprocess.spec),
            out=str(tensors),
        )
    finally:
        child.close()
    unreadable = {int(index): why for index, why in answer["unreadable"].items()}
    kept = [index for index in range(len(files)) if index not in unreadable]
    if not kept:
        raise DatasetError(
            "no image can be read", where=str(table), fix=next(iter(unreadable.values()))
        )
    if unreadable:
        _drop_rows(tensors, kept)
    return EvaluationData(
        source=str(table),
        split=split,
        sha256=samples.sha256,
        files=tuple(files[index] for index in kept),
        tensors=tensors,
        truth=GroundTruth(
            targets=samples.targets()[kept],
            patients=tuple(samples[index].patient for index in kept),
            rule=manifest.decision.rule(labels),
        ),
        unreadable=tuple(unreadable.values()),
    )


def _drop_rows(tensors: Path, kept: list[int]) -> None:
    import numpy as np

    images = np.load(tensors, mmap_mode="r", allow_pickle=False)
    np.save(tensors.with_suffix(".kept.npy"), images[kept])
    tensors.with_suffix(".kept.npy").replace(tensors)
