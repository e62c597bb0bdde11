"""MultiEYE as its authors release it: fundus in `assemble/`, OCT in `assemble_oct/`.

    assemble{,_oct}/{train,dev,test}/large9cls.txt        lines `name number`
    assemble{,_oct}/train/ImageData/{cfp-clahe-224x224,oct-filter-448x448}/*.png

All images of a modality lie under `train`, whatever their split. It is put together from many
public data sets and names no patients: each image counts as a patient of its own, and eyes stay
unknown.
"""

from __future__ import annotations

from pathlib import Path

from qdr_edge.errors import DatasetError
from qdr_edge.labels import MULTIEYE, LabelSet
from qdr_edge.samples import Sample, SampleSet
from qdr_train.data.lists import Collected, class_number, lines_of

FOLDERS = {"fundus": "assemble", "oct": "assemble_oct"}
IMAGES = {"fundus": "cfp-clahe-224x224", "oct": "oct-filter-448x448"}
LIST = "large9cls.txt"
_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_NOTE = (
    "MultiEYE names no patients: each image counts as a patient of its own, so intervals are by "
    "image and nothing can be summed up by eye"
)


def is_multieye(path: Path) -> bool:
    """Whether a folder holds at least one modality of MultiEYE."""
    return any((path / name / "train" / LIST).is_file() for name in FOLDERS.values())


def read_multieye(path: Path, labels: LabelSet | None = None) -> SampleSet:
    """The samples of MultiEYE.

    Args:
        path: Folder with `assemble`, `assemble_oct` or both.
        labels: A vocabulary; None takes the nine labels, which exclude each other.

    Raises:
        DatasetError: A line, a label or an image is wrong; names file and line.
    """
    found = Collected(path, MULTIEYE if labels is None else labels)
    for modality, name in FOLDERS.items():
        images = path / name / "train" / "ImageData" / IMAGES[modality]
        for folder, split in _SPLITS.items():
            table = path / name / folder / LIST
            if not table.is_file():
                continue
            for where, fields in lines_of(table):
                if len(fields) != 2:
                    raise DatasetError(
                        f"{len(fields)} fields", where=where, expected="a name and a number"
                    )
                code = class_number(fields[1], MULTIEYE, where)
                file = found.image([images], fields[0], where)
                # Both modalities may use a name; that does not make it one patient.
                patient = f"{modality}/{fields[0]}"
                vector = found.labels.encode(code, where=where)
                found.samples.append(Sample(file, modality, vector, patient, "", split))
    return found.finish([_NOTE])
