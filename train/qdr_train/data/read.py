"""The one way in: what lies at a path, recognised and read; docs/datasets.md shows the layouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from qdr_edge.errors import DatasetError
from qdr_edge.labels import LabelSet
from qdr_edge.samples import SampleSet, read_csv
from qdr_train.data.dicom import is_dicom, read_dicom
from qdr_train.data.folders import is_folders, read_folders
from qdr_train.data.mmc_amd import is_mmc_amd, part_patients, read_mmc_amd
from qdr_train.data.multieye import is_multieye, read_multieye
from qdr_train.data.splits import require_disjoint
from qdr_train.data.topcon import LABEL_TABLES, is_topcon, read_topcon

# The synthetic generator leaves this file beside its table.
SYNTHETIC_MARKER = "SYNTHETIC"


@dataclass(frozen=True)
class Layout:
    """One form that a data set may have.

    Args:
        name: For people.
        shape: What it is recognised by.
        matches: Whether a path has it.
        read: From path and vocabulary to samples, splits unchecked.
    """

    name: str
    shape: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, LabelSet | None], SampleSet]


def is_table(path: Path) -> bool:
    """Whether a path is a file that is no DICOM, or a folder with exactly one CSV."""
    if path.is_dir():
        return len(_tables(path)) == 1
    return path.is_file() and not is_dicom(path)


def _read_table(path: Path, labels: LabelSet | None, *, keep_splits: bool = True) -> SampleSet:
    table = _tables(path)[0] if path.is_dir() else path
    return read_csv(table, labels, keep_splits=keep_splits)


TABLE = Layout("CSV", "one .csv file", is_table, _read_table)
MMC_AMD = Layout("MMC-AMD", "mmc-amd-split{A,AP}-train/ImageSets", is_mmc_amd, read_mmc_amd)
FOLDERS = Layout("class folders", "[train/]CLASS/*.jpeg", is_folders, read_folders)
DICOM = Layout("DICOM", "*.dcm", is_dicom, read_dicom)
NAMED = (
    Layout("TOPCON-MM", "train/cfp.txt or fundus_labels.csv", is_topcon, read_topcon),
    MMC_AMD,
    Layout("MultiEYE", "assemble/train/large9cls.txt", is_multieye, read_multieye),
    TABLE,
)


def recognise(path: Path) -> Layout:
    """The layout of what lies at a path. A CSV counts before class folders and DICOM files.

    Raises:
        DatasetError: None, or two of the named ones; says what was looked for.
    """
    found = [layout for layout in NAMED if layout.matches(path)]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise DatasetError(
            f"two layouts at once: {' and '.join(layout.name for layout in found)}",
            where=str(path),
            expected="one data set in a folder",
            fix="name the CSV file itself, or move one of them away",
        )
    for layout in (FOLDERS, DICOM):
        if layout.matches(path):
            return layout
    if not path.is_dir():
        return TABLE  # whose reader says that there is no such file
    tables = len(_tables(path))
    looked = "; ".join(f"{layout.name}: {layout.shape}" for layout in (*NAMED, FOLDERS, DICOM))
    raise DatasetError(
        f"{tables} CSV files" if tables else "no data set recognised",
        where=str(path),
        expected=f"one of {looked}",
        fix="name the CSV file itself" if tables else "docs/datasets.md shows the layouts",
    )


def read_data(
    path: Path,
    labels: LabelSet | None = None,
    modalities: Sequence[str] = (),
    *,
    keep_splits: bool = True,
) -> SampleSet:
    """The samples of whatever lies at a path.

    Args:
        path: File or folder.
        labels: The vocabulary; None takes the data's own.
        modalities: What is wanted; class folders that tell none are of it if it is one.
        keep_splits: False leaves every split empty, whatever the data says.

    Raises:
        DatasetError: Nothing readable there, something in it is wrong, or a patient stands in two
            splits.
    """
    layout = recognise(path)
    samples = read_unchecked(layout, path, labels, modalities, keep_splits=keep_splits)
    require_disjoint(samples)
    return samples


def read_unchecked(
    layout: Layout,
    path: Path,
    labels: LabelSet | None = None,
    modalities: Sequence[str] = (),
    *,
    keep_splits: bool = True,
) -> SampleSet:
    """As `read_data`, of a known layout, and a patient may stand in two splits.

    Raises:
        DatasetError: Something in it is wrong.
    """
    read = layout.read
    if layout is FOLDERS and len(modalities) == 1:
        read = partial(read_folders, modality=modalities[0])
    elif layout is TABLE:
        read = partial(_read_table, keep_splits=keep_splits)
    samples = read(path, labels)
    if not keep_splits:
        return replace(samples, samples=tuple(replace(s, split="") for s in samples))
    return part_patients(samples) if layout is MMC_AMD else samples


def is_synthetic(path: Path) -> bool:
    """Whether the data set declares itself synthetic."""
    folder = path if path.is_dir() else path.parent
    return (folder / SYNTHETIC_MARKER).is_file()


def _tables(folder: Path) -> list[Path]:
    return [table for table in sorted(folder.glob("*.csv")) if table.name not in LABEL_TABLES]
