"""MMC-AMD as its authors release it: one folder of images, and splits A and AP as lists.

    mmc-amd/ImageData/{cfp-clahe-448x448,oct-median3x3-448x448}/{f,o}-*.jpg
    mmc-amd-split{A,AP}-{train,val,test}/{ImageSets,EyeSets,SubjectSets,annotations}/{cfp,oct}.txt

A line of ImageSets is an image's name without suffix, such as `o-w-27662-l_003`; the last field
of the same line of annotations is its label. EyeSets and SubjectSets list which eyes and patients
a split has, each once, so they are no table of images: a name is looked up in them.
The eye is what stands between the first two characters and the first `_` (the authors' rule).
Split AP keeps patients apart, split A only eyes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qdr_edge.errors import DatasetError
from qdr_edge.labels import MMC_AMD, LabelSet
from qdr_edge.samples import SPLITS, Sample, SampleSet
from qdr_train.data.lists import Collected, class_number, lines_of, stem_of

LISTS = {"fundus": "cfp.txt", "oct": "oct.txt"}
IMAGES = {"fundus": "cfp-clahe-448x448", "oct": "oct-median3x3-448x448"}
_VERSIONS = ("A", "AP")
# The letter behind the modality in a name says the label a second time.
_LETTERS = dict(zip("hdpw", MMC_AMD.codes, strict=True))


def is_mmc_amd(path: Path) -> bool:
    """Whether a path is the folder with the splits, one split's folder, or `…/mmc-amd-splitAP`."""
    return bool(_versions(path))


def read_mmc_amd(path: Path, labels: LabelSet | None = None) -> SampleSet:
    """The samples of one split of MMC-AMD.

    Args:
        path: See `is_mmc_amd`.
        labels: A vocabulary; None takes the data set's own four labels, which exclude each other.

    Raises:
        DatasetError: Both splits are there and none is named, or a line, a label or an image is
            wrong; names file and line.
    """
    versions = _versions(path)
    if not versions:
        raise DatasetError("no split of MMC-AMD", where=str(path), expected="mmc-amd-splitAP-train")
    if len(versions) > 1:
        raise DatasetError(
            "splits A and AP of MMC-AMD are both here",
            where=str(path),
            expected="one of them",
            fix=f"name {path / 'mmc-amd-splitAP'} (patients apart) or {path / 'mmc-amd-splitA'}",
        )
    version, root = versions[0]
    found = Collected(root / f"mmc-amd-split{version}", MMC_AMD if labels is None else labels)
    unknown, strange = 0, 0
    for split in SPLITS:
        folder = _folder(root, version, split)
        for modality, name in LISTS.items():
            if not (folder / "ImageSets" / name).is_file():
                continue
            eyes = _listed(folder / "EyeSets" / name)
            subjects = _listed(folder / "SubjectSets" / name)
            for where, image, code in _images(folder, name):
                eye = image[2:].partition("_")[0]
                patient = next((form for form in _patient_forms(eye) if form in subjects), None)
                unknown += patient is None
                strange += bool(eyes) and not {eye, eye.partition("-")[2]} & eyes
                file = found.image(_image_folders(folder, modality), image, where)
                vector = found.labels.encode(code, where=where)
                found.samples.append(Sample(file, modality, vector, patient or eye, eye, split))
    count = len(found.samples)
    notes = []
    if unknown:
        notes.append(
            f"SubjectSets names no patient for {unknown} of {count} images: "
            "their eye counts as a patient of its own"
        )
    if strange:
        notes.append(f"EyeSets does not know the eyes of {strange} of {count} images")
    return found.finish(notes)


def part_patients(samples: SampleSet) -> SampleSet:
    """Give a patient of several splits an id for each of them: split A keeps only eyes apart."""
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        splits[sample.patient].add(sample.split)
    shared = {patient for patient, where in splits.items() if len(where) > 1}
    if not shared or Path(samples.source).name != "mmc-amd-splitA":
        return samples
    rows = (
        replace(s, patient=f"{s.patient}/{s.split}") if s.patient in shared else s for s in samples
    )
    note = (
        f"split A keeps eyes apart, not patients: {len(shared)} patients stand in several splits "
        "and count as another in each, so figures are optimistic; split AP has no such patients"
    )
    return replace(samples, samples=tuple(rows), notes=(*samples.notes, note))


def _versions(path: Path) -> list[tuple[str, Path]]:
    """Splits that a path means, each with the folder that holds its lists."""
    stem = path.name
    for split in SPLITS:
        stem = stem.removesuffix(f"-{split}")
    roots = [(version, path) for version in _VERSIONS]
    if stem.startswith("mmc-amd-split"):
        roots = [(stem.removeprefix("mmc-amd-split"), path.parent)]
    return [
        (version, root)
        for version, root in roots
        if version in _VERSIONS and (_folder(root, version, "train") / "ImageSets").is_dir()
    ]


def _folder(root: Path, version: str, split: str) -> Path:
    return root / f"mmc-amd-split{version}-{split}"


def _listed(path: Path) -> set[str]:
    return {stem_of(fields[-1]) for _, fields in lines_of(path)} if path.is_file() else set()


def _image_folders(folder: Path, modality: str) -> list[Path]:
    # The authors link ImageData into each split; the archive has it once.
    parents = (folder, folder.parent / "mmc-amd")
    return [parent / "ImageData" / IMAGES[modality] for parent in parents]


def _patient_forms(eye: str) -> list[str]:
    """How the patient of an eye such as `w-27662-l` may be written, the shortest form first."""
    forms = []
    for form in (eye.partition("-")[2], eye):
        base, dash, side = form.rpartition("-")
        forms += [base] if dash and side in ("l", "r", "L", "R") else []
        forms.append(form)
    return forms


def _images(folder: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """Place, name and label of each image: ImageSets and annotations line by line."""
    images = list(lines_of(folder / "ImageSets" / name))
    labels = list(lines_of(folder / "annotations" / name))
    if len(images) != len(labels):
        raise DatasetError(
            f"{len(labels)} labels for {len(images)} images",
            where=str(folder / "annotations" / name),
            expected=f"one line for each line of {folder / 'ImageSets' / name}",
        )
    for (where, (written, *_)), (label_where, fields) in zip(images, labels, strict=True):
        image = stem_of(written)
        code = class_number(fields[-1], MMC_AMD, label_where)
        if fields[:-1] and stem_of(fields[0]) != image:
            raise DatasetError(
                f"label of {fields[0]!r}", where=label_where, expected=f"that of {image!r}"
            )
        letter = _LETTERS.get(image[2:3]) if image[3:4] == "-" else None
        if letter not in (None, code):
            raise DatasetError(
                f"label {code}, but the name {image!r} says {letter}",
                where=label_where,
                expected="both lists in the same order",
                fix="unpack the split again",
            )
        yield where, image, code
