"""`qdr-edge data check`, `split` and `table`: what the user sees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from qdr_edge.errors import DatasetError, OutputError
from qdr_edge.labels import LabelSet
from qdr_edge.samples import read_csv
from qdr_train.commands.data import app
from tests.dicoms import dicom, dicom_bytes
from tests.eyes import write_eyes
from tests.releases import mmc_amd, multieye, oct2017
from tests.unit.test_datasets import release
from tests.unit.test_dicom import RGB


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def words(result: Result) -> str:
    """All that was printed, blanks joined."""
    return " ".join(result.output.split())


def refused(result: Result, kind: type[Exception] = DatasetError) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def test_check_counts_images_patients_eyes_and_labels(tmp_path: Path) -> None:
    result = run("check", write_eyes(tmp_path), "--decode")
    assert result.exit_code == 0, result.output
    text = words(result)
    assert "fundus train 12 6 12 0" in text
    assert "oct test 6 3 6 0" in text
    assert "NOR 4 2 2 4 2 2" in text
    assert "no problem found" in text


def test_check_tells_layout_and_notes(tmp_path: Path) -> None:
    text = words(run("check", multieye(tmp_path / "m")))
    assert text.startswith("MultiEYE: ")
    assert "note: MultiEYE names no patients" in text
    assert "fundus train 5 5 0 5" in text
    assert "each image has one" in text
    assert words(run("check", mmc_amd(tmp_path / "a"))).startswith("MMC-AMD: ")
    text = words(run("check", oct2017(tmp_path / "o"), "--modality", "oct"))
    assert text.startswith("class folders: ")
    assert "oct train 16 8 0 16" in text


def test_check_finds_the_same_image_in_two_splits(tmp_path: Path) -> None:
    table = write_eyes(tmp_path)
    shutil.copy(tmp_path / "oct-0-L.png", tmp_path / "oct-3-L.png")
    result = run("check", table)
    assert "1 problems" in refused(result)
    assert "oct-3-L.png are the same image and stand in train and test" in words(result)
    assert "belong to patients p0 and p3" in words(result)


def test_check_finds_contradicting_labels_and_unreadable_images(tmp_path: Path) -> None:
    table = write_eyes(tmp_path)
    shutil.copy(tmp_path / "oct-0-L.png", tmp_path / "oct-0-R.png")
    (tmp_path / "fundus-2-L.png").write_bytes(b"no image")
    result = run("check", table)
    assert "1 problems" in refused(result)
    assert "are labelled NOR and AMD" in words(result)
    result = run("check", table, "--decode")
    assert "2 problems" in refused(result)
    assert "fundus-2-L.png: not an image" in words(result)


def test_check_lists_patients_in_two_splits_and_shortens_long_lists(tmp_path: Path) -> None:
    root = oct2017(tmp_path)
    for name in ("CNV", "DME", "DRUSEN", "NORMAL"):
        for file in sorted((root / "train" / name).glob("[A-Z]*-[13].jpeg")):
            file.rename(root / "val" / name / file.name)
    result = run("check", root, "--modality", "oct")
    assert "6 problems" in refused(result)
    assert "problem: patient 100000 is in train and val" in words(result)
    assert "… and 3 more of this kind" in words(result)


def test_check_of_missing_images_is_an_error_of_the_data_set(tmp_path: Path) -> None:
    table = write_eyes(tmp_path)
    for name in ("oct-0-L.png", "oct-1-L.png"):
        (tmp_path / name).unlink()
    message = refused(run("check", table))
    assert "image 'oct-0-L.png' is missing, and 1 more with it" in message
    assert DatasetError.exit_code == 4


def test_check_of_dicom_files_says_what_is_there_and_what_to_do(tmp_path: Path) -> None:
    for eye in ("R", "L"):
        content = dicom_bytes(dicom(RGB, "RGB", ImageLaterality=eye))
        (tmp_path / f"{eye}.dcm").write_bytes(content)
    result = run("check", tmp_path)
    assert "qdr-edge data table" in refused(result)
    assert "Ophthalmic Photography 8 Bit" in words(result)
    assert "Secret" not in result.output


def test_split_saves_what_can_be_used_again(tmp_path: Path) -> None:
    root = release(tmp_path / "topcon")
    out = tmp_path / "split.csv"
    result = run("split", root, "--out", out, "--seed", 3, "--shares", "0.5,0.25,0.25")
    assert result.exit_code == 0, result.output
    assert "patients were divided into train 50%" in words(result)
    samples = read_csv(out)
    patients = {s: set(samples.select(split=s).patients()) for s in ("train", "val", "test")}
    assert [len(patients[s]) for s in ("train", "val", "test")] == [3, 1, 2]
    assert not patients["train"] & patients["val"]
    again = tmp_path / "again.csv"
    run("split", root, "--out", again, "--seed", 3, "--shares", "0.5,0.25,0.25")
    assert again.read_bytes() == out.read_bytes()


def test_split_overwrites_nothing(tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    out.write_text("mine")
    source = write_eyes(tmp_path / "eyes")
    assert "is there already" in refused(run("split", source, "--out", out), OutputError)
    assert out.read_text() == "mine"


def test_split_anew_parts_patients_that_stand_in_two_splits(tmp_path: Path) -> None:
    root = oct2017(tmp_path / "oct")
    moved = root / "train" / "CNV" / "CNV-100000-1.jpeg"
    moved.rename(root / "val" / "CNV" / moved.name)
    out = tmp_path / "split.csv"
    arguments = ["split", root, "--modality", "oct", "--out", out]
    assert "patient 100000" in refused(run(*arguments))
    result = run(*arguments, "--anew")
    assert result.exit_code == 0, result.output
    assert "--set data.labels='[NOR,AMD,CNV,DR]' --set data.exclusive=true" in words(result)
    samples = read_csv(out, LabelSet.custom(["NOR", "AMD", "CNV", "DR"], exclusive=True))
    assert {s.split for s in samples} == {"train", "val", "test"}
    assert len({s.split for s in samples if s.patient == "100000"}) == 1
    other = tmp_path / "other.csv"
    assert run(*arguments[:-1], other, "--anew", "--seed", 1).exit_code == 0
    assert other.read_bytes() != out.read_bytes()


def test_split_of_a_table_anew(tmp_path: Path) -> None:
    source = write_eyes(tmp_path / "eyes")
    text = source.read_text().replace("p0,R,train", "p0,R,val", 1)
    source.write_text(text)
    out = tmp_path / "out.csv"
    assert "patient p0" in refused(run("split", source, "--out", out))
    assert run("split", source, "--out", out, "--anew").exit_code == 0
    assert len(read_csv(out)) == 48


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--shares", "0.5,0.5", "three numbers"),
        ("--shares", "a,b,c", "three numbers"),
        ("--shares", "0.9,0.3,0.1", "three numbers"),
        ("--modality", "xray", "fundus or oct"),
    ],
)
def test_bad_options_are_usage_errors(tmp_path: Path, option: str, value: str, said: str) -> None:
    source = write_eyes(tmp_path / "eyes")
    result = run("split", source, "--out", tmp_path / "x.csv", option, value)
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "x.csv").exists()


def test_labels_may_be_named_or_listed(tmp_path: Path) -> None:
    source = write_eyes(tmp_path)
    assert "PED" in words(run("check", source, "--labels", "TOPCON-MM"))
    text = words(run("check", source, "--labels", "DR,AMD,NOR"))
    assert text.index(" DR ") < text.index(" NOR ")
    assert "unknown label 'NOR'" in refused(run("check", source, "--labels", "DR,AMD"))
    assert "unknown label set" in refused(run("check", source, "--labels", "NONE"))


def test_table_of_dicom_frames(tmp_path: Path) -> None:
    (tmp_path / "eye.dcm").write_bytes(dicom_bytes(dicom(RGB, "RGB")))
    out = tmp_path / "table.csv"
    assert "1 rows" in words(run("table", tmp_path, "--out", out))
    assert out.read_text().splitlines()[1] == f"{tmp_path / 'eye.dcm'},fundus,,p1,,"
    assert "is there already" in refused(run("table", tmp_path, "--out", out), OutputError)
    assert "no DICOM file" in refused(run("table", tmp_path / "none", "--out", tmp_path / "t.csv"))
