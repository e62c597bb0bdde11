"""MMC-AMD, MultiEYE and class folders, read exactly as they are released."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from qdr_edge.errors import DatasetError
from qdr_edge.labels import MMC_AMD, MULTIEYE, LabelSet
from qdr_edge.samples import SampleSet
from qdr_train.data.read import read_data
from qdr_train.data.splits import split_samples
from qdr_train.recipe import Data
from tests.eyes import write_eyes
from tests.releases import MMC_SPLITS, mmc_amd, multieye, oct2017, picture, write_lines


def refused(path: Path, labels: LabelSet | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        read_data(path, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def counts(samples: SampleSet) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for sample in samples:
        key = sample.modality, sample.split
        found[key] = found.get(key, 0) + 1
    return found


def code(samples: SampleSet, name: str) -> str:
    sample = next(s for s in samples if s.file.name.startswith(name))
    return samples.labels.decode(sample.labels)


def change(path: Path, old: str, new: str) -> int:
    """Replace the first occurrence; returns its line number."""
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


# MMC-AMD


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows-with-mark"])
@pytest.mark.parametrize("linked", [False, True], ids=["one-folder", "linked"])
@pytest.mark.parametrize("names", [False, True], ids=["numbers", "names-and-numbers"])
def test_mmc_amd_as_released(tmp_path: Path, end: str, linked: bool, names: bool) -> None:
    root = mmc_amd(tmp_path, linked=linked, end=end, names_in_labels=names)
    samples = read_data(root)
    assert samples.labels == MMC_AMD
    assert samples.labels.exclusive
    assert counts(samples) == {
        ("fundus", "train"): 4,
        ("oct", "train"): 4,
        ("fundus", "val"): 2,
        ("oct", "val"): 1,
        ("fundus", "test"): 1,
        ("oct", "test"): 2,
    }
    assert [code(samples, n) for n in ("f-h-1001", "f-d-2002-l", "f-p-4004-r", "o-w-6006")] == [
        "NOR",
        "AMD",
        "PCV",
        "WAMD",
    ]
    assert samples.notes == ()


def test_mmc_amd_eyes_and_patients(tmp_path: Path) -> None:
    samples = read_data(mmc_amd(tmp_path))
    found = {s.file.stem: (s.patient, s.eye) for s in samples}
    assert found["f-d-2002-l"] == ("2002", "d-2002-l")
    assert found["f-d-2002-r"] == ("2002", "d-2002-r")
    # Two scans of the left eye; the modalities share the eye.
    assert found["o-d-2002-l_001"] == found["o-d-2002-l_002"] == found["f-d-2002-l"]
    assert found["f-w-3003"] == ("3003", "w-3003")


@pytest.mark.parametrize("path", ["mmc-amd-splitAP", "mmc-amd-splitAP-train", "."])
def test_mmc_amd_by_the_name_of_a_split(tmp_path: Path, path: str) -> None:
    root = mmc_amd(tmp_path)
    assert len(read_data(root / path)) == 14


def test_mmc_amd_asks_which_split_where_both_are_there(tmp_path: Path) -> None:
    root = mmc_amd(mmc_amd(tmp_path, "A"), "AP")
    message = refused(root)
    assert "splits A and AP" in message
    assert str(root / "mmc-amd-splitAP") in message
    for version in ("A", "AP"):
        samples = read_data(root / f"mmc-amd-split{version}")
        assert samples.source.endswith(f"split{version}")
        assert len(samples) == 14


def overlapping() -> dict[str, dict[str, list[str]]]:
    """Both eyes of patient 2002, but in two splits."""
    moved = copy.deepcopy(MMC_SPLITS)
    moved["train"]["cfp"].remove("f-d-2002-r")
    moved["val"]["cfp"].append("f-d-2002-r")
    return moved


def test_split_a_parts_patients_of_several_splits_and_says_so(tmp_path: Path) -> None:
    samples = read_data(mmc_amd(tmp_path, "A", splits=overlapping()))
    found = {s.file.stem: s.patient for s in samples}
    assert found["f-d-2002-l"] == found["o-d-2002-l_001"] == "2002/train"
    assert found["f-d-2002-r"] == "2002/val"
    assert found["f-h-1001"] == "1001"
    assert any("1 patients stand in several splits" in note for note in samples.notes)
    anew = read_data(tmp_path, keep_splits=False)
    assert {s.patient for s in anew if "2002" in s.file.name} == {"2002"}
    assert {s.split for s in anew} == {""}


def test_split_ap_with_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    message = refused(mmc_amd(tmp_path, "AP", splits=overlapping()))
    assert "patient 2002 is in train and val" in message
    assert "data split" in message


def test_patients_that_subject_sets_do_not_name_are_not_guessed(tmp_path: Path) -> None:
    root = mmc_amd(tmp_path)
    write_lines(root / "mmc-amd-splitAP-train" / "SubjectSets" / "cfp.txt", ["1001", "3003"])
    (root / "mmc-amd-splitAP-val" / "SubjectSets" / "cfp.txt").unlink()
    samples = read_data(root)
    found = {s.file.stem: s.patient for s in samples}
    assert found["f-d-2002-l"] == "d-2002-l"
    assert found["f-h-5005"] == "h-5005"
    assert any("no patient for 4 of 14 images" in note for note in samples.notes)


def test_subject_ids_may_be_written_with_the_class(tmp_path: Path) -> None:
    root = mmc_amd(tmp_path)
    for split in MMC_SPLITS:
        for table in (root / f"mmc-amd-splitAP-{split}" / "SubjectSets").iterdir():
            write_lines(table, [f"d-{line}" for line in table.read_text().split()])
    samples = read_data(root)
    assert {s.patient for s in samples if "2002" in s.file.name} == {"d-2002"}


def test_eyes_that_eye_sets_do_not_know_are_mentioned(tmp_path: Path) -> None:
    root = mmc_amd(tmp_path)
    write_lines(root / "mmc-amd-splitAP-test" / "EyeSets" / "cfp.txt", ["w-1"])
    assert any("eyes of 1 of 14" in note for note in read_data(root).notes)


@pytest.mark.parametrize(
    ("folder", "old", "new", "part"),
    [
        ("annotations", "f-d-2002-r 1", "f-d-2002-r 4", "unknown label '4'; expected one of 0 NOR"),
        ("annotations", "f-d-2002-r 1", "f-d-2002-r x", "unknown label 'x'"),
        ("annotations", "f-d-2002-r 1", "f-d-2002-r -1", "unknown label '-1'"),
        ("annotations", "f-d-2002-r 1", "f-h-1001 0", "label of 'f-h-1001'"),
        ("annotations", "f-d-2002-r 1", "f-d-2002-r 3", "label WAMD, but the name"),
        ("ImageSets", "f-d-2002-r", "f-d-2002-l", "label of 'f-d-2002-r'"),
    ],
)
def test_mmc_amd_names_file_and_line_of_a_bad_label(
    tmp_path: Path, folder: str, old: str, new: str, part: str
) -> None:
    root = mmc_amd(tmp_path)
    lists = root / "mmc-amd-splitAP-train"
    line = change(lists / folder / "cfp.txt", old, new)
    message = refused(root)
    assert f"{lists / 'annotations' / 'cfp.txt'}:{line}: " in message
    assert part in message


def test_mmc_amd_counts_missing_images_and_names_doubles(tmp_path: Path) -> None:
    root = mmc_amd(tmp_path / "a", names_in_labels=False)
    images = root / "mmc-amd" / "ImageData" / "cfp-clahe-448x448"
    for name in ("f-d-2002-l", "f-w-3003", "f-w-6006-l"):
        (images / f"{name}.jpg").unlink()
    message = refused(root)
    assert "image 'f-d-2002-l' is missing, and 2 more with it" in message
    assert f"{root / 'mmc-amd-splitAP-train' / 'ImageSets' / 'cfp.txt'}:2: " in message
    root = mmc_amd(tmp_path / "b", names_in_labels=False)
    table = root / "mmc-amd-splitAP-train" / "ImageSets" / "cfp.txt"
    change(table, "f-d-2002-r", "f-d-2002-l")
    assert f"{table}:3: f-d-2002-l.jpg stands twice, first in {table}:2" in refused(root)


def test_mmc_amd_lists_of_unlike_length(tmp_path: Path) -> None:
    root = mmc_amd(tmp_path)
    write_lines(root / "mmc-amd-splitAP-val" / "annotations" / "oct.txt", [])
    assert "0 labels for 1 images" in refused(root)


# MultiEYE


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows-with-mark"])
def test_multieye_as_released(tmp_path: Path, end: str) -> None:
    samples = read_data(multieye(tmp_path, end=end))
    assert samples.labels == MULTIEYE
    assert counts(samples) == {
        (modality, split): number
        for modality in ("fundus", "oct")
        for split, number in (("train", 5), ("val", 5), ("test", 2))
    }
    for number, expected in enumerate(MULTIEYE.codes):
        folder = "train" if number < 5 else "test" if number > 6 else "dev"
        assert code(samples, f"{folder}-{number}") == expected
    assert next(s for s in samples if "-3" in s.file.name).file.name == "train-3..png"


def test_multieye_makes_up_no_patients_and_says_so(tmp_path: Path) -> None:
    samples = read_data(multieye(tmp_path))
    assert len(set(samples.patients())) == len(samples)
    assert {s.eye for s in samples} == {""}
    assert any("names no patients" in note for note in samples.notes)
    assert "names no patients" in split_samples(samples, Data(), 0)[1]


def test_multieye_with_one_modality(tmp_path: Path) -> None:
    root = multieye(tmp_path)
    for path in sorted((root / "assemble").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "assemble").rmdir()
    assert {s.modality for s in read_data(root)} == {"oct"}


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("train-2 2", "train-2 9", "unknown label '9'; expected one of 0 NOR, 1 AMD, 2 CSC"),
        ("train-2 2", "train-2", "1 fields"),
        ("train-2 2", "train-2 2 3", "3 fields"),
        ("train-2 2", "train-1 1", "train-1.png stands twice"),
        ("train-2 2", "train-8 2", "image 'train-8' is missing"),
    ],
)
def test_multieye_names_file_and_line(tmp_path: Path, old: str, new: str, part: str) -> None:
    root = multieye(tmp_path)
    table = root / "assemble_oct" / "train" / "large9cls.txt"
    line = change(table, old, new)
    message = refused(root)
    assert f"{table}:{line}: " in message
    assert part in message


def test_a_vocabulary_without_a_class_of_the_data_is_refused(tmp_path: Path) -> None:
    root = multieye(tmp_path)
    message = refused(root, LabelSet.custom(["NOR", "AMD", "CSC", "DR"], exclusive=True))
    assert "large9cls.txt:5: unknown label 'GLC'" in message


# Class folders


def test_class_folders_as_oct2017_has_them(tmp_path: Path) -> None:
    samples = read_data(oct2017(tmp_path), modalities=("oct",))
    assert counts(samples) == {("oct", split): 16 for split in ("train", "val", "test")}
    assert samples.labels.codes == ("NOR", "AMD", "CNV", "DR")
    assert samples.labels.exclusive
    assert code(samples, "DRUSEN") == "AMD"
    assert code(samples, "DME") == "DR"
    assert len(set(samples.patients())) == 24
    assert samples.notes == (
        "classes: DRUSEN = AMD, CNV = CNV, DME = DR, NORMAL = NOR",
        "patients are the number behind the class in each file name",
    )


def test_class_folders_need_to_be_told_the_modality(tmp_path: Path) -> None:
    root = oct2017(tmp_path)
    assert "nothing says which modality" in refused(root)
    with pytest.raises(DatasetError, match="which modality"):
        read_data(root, modalities=("fundus", "oct"))


def test_class_folders_under_fundus_and_oct(tmp_path: Path) -> None:
    oct2017(tmp_path / "oct")
    for name in ("glaucoma", "Normal"):
        picture(tmp_path / "fundus" / "train" / name / "a.png", 1000 + len(name))
    samples = read_data(tmp_path)
    assert counts(samples)["fundus", "train"] == 2
    assert samples.labels.codes == ("NOR", "AMD", "CNV", "DR", "GLC")
    # One file without a patient in its name, and none is believed.
    assert len(set(samples.patients())) == len(samples)
    assert any("file names tell no patients" in note for note in samples.notes)


def test_class_folders_without_splits_and_with_names_of_their_own(tmp_path: Path) -> None:
    for name in ("Wet AMD", "my finding", "NORMAL"):
        for number in range(4):
            picture(tmp_path / name / f"{number}.jpg", len(name) * 10 + number)
    samples = read_data(tmp_path, modalities=("fundus",))
    assert samples.labels.codes == ("NOR", "WAMD", "my finding")
    assert {s.split for s in samples} == {""}
    divided, note = split_samples(samples, Data(), 0)
    assert {s.split for s in divided} == {"train", "val", "test"}
    assert "may stand in several splits" in note


def test_class_folders_with_a_patient_in_two_splits(tmp_path: Path) -> None:
    root = oct2017(tmp_path)
    source = root / "train" / "CNV" / "CNV-100000-1.jpeg"
    source.rename(root / "val" / "CNV" / source.name)
    with pytest.raises(DatasetError, match=r"patient 100000 is in train and val.*--anew"):
        read_data(root, modalities=("oct",))
    assert len(read_data(root, modalities=("oct",), keep_splits=False)) == 48


def test_class_folder_that_can_be_no_code(tmp_path: Path) -> None:
    for name in ("NORMAL", "AMD;DR"):
        picture(tmp_path / name / "a.png", len(name))
    with pytest.raises(DatasetError, match="class folder 'AMD;DR'"):
        read_data(tmp_path, modalities=("fundus",))


# Which layout


def test_two_named_layouts_at_once_are_refused(tmp_path: Path) -> None:
    multieye(mmc_amd(tmp_path))
    assert "two layouts at once: MMC-AMD and MultiEYE" in refused(tmp_path)
    write_eyes(tmp_path / "other")
    (tmp_path / "other" / "eyes.csv").rename(tmp_path / "eyes.csv")
    assert "and CSV" in refused(tmp_path)


def test_a_table_counts_before_class_folders(tmp_path: Path) -> None:
    oct2017(tmp_path)
    rows = ["file,modality,labels,patient,eye,split", "val/CNV/CNV-100100-1.jpeg,oct,CNV,p,,"]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    assert len(read_data(tmp_path)) == 1


def test_an_unknown_folder_lists_every_layout(tmp_path: Path) -> None:
    message = refused(tmp_path)
    for name in ("TOPCON-MM", "MMC-AMD", "MultiEYE", "CSV", "class folders", "DICOM"):
        assert name in message
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    assert "2 CSV files" in refused(tmp_path)
    assert "cannot read" in refused(tmp_path / "none.csv")
