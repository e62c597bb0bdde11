"""Folders of DICOM files: what lies there, and the table that its owner fills with labels.

DICOM images carry no diagnosis, so such a folder alone trains nothing. PatientID is taken as it
stands, as an id; no other element about the person is read.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qdr_edge.dicom import GROUPS, SHAPE, explained, frame_count, frame_value, transfer_syntax
from qdr_edge.errors import DatasetError, ImageError
from qdr_edge.labels import LabelSet
from qdr_edge.samples import COLUMNS, SampleSet

SUFFIXES = (".dcm", ".dicom")
_HEAD_BYTES = 1 << 16
# Ophthalmic photography (8 and 16 bits, wide field) and tomography.
_PHOTOGRAPHY = tuple(f"1.2.840.10008.5.1.4.1.1.77.1.5.{n}" for n in (1, 2, 5, 6))
_TOMOGRAPHY = ("1.2.840.10008.5.1.4.1.1.77.1.5.4",)
_MODALITIES = {
    **dict.fromkeys((*_PHOTOGRAPHY, "OP"), "fundus"),
    **dict.fromkeys((*_TOMOGRAPHY, "OPT"), "oct"),
}
_WHO = ("SOPClassUID", "Modality", "PatientID", "ImageLaterality", "Laterality")


@dataclass(frozen=True)
class Facts:
    """What a file says about itself, pixels aside.

    Args:
        kind: Name of its SOP class.
        modality: "fundus", "oct", or "" where it says neither.
        syntax: Name of its transfer syntax.
        frames: Number of frames.
        patient: PatientID as it stands in the file; "" where it is empty.
        eyes: Side of each frame: "R", "L" or "".
    """

    kind: str
    modality: str
    syntax: str
    frames: int
    patient: str
    eyes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file or a folder with at least one."""
    return next(dicom_files(path), None) is not None


def read_dicom(path: Path, labels: LabelSet | None = None) -> SampleSet:
    """Refuse a folder of DICOM files: it has no labels.

    Raises:
        DatasetError: Always; names the command that writes the table.
    """
    raise DatasetError(
        "DICOM files, which carry no labels",
        where=str(path),
        expected="a CSV file whose rows name them",
        fix=f"qdr-edge data table {path} --out table.csv writes one to fill in",
    )


def dicom_files(path: Path) -> Iterator[Path]:
    """DICOM files of a folder and the folders in it, by suffix, or by content without one."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        suffix = file.suffix.lower()
        named = suffix in SUFFIXES or (not suffix and _begins_as_dicom(file))
        if named and file.is_file() and file.name != "DICOMDIR":
            yield file


def read_facts(path: Path) -> Facts:
    """The header of a file; its pixels stay unread.

    Raises:
        ImageError: Not there, no DICOM image, damaged, or pydicom is not installed.
    """
    where = str(path)
    try:
        with path.open("rb") as handle:
            transfer_syntax(handle.read(_HEAD_BYTES), where)
    except OSError as error:
        raise ImageError(
            f"cannot read: {error.strerror or error}", where=where, expected="a readable file"
        ) from error
    return explained(lambda: _facts(path), where)


def survey(path: Path) -> tuple[list[str], list[str]]:
    """What lies in a folder.

    Returns:
        One line for each kind of file, and one for each file that cannot be used.
    """
    groups: dict[tuple[str, str, str], list[Facts]] = defaultdict(list)
    problems = []
    for file in dicom_files(path):
        try:
            facts = read_facts(file)
        except ImageError as error:
            problems.append(str(error))
            continue
        groups[facts.kind, facts.modality or "unknown", facts.syntax].append(facts)
        if not facts.patient:
            problems.append(f"{file}: no PatientID; fill in the column patient yourself")
    lines = []
    for (kind, modality, syntax), members in sorted(groups.items()):
        eyes = Counter(eye or "unknown" for facts in members for eye in set(facts.eyes))
        sides = ", ".join(f"{eye} {count}" for eye, count in sorted(eyes.items()))
        lines.append(
            f"{kind} ({modality}), {syntax}: {len(members)} files, "
            f"{sum(f.frames for f in members)} frames, {len({f.patient for f in members})} "
            f"patients, eyes {sides}"
        )
    return lines, problems


def label_table(path: Path) -> tuple[str, int]:
    """A CSV with a row for each frame, labels and split left empty, and the number of rows.

    Raises:
        ImageError: A file cannot be used.
        DatasetError: No DICOM file there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for file in dicom_files(path):
        facts = read_facts(file)
        for number, eye in enumerate(facts.eyes, start=1):
            name = f"{file.absolute()}#{number}" if facts.frames > 1 else file.absolute()
            writer.writerow([name, facts.modality, "", facts.patient, eye, ""])
            count += 1
    if not count:
        raise DatasetError("no DICOM file", where=str(path), expected="a folder with .dcm files")
    return text.getvalue(), count


def _begins_as_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        with file.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _facts(path: Path) -> Facts:
    from pydicom import dcmread

    data = dcmread(path, stop_before_pixels=True, specific_tags=[*_WHO, *SHAPE, *GROUPS])
    frames = frame_count(data, str(path))
    sop = data.get("SOPClassUID")
    told = _MODALITIES.get(str(sop)) or _MODALITIES.get(str(data.get("Modality")), "")
    return Facts(
        kind=sop.name if sop else "unknown class",
        modality=told,
        syntax=data.file_meta.TransferSyntaxUID.name,
        frames=frames,
        patient=str(data.get("PatientID") or "").strip(),
        eyes=tuple(
            _side(
                frame_value(data, "FrameLaterality", "FrameAnatomySequence", index)
                or data.get("ImageLaterality")
                or data.get("Laterality")
            )
            for index in range(frames)
        ),
    )


def _side(value: object) -> str:
    return value if isinstance(value, str) and value in ("R", "L") else ""
