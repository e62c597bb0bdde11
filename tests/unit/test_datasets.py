"""Data sets as users have them: CSV, TOPCON-MM in both released layouts, splits by patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from qdr_edge.errors import DatasetError
from qdr_edge.labels import TOPCON_MM, LabelSet
from qdr_edge.samples import Sample, SampleSet, read_csv, write_csv
from qdr_train.data.read import is_synthetic, read_data
from qdr_train.data.splits import require_splits, split_samples, thin_out
from qdr_train.recipe import Data
from tests.eyes import CODES, write_eyes

EYES = [(p, side) for p in ("a-1", "b", "c", "d", "e", "f") for side in ("L", "R")]


def bits(number: int) -> list[str]:
    return ["1" if k in (number % 11, 3) else "0" for k in range(11)]


def images(folder: Path, separator: str) -> None:
    for modality in ("fundus", "oct"):
        target = folder / f"{modality}{separator}images"
        target.mkdir(parents=True)
        for patient, side in EYES:
            cv2.imwrite(str(target / f"{patient}-{side}-0.png"), np.zeros((8, 8), np.uint8))


def release(root: Path, header: str = "name," + ",".join(TOPCON_MM.codes)) -> Path:
    images(root, "_")
    for modality in ("fundus", "oct"):
        lines = [f"{p}-{s}-0,{','.join(bits(i))}" for i, (p, s) in enumerate(EYES)]
        (root / f"{modality}_labels.csv").write_text("\n".join([header, *lines, "", ""]))
    return root


def code_layout(root: Path, separator: str = "_") -> Path:
    images(root / "train" / "Images", separator)
    for split, part in (("train", EYES[:6]), ("val", EYES[6:8]), ("test", EYES[8:])):
        (root / split).mkdir(exist_ok=True)
        for name in ("cfp.txt", "oct.txt"):
            lines = [f"{p}-{s}-0 {' '.join(bits(i))}" for i, (p, s) in enumerate(part)]
            (root / split / name).write_text("\n".join(lines) + "\n\n")
    return root


def test_release_layout(tmp_path: Path) -> None:
    samples = read_data(release(tmp_path))
    assert len(samples) == 24
    assert samples.labels == TOPCON_MM
    first = samples[0]
    assert (first.patient, first.eye, first.split, first.modality) == ("a-1", "L", "", "fundus")
    assert TOPCON_MM.decode(first.labels) == "NOR;DR"


def test_release_layout_without_header_and_with_columns_in_another_order(tmp_path: Path) -> None:
    plain = read_data(release(tmp_path / "a", header=""))
    shuffled = ",".join(["DR", "name", *[c for c in TOPCON_MM.codes if c != "DR"]])
    root = release(tmp_path / "b", header=shuffled)
    for modality in ("fundus", "oct"):
        table = root / f"{modality}_labels.csv"
        rows = [line.split(",") for line in table.read_text().splitlines()[1:] if line]
        moved = [[r[4], r[0], *r[1:4], *r[5:]] for r in rows]
        table.write_text("\n".join([shuffled, *(",".join(r) for r in moved)]))
    for one, other in zip(plain, read_data(root), strict=True):
        assert one.labels.tolist() == other.labels.tolist()


@pytest.mark.parametrize("separator", ["_", "-"])
def test_code_layout_keeps_its_split_and_blank_lines_do_no_harm(
    tmp_path: Path, separator: str
) -> None:
    samples = read_data(code_layout(tmp_path, separator))
    counts = {s: len(samples.select(split=s)) for s in ("train", "val", "test")}
    assert counts == {"train": 12, "val": 4, "test": 8}


def test_part_of_the_labels(tmp_path: Path) -> None:
    samples = read_data(release(tmp_path), LabelSet.custom(["DR", "NOR"]))
    assert samples[0].labels.tolist() == [1, 1]
    assert samples[1].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("b-L-0 1", "b-L-0 2", "0 or 1"),
        ("b-L-0 ", "x-L-0 ", "image 'x-L-0' is missing"),
        ("b-R-0 ", "b-L-0 ", "stands twice"),
    ],
)
def test_bad_line_is_named_by_file_and_number(
    tmp_path: Path, old: str, new: str, part: str
) -> None:
    root = code_layout(tmp_path)
    path = root / "train" / "cfp.txt"
    text = path.read_text()
    line = next(i for i, t in enumerate(text.splitlines(), 1) if t.startswith(old[:6]))
    path.write_text(text.replace(text.splitlines()[line - 1][: len(old)], new))
    with pytest.raises(DatasetError) as caught:
        read_data(root)
    assert f"{path}:{line}" in str(caught.value)
    assert part in str(caught.value)


def test_patient_in_two_lists(tmp_path: Path) -> None:
    root = code_layout(tmp_path)
    moved = (root / "train" / "cfp.txt").read_text().splitlines()
    (root / "train" / "cfp.txt").write_text("\n".join(moved[1:]))
    with (root / "val" / "cfp.txt").open("a") as handle:
        handle.write(moved[0])
    with pytest.raises(DatasetError, match="patient a-1 is in train and val"):
        read_data(root)


def test_file_name_without_side(tmp_path: Path) -> None:
    root = release(tmp_path)
    (root / "fundus_images" / "b-L-0.png").rename(root / "fundus_images" / "b.png")
    table = root / "fundus_labels.csv"
    table.write_text(table.read_text().replace("b-L-0", "b"))
    with pytest.raises(DatasetError, match="names no patient and side"):
        read_data(root)


def test_folder_without_data_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no data set recognised.*TOPCON-MM.*MMC-AMD.*MultiEYE.*CSV"
    ):
        read_data(tmp_path)


def test_folder_with_one_table_and_the_synthetic_marker(tmp_path: Path) -> None:
    table = write_eyes(tmp_path)
    assert len(read_data(tmp_path)) == len(read_csv(table))
    assert not is_synthetic(table)
    (tmp_path / "SYNTHETIC").touch()
    assert is_synthetic(table)
    assert is_synthetic(tmp_path)


def many(split: str = "", patients: int = 100) -> SampleSet:
    """Two images a patient; label DR in every tenth patient."""
    labels = LabelSet.custom(CODES)
    rows = [
        Sample(
            Path(f"/{p}-{i}.png"),
            ("fundus", "oct")[i],
            np.array([p % 10 != 0, 0, p % 10 == 0], dtype=np.uint8),
            f"p{p}",
            "",
            split,
        )
        for p in range(patients)
        for i in range(2)
    ]
    return SampleSet(tuple(rows), labels, "many")


def test_split_is_made_between_patients_and_near_the_shares() -> None:
    samples, note = split_samples(many(), Data(), seed=1)
    owners: dict[str, set[str]] = {}
    for sample in samples:
        owners.setdefault(sample.patient, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in owners.values())
    counts = {s: len(samples.select("fundus", s)) for s in ("train", "val", "test")}
    assert counts == {"train": 70, "val": 15, "test": 15}
    rare = {s: int(samples.select("oct", s).targets()[:, 2].sum()) for s in counts}
    assert rare["train"] == 7
    assert {rare["val"], rare["test"]} <= {1, 2}
    assert "70%" in note


def test_split_repeats_with_its_seed_only() -> None:
    first, again, other = (
        [s.split for s in split_samples(many(), Data(), seed)[0]] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_hold_out_never_reports_on_the_images_it_selects_by() -> None:
    rows = [replace(s, split="val" if i >= 160 else "train") for i, s in enumerate(many())]
    given = replace(many(), samples=tuple(rows))
    samples, note = split_samples(given, Data(), seed=1)
    former = {s.file for s in given if s.split == "val"}
    assert {s.file for s in samples if s.split == "test"} == former
    assert {s.split for s in samples} == {"train", "val", "test"}
    assert "became the test split" in note
    kept, nothing = split_samples(given, Data(hold_out=False), seed=1)
    assert kept is given
    assert nothing == ""


def test_complete_split_is_left_alone(tmp_path: Path) -> None:
    samples = read_csv(write_eyes(tmp_path))
    assert split_samples(samples, Data(), 0) == (samples, "")


def test_split_that_is_half_there_is_refused() -> None:
    rows = [replace(s, split="train" if i < 50 else "") for i, s in enumerate(many())]
    with pytest.raises(DatasetError, match=r"p25|25-0.png has no split"):
        split_samples(replace(many(), samples=tuple(rows)), Data(), 0)


def test_too_few_patients() -> None:
    with pytest.raises(DatasetError, match="2 patients"):
        split_samples(many(patients=2), Data(), 0)


def test_modality_without_validation_images() -> None:
    with pytest.raises(DatasetError, match="no oct image has split 'val'"):
        require_splits(many("train"), "oct")


def test_thin_out_keeps_order_and_both_modalities() -> None:
    thin = thin_out(many("train"), 5)
    assert len(thin.select("fundus")) == 5
    assert len(thin.select("oct")) == 5
    files = [s.file for s in many("train")]
    assert [s.file for s in thin] == [f for f in files if f in {s.file for s in thin}]
    assert thin_out(thin, None) is thin


def test_made_split_survives_the_table(tmp_path: Path) -> None:
    given = read_csv(write_eyes(tmp_path, split=False))
    samples, _ = split_samples(given, Data(), 0)
    write_csv(tmp_path / "data.csv", samples)
    again = read_csv(tmp_path / "data.csv", samples.labels)
    assert [s.split for s in again] == [s.split for s in samples]
    assert again.sha256 == samples.sha256
