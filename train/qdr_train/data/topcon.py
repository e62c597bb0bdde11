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

LISTS = {"fundus": "cfp.txt", "oct": "oct.txt"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
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
    samples: list[Sample] = []
    seen: dict[Path, str] = {}
    entries = _code_layout(folder) if _list_files(folder) else _release_layout(folder)
    for where, file, modality, bits, split in entries:
        if file in seen:
            raise DatasetError(
                f"{file.name} stands twice, first in {seen[file]}",
                where=where,
                expected="one line for each image",
            )
        seen[file] = where
        patient, eye = parse_name(file.stem, where)
        samples.append(Sample(file, modality, bits[columns].copy(), patient, eye, split))
    if not samples:
        raise DatasetError("no images are listed", where=str(folder), expected="TOPCON-MM")
    _check_patients(samples, folder)
    return SampleSet(tuple(samples), vocabulary, str(folder))


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


_Entry = tuple[str, Path, str, NDArray[np.uint8], str]


def _list_files(folder: Path) -> list[tuple[str, str, Path]]:
    found = ((s, m, folder / s / name) for s in SPLITS for m, name in LISTS.items())
    return [(split, modality, path) for split, modality, path in found if path.is_file()]


def _label_tables(folder: Path) -> list[tuple[str, Path]]:
    found = ((m, folder / f"{m}_labels.csv") for m in LISTS)
    return [(modality, path) for modality, path in found if path.is_file()]


def _code_layout(folder: Path) -> Iterator[_Entry]:
    for split, modality, path in _list_files(folder):
        images = _image_folder(folder / "train" / "Images", modality)
        for number, line in enumerate(_text(path).splitlines(), start=1):
            fields = line.split()
            if not fields:  # the released lists end in blank lines
                continue
            where = f"{path}:{number}"
            file = _image(images, fields[0], where)
            yield where, file, modality, _bits(fields[1:], where), split


def _release_layout(folder: Path) -> Iterator[_Entry]:
    for modality, path in _label_tables(folder):
        images = _image_folder(folder, modality)
        order: list[int] | None = None
        name_column = 0
        for number, row in enumerate(csv.reader(_text(path).splitlines()), start=1):
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
            file = _image(images, fields[name_column], where)
            yield where, file, modality, _bits([fields[i] for i in order], where), ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read: {error}", where=str(path)) from error


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


def _image(folder: Path, name: str, where: str) -> Path:
    for candidate in (name, *(name + suffix for suffix in IMAGE_SUFFIXES)):
        if (folder / candidate).is_file():
            return (folder / candidate).absolute()
    raise DatasetError(
        f"image {name!r} is missing", where=where, expected=f"{name}.png in {folder}"
    )


def _check_patients(samples: list[Sample], folder: Path) -> None:
    splits: dict[str, str] = {}
    for sample in samples:
        if splits.setdefault(sample.patient, sample.split) != sample.split:
            raise DatasetError(
                f"patient {sample.patient} is in {splits[sample.patient]} and {sample.split}",
                where=str(folder),
                expected="all images of a patient in one split",
                fix="remove the split lists and let training make a split by patient",
            )
