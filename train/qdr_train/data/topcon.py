"""TOPCON-MM as its authors ship it, in both layouts.

Release: `fundus_images/ oct_images/ fundus_labels.csv oct_labels.csv`, no split.
Code: `{train,val,test}/{cfp,oct}.txt` with lines `name b0 … b10`, all PNG files under
`train/Images/{fundus_images,oct_images}/` (FDDM writes `fundus-images`, `oct-images`).
File names are `[patient]-[side]-[scan]`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import DatasetError
from qdr_edge.labels import TOPCON_MM, LabelSet
from qdr_edge.samples import SPLITS, Sample, SampleSet
from qdr_train.data.lists import Collected, lines_of, stem_of, text_of

LISTS = {"fundus": "cfp.txt", "oct": "oct.txt"}
LABEL_TABLES = {"fundus_labels.csv": "fundus", "oct_labels.csv": "oct"}
_SIDES = {"l": "L", "os": "L", "left": "L", "r": "R", "od": "R", "right": "R"}


def is_topcon(folder: Path) -> bool:
    """Whether a folder has one of the two layouts."""
    return bool(_list_files(folder) or _label_tables(folder))


def read_topcon(folder: Path, labels: LabelSet | None = None) -> SampleSet:
    """The samples of TOPCON-MM; `split` is empty in the release layout.

    Args:
        folder: Root of the data set.
        labels: A vocabulary that holds the 11 labels, or part of them; None takes all 11.

    Raises:
        DatasetError: A line, a value or an image is wrong; names file and line.
    """
    vocabulary = TOPCON_MM if labels is None else labels
    columns = [TOPCON_MM.index(code, where=str(folder)) for code in vocabulary.codes]
    found = Collected(folder, vocabulary)
    entries = _code_layout(folder) if _list_files(folder) else _release_layout(folder)
    for where, name, images, modality, bits, split in entries:
        file = found.image([images], name, where)
        patient, eye = parse_name(stem_of(name), where)
        found.samples.append(Sample(file, modality, bits[columns].copy(), patient, eye, split))
    return found.finish()


def parse_name(stem: str, where: str) -> tuple[str, str]:
    """Patient and side of a file name `[patient]-[side]-[scan]`.

    Raises:
        DatasetError: It has another form; eyes must never be merged by guessing.
    """
    parts = stem.split("-")
    for position in (len(parts) - 2, len(parts) - 1):
        if position >= 1 and parts[position].lower() in _SIDES:
            return "-".join(parts[:position]), _SIDES[parts[position].lower()]
    raise DatasetError(
        f"file name {stem!r} names no patient and side",
        where=where,
        expected="[patient]-[side]-[scan] with side L, R, OS or OD",
        fix="write a CSV with patient and eye columns instead",
    )


# File and line, image name, its folder, modality, labels, split.
_Entry = tuple[str, str, Path, str, NDArray[np.uint8], str]


def _list_files(folder: Path) -> list[tuple[str, str, Path]]:
    found = ((s, m, folder / s / name) for s in SPLITS for m, name in LISTS.items())
    return [(split, modality, path) for split, modality, path in found if path.is_file()]


def _label_tables(folder: Path) -> list[tuple[str, Path]]:
    found = ((modality, folder / name) for name, modality in LABEL_TABLES.items())
    return [(modality, path) for modality, path in found if path.is_file()]


def _code_layout(folder: Path) -> Iterator[_Entry]:
    for split, modality, path in _list_files(folder):
        images = _image_folder(folder / "train" / "Images", modality)
        for where, fields in lines_of(path):
            yield where, fields[0], images, modality, _bits(fields[1:], where), split


def _release_layout(folder: Path) -> Iterator[_Entry]:
    for modality, path in _label_tables(folder):
        images = _image_folder(folder, modality)
        order: list[int] | None = None
        name_column = 0
        for number, row in enumerate(csv.reader(text_of(path).splitlines()), start=1):
            fields = [field.strip() for field in row]
            if not any(fields):
                continue
            where = f"{path}:{number}"
            if order is None:
                codes = {field.upper(): i for i, field in enumerate(fields)}
                if set(TOPCON_MM.codes) <= set(codes):
                    order = [codes[code] for code in TOPCON_MM.codes]
                    name_column = next(i for i in range(len(fields)) if i not in order)
                    continue
                order = list(range(1, len(fields)))
            if len(fields) <= max([name_column, *order]):
                raise DatasetError(
                    f"{len(fields)} fields", where=where, expected="as many as in the first line"
                )
            bits = _bits([fields[i] for i in order], where)
            yield where, fields[name_column], images, modality, bits, ""


def _bits(fields: list[str], where: str) -> NDArray[np.uint8]:
    if len(fields) != len(TOPCON_MM) or not set(fields) <= {"0", "1"}:
        raise DatasetError(
            f"labels {' '.join(fields)[:80]!r}",
            where=where,
            expected=f"{len(TOPCON_MM)} values 0 or 1: {' '.join(TOPCON_MM.codes)}",
        )
    return np.array([field == "1" for field in fields], dtype=np.uint8)


def _image_folder(parent: Path, modality: str) -> Path:
    for name in (f"{modality}_images", f"{modality}-images"):
        if (parent / name).is_dir():
            return parent / name
    raise DatasetError(
        "image folder is missing",
        where=str(parent),
        expected=f"{modality}_images or {modality}-images",
        fix="unpack the release completely",
    )
