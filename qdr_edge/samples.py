"""The data-set table: one CSV row an image, with labels, patient, eye and split."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from qdr_edge.decode import split_frame
from qdr_edge.errors import DatasetError
from qdr_edge.files import atomic_write, canonical_json
from qdr_edge.labels import NORMAL, SEPARATOR, TOPCON_MM, LabelSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODALITIES = ("fundus", "oct")
SPLITS = ("train", "val", "test")
COLUMNS = ("file", "modality", "labels", "patient", "eye", "split")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of one eye, and what is known about it.

    Args:
        file: Absolute path of the image; `scan.dcm#12` is the twelfth frame of a DICOM file.
        modality: "fundus" or "oct".
        labels: 0/1 for each label of the set, uint8 [K].
        patient: Patient id, never empty: splits and intervals are by patient.
        eye: Which eye of the patient; "" where unknown.
        split: "train", "val", "test", or "" where no split is assigned yet.
        extra: Further columns of the table, by name.
    """

    file: Path
    modality: str
    labels: NDArray[np.uint8]
    patient: str
    eye: str
    split: str
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Samples under one label vocabulary, in the order of their table.

    Args:
        samples: The rows.
        labels: The vocabulary that `Sample.labels` is written in.
        source: Where they come from, for messages.
        notes: What a reader had to decide for the data, one line each, for people to see.
    """

    samples: tuple[Sample, ...]
    labels: LabelSet
    source: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def select(self, modality: str | None = None, split: str | None = None) -> SampleSet:
        """The samples of a modality and a split, in order; None means any."""
        kept = tuple(
            sample
            for sample in self.samples
            if modality in (None, sample.modality) and split in (None, sample.split)
        )
        return replace(self, samples=kept)

    def targets(self) -> NDArray[np.uint8]:
        """The labels of all samples, uint8 [N, K]."""
        import numpy as np

        if not self.samples:
            return np.zeros((0, len(self.labels)), dtype=np.uint8)
        return np.stack([sample.labels for sample in self.samples])

    def patients(self) -> tuple[str, ...]:
        """The patient id of each sample."""
        return tuple(sample.patient for sample in self.samples)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the rows and of the file sizes; folders do not enter it.

        Raises:
            DatasetError: A file has gone since the table was read.
        """
        digest = hashlib.sha256(canonical_json(list(self.labels.codes)))
        for sample in self.samples:
            try:
                size = split_frame(sample.file)[0].stat().st_size
            except OSError as error:
                raise DatasetError(
                    f"cannot read {sample.file}: {error.strerror}",
                    where=self.source,
                    fix="put the file back or take its row out",
                ) from error
            codes = self.labels.decode(sample.labels)
            row = (sample.file.name, size, sample.modality, codes)
            digest.update(canonical_json([*row, sample.patient, sample.eye, sample.split]))
        return digest.hexdigest()


def missing_images(names: Sequence[tuple[str, str]], expected: str) -> DatasetError:
    """The error for images that are not there: all counted, the first named.

    Args:
        names: Place (file and line) and name of each, at least one.
        expected: Where the first was looked for.
    """
    where, name = names[0]
    more = f", and {len(names) - 1} more with it" if len(names) > 1 else ""
    return DatasetError(
        f"image {name!r} is missing{more}",
        where=where,
        expected=expected,
        fix="put the files back, or take their rows out",
    )


def read_csv(
    path: Path | str, labels: LabelSet | None = None, *, keep_splits: bool = True
) -> SampleSet:
    """Read and check a data-set table.

    Args:
        path: CSV file with the columns file, modality, labels, patient, eye and split; further
            columns are kept. Relative file names start at the folder of the table.
        labels: The vocabulary; None takes TOPCON-MM where it holds every code, else the codes
            of the table, sorted, NOR first.
        keep_splits: False leaves every split empty, whatever the table says.

    Raises:
        DatasetError: The table is missing, empty or malformed, a label, modality or split is
            unknown, an image is missing or stands twice, or a patient is in two splits.
    """
    path = Path(path)
    rows = _rows(path)
    vocabulary = labels if labels is not None else _vocabulary(rows)
    base = _absolute(path.parent)
    first_line: dict[str, int] = {}
    patient_split: dict[str, tuple[str, int]] = {}
    samples = []
    missing: list[tuple[str, str]] = []
    for line, row in rows:
        where = f"{path}:{line}"
        _check_choice(row, "modality", MODALITIES, where)
        if row["split"]:
            _check_choice(row, "split", SPLITS, where)
        if not keep_splits:
            row["split"] = ""
        if not row["patient"]:
            raise DatasetError(
                "no patient id",
                where=where,
                expected="an id that all images of one patient share",
                fix="with one image a patient, repeat the file name",
            )
        file = _file(base, row["file"], where)
        if not split_frame(file)[0].is_file():
            missing.append((where, row["file"]))
        if (earlier := first_line.setdefault(str(file), line)) != line:
            raise DatasetError(
                f"{row['file']} stands twice, first in line {earlier}",
                where=where,
                expected="one row for each image",
                fix=f"join its labels with '{SEPARATOR}' in one row",
            )
        split, since = patient_split.setdefault(row["patient"], (row["split"], line))
        if split != row["split"]:
            raise DatasetError(
                f"patient {row['patient']} is in split {row['split']!r}, "
                f"but in {split!r} in line {since}",
                where=where,
                expected="all images of a patient in one split",
                fix="split by patient: two images of one person are not independent",
            )
        samples.append(
            Sample(
                file=file,
                modality=row["modality"],
                labels=vocabulary.encode(row["labels"], where=where),
                patient=row["patient"],
                eye=row["eye"],
                split=row["split"],
                extra={k: v for k, v in row.items() if k not in COLUMNS},
            )
        )
    if missing:
        raise missing_images(missing, f"a file; relative names start at {base}")
    return SampleSet(tuple(samples), vocabulary, str(path))


def write_csv(path: Path | str, samples: SampleSet) -> None:
    """Write a table that `read_csv` reads back, with absolute file names, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    extra = sorted({name for sample in samples for name in sample.extra})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *extra])
    for sample in samples:
        file = _absolute(sample.file)
        codes = samples.labels.decode(sample.labels)
        row = [file, sample.modality, codes, sample.patient, sample.eye, sample.split]
        writer.writerow([*row, *(sample.extra.get(name, "") for name in extra)])
    atomic_write(Path(path), text.getvalue())


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped fields of each row that is not blank."""
    try:
        # Spreadsheets write a byte-order mark in front of the first column's name.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"cannot read: {error.strerror or error}",
            where=str(path),
            expected=f"a CSV file with the columns {','.join(COLUMNS)}",
            fix="check the path",
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"not UTF-8 text (byte {error.start})",
            where=str(path),
            expected="a CSV file",
            fix="save the table as 'CSV UTF-8'",
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows = []
    try:
        for fields in reader:
            values = [value.strip() for value in fields]
            if not any(values):
                continue
            if not header:
                header = _check_header(values, path)
                continue
            if len(values) != len(header):
                raise DatasetError(
                    f"{len(values)} fields",
                    where=f"{path}:{reader.line_num}",
                    expected=f"{len(header)}, as in the header",
                    fix=f"separate labels by '{SEPARATOR}', put names with commas in quotes",
                )
            rows.append((reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise DatasetError(
            f"not CSV: {error}", where=f"{path}:{reader.line_num}", fix="check the quotes"
        ) from error
    if not rows:
        raise DatasetError(
            "no image in it" if header else "empty",
            where=str(path),
            expected=f"the header {','.join(COLUMNS)} and one row for each image",
        )
    return rows


def _check_header(names: list[str], path: Path) -> list[str]:
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise DatasetError(
            f"column {', '.join(missing)} is missing; the header is {','.join(names)[:200]}",
            where=f"{path}:1",
            expected=f"the columns {','.join(COLUMNS)}",
            fix="add it; eye may be left empty, and split where one is to be made",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(
            f"column {', '.join(twice)!r} stands twice", where=f"{path}:1", fix="rename one"
        )
    return names


def _vocabulary(rows: Iterable[tuple[int, Mapping[str, str]]]) -> LabelSet:
    codes = (code.strip() for _, row in rows for code in row["labels"].split(SEPARATOR))
    found = {code for code in codes if code}
    if found <= set(TOPCON_MM.codes):
        return TOPCON_MM
    return LabelSet.custom(sorted(found, key=lambda code: (code != NORMAL, code)))


def _check_choice(
    row: Mapping[str, str], column: str, allowed: tuple[str, ...], where: str
) -> None:
    if row[column] not in allowed:
        raise DatasetError(
            f"unknown {column} {row[column]!r}",
            where=where,
            expected=f"one of {', '.join(allowed)}",
            fix="write it in lower case" if row[column].lower() in allowed else "",
        )


def _file(base: Path, name: str, where: str) -> Path:
    if not name or "\0" in name:
        raise DatasetError(
            "no file name" if not name else "a NUL byte in the file name",
            where=where,
            expected=f"a file; relative names start at {base}",
            fix="correct the row or take it out",
        )
    return _absolute(base / name)


def _absolute(path: Path) -> Path:
    # Not resolve(): a link into a store must keep the name that the table gives it.
    return Path(os.path.abspath(path))  # noqa: PTH100
