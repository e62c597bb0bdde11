"""Images in one folder for each class, as OCT2017 (Kermany) and many others come.

    [fundus|oct]/[train|val|test]/CLASS/*.jpeg        both upper levels may be absent

The name of a class folder becomes a label by CLASSES, or is the label's code itself. Patients are
read from file names of the form `CLASS-patient-number`, and only where every file has it;
otherwise each image counts as a patient of its own. Eyes stay unknown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from qdr_edge.errors import DatasetError
from qdr_edge.labels import NORMAL, SEPARATOR, LabelSet
from qdr_edge.samples import MODALITIES, Sample, SampleSet
from qdr_train.data.lists import IMAGE_SUFFIXES, Collected

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Upper case; blanks and hyphens count as underscores.
CLASSES = {
    **dict.fromkeys(("NOR", "NORMAL", "HEALTHY", "NO_FINDINGS"), NORMAL),
    **dict.fromkeys(("AMD", "DRY_AMD", "DAMD", "DRUSEN"), "AMD"),
    **dict.fromkeys(("WAMD", "WET_AMD"), "WAMD"),
    **dict.fromkeys(("DR", "DME", "DIABETIC_RETINOPATHY"), "DR"),
    **dict.fromkeys(("CSC", "CSR", "CSCR"), "CSC"),
    **dict.fromkeys(("MEM", "ERM"), "MEM"),
    **dict.fromkeys(("RVO", "CNV", "PCV", "PED"), ""),  # the codes themselves
    **dict.fromkeys(("GLC", "GLAUCOMA"), "GLC"),
    **dict.fromkeys(("CAT", "CATARACT"), "CAT"),
    **dict.fromkeys(("MYO", "MYOPIA", "PATHOLOGICAL_MYOPIA"), "MYO"),
}
_NAME = re.compile(r"(.+)-([0-9]+)-[0-9]+")


def is_folders(path: Path) -> bool:
    """Whether a folder holds images of two classes or more, in a folder for each."""
    return len({folder.name for _, _, folder in _classes(path)}) > 1


def read_folders(
    path: Path, labels: LabelSet | None = None, modality: str | None = None
) -> SampleSet:
    """The samples of a folder for each class.

    Args:
        path: Root.
        labels: A vocabulary; None takes the classes that are there, which exclude each other.
        modality: Of all images; None where the folders `fundus` and `oct` tell it.

    Raises:
        DatasetError: The modality is not known, or a class is not in the vocabulary.
    """
    tree = list(_classes(path))
    codes = {folder: class_code(folder) for _, _, folder in tree}
    if labels is None:
        order = sorted(set(codes.values()), key=lambda code: (code != NORMAL, code))
        labels = LabelSet.custom(order, exclusive=True)
    found = Collected(path, labels)
    images = [
        (told, split, folder, file) for told, split, folder in tree for file in _files(folder)
    ]
    matches = [_NAME.fullmatch(file.stem) for *_, file in images]
    named = all(m and m[1] == f.name for m, (_, _, f, _) in zip(matches, images, strict=True))
    for match, (told, split, folder, file) in zip(matches, images, strict=True):
        kind = told or modality
        if kind is None:
            raise DatasetError(
                "class folders, and nothing says which modality",
                where=str(path),
                expected=f"a recipe of one modality, or class folders under {path / 'oct'}",
                fix="pass --modality where a command has it, or write a CSV",
            )
        vector = labels.encode(codes[folder], where=str(folder))
        own = file.relative_to(path).as_posix()
        patient = match[2] if named and match else own
        found.samples.append(Sample(file.absolute(), kind, vector, patient, "", split))
    return found.finish(_notes(codes, named))


def class_code(folder: Path) -> str:
    """The label's code that a class folder means.

    Raises:
        DatasetError: Its name can be no code.
    """
    name = folder.name
    if SEPARATOR in name or name != name.strip():
        raise DatasetError(
            f"class folder {name!r}",
            where=str(folder.parent),
            expected=f"a name without '{SEPARATOR}' and without blanks at its ends",
            fix="rename the folder",
        )
    known = name.upper().replace(" ", "_").replace("-", "_")
    return CLASSES.get(known, name) or known


def _classes(path: Path) -> Iterator[tuple[str | None, str, Path]]:
    """Modality (None where no folder tells it), split and folder of each class."""
    if not path.is_dir():
        return
    told = [m for m in MODALITIES if any(_split_classes(path / m))]
    for modality in told:
        for split, folder in _split_classes(path / modality):
            yield modality, split, folder
    if not told:
        for split, folder in _split_classes(path):
            yield None, split, folder


def _split_classes(path: Path) -> Iterator[tuple[str, Path]]:
    parts = _folders(path)
    splits = [folder for folder in parts if folder.name.lower() in SPLIT_NAMES]
    for part in splits:
        for folder in _folders(part):
            if any(_files(folder)):
                yield SPLIT_NAMES[part.name.lower()], folder
    if not splits:
        for folder in parts:
            if folder.name not in MODALITIES and any(_files(folder)):
                yield "", folder


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    # macOS leaves files such as ._eye.jpeg, which are no images.
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
            yield file


def _notes(codes: dict[Path, str], named: bool) -> list[str]:
    names = defaultdict(set)
    for folder, code in codes.items():
        names[code].add(folder.name)
    table = ", ".join(f"{'+'.join(sorted(n))} = {code}" for code, n in sorted(names.items()))
    patients = (
        "patients are the number behind the class in each file name"
        if named
        else "file names tell no patients: each image counts as a patient of its own, so images "
        "of one person may stand in several splits"
    )
    return [f"classes: {table}", patients]
