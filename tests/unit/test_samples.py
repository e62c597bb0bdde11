"""The data-set table: what it accepts, and that it names the line of what it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from qdr_edge.errors import DatasetError, OutputError
from qdr_edge.labels import TOPCON_MM, LabelSet
from qdr_edge.samples import read_csv, write_csv

HEADER = "file,modality,labels,patient,eye,split"
GOOD = (
    "a.png,fundus,DR;EXU,p1,R,train",
    "b.png,oct,NOR,p1,R,train",
    "c.png,fundus,NOR,p2,,val",
    "d.png,oct,CNV,p3,L,test",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate("abcd"):
        (tmp_path / f"{name}.png").write_bytes(b"x" * (index + 1))
    return tmp_path


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "data.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_rows_become_samples_in_order(folder: Path) -> None:
    samples = read_csv(table(folder, *GOOD))
    assert samples.labels is TOPCON_MM
    assert [s.file for s in samples] == [folder / f"{n}.png" for n in "abcd"]
    assert samples.patients() == ("p1", "p1", "p2", "p3")
    assert samples[2].eye == ""
    targets = samples.targets()
    assert targets.shape == (4, 11)
    assert targets.dtype == np.uint8
    assert targets.sum() == 5
    assert targets[0, TOPCON_MM.index("EXU")] == 1


def test_select_keeps_the_order_and_the_vocabulary(folder: Path) -> None:
    samples = read_csv(table(folder, *GOOD))
    assert [s.file.name for s in samples.select(modality="fundus")] == ["a.png", "c.png"]
    assert [s.file.name for s in samples.select("oct", "test")] == ["d.png"]
    assert len(samples.select()) == 4
    nothing = samples.select("fundus", "test")
    assert nothing.targets().shape == (0, 11)


def test_unknown_codes_make_their_own_vocabulary_with_normal_first(folder: Path) -> None:
    samples = read_csv(table(folder, "a.png,fundus,ZZZ;NOR,p1,,train", "b.png,fundus,GLC,p2,,val"))
    assert samples.labels.codes == ("NOR", "GLC", "ZZZ")


def test_blank_lines_byte_order_mark_and_further_columns_are_read(folder: Path) -> None:
    path = folder / "data.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + f"{HEADER},age\r\n\r\n{GOOD[0]},78\r\n,,,,,,\r\n\r\n".encode()
    )
    samples = read_csv(path)
    assert len(samples) == 1
    assert samples[0].extra == {"age": "78"}


def test_writing_and_reading_again_gives_the_same_samples(folder: Path) -> None:
    before = read_csv(
        table(folder, *(f"{row},{i}" for i, row in enumerate(GOOD)), header=f"{HEADER},age")
    )
    other = folder / "elsewhere"
    other.mkdir()
    write_csv(other / "copy.csv", before)
    after = read_csv(other / "copy.csv")
    assert after.sha256 == before.sha256
    assert [s.file for s in after] == [s.file for s in before]
    assert [s.extra for s in after] == [s.extra for s in before]
    assert Path((other / "copy.csv").read_text().splitlines()[1].split(",")[0]).is_absolute()


def test_writing_into_a_missing_folder_is_an_output_error(folder: Path) -> None:
    samples = read_csv(table(folder, *GOOD))
    with pytest.raises(OutputError):
        write_csv(folder / "missing" / "copy.csv", samples)


def test_the_fingerprint_follows_rows_and_sizes_but_not_folders(folder: Path) -> None:
    path = table(folder, *GOOD)
    before = read_csv(path).sha256
    assert read_csv(path).sha256 == before
    assert read_csv(table(folder, *GOOD[:3])).sha256 != before
    (folder / "a.png").write_bytes(b"longer now")
    assert read_csv(table(folder, *GOOD)).sha256 != before


def test_samples_can_go_to_a_worker_process(folder: Path) -> None:
    samples = read_csv(table(folder, *GOOD))
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert again.sha256 == samples.sha256


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        pytest.param(["a.png,fundus,XYZ,p1,,train"], 2, "unknown label 'XYZ'", id="label"),
        pytest.param(["a.png,fundus,,p1,,train"], 2, "no label", id="no-label"),
        pytest.param(["a.png,xray,DR,p1,,train"], 2, "unknown modality 'xray'", id="modality"),
        pytest.param(["a.png,fundus,DR,p1,,dev"], 2, "unknown split 'dev'", id="split"),
        pytest.param(["a.png,Fundus,DR,p1,,train"], 2, "lower case", id="upper-case"),
        pytest.param(["a.png,fundus,DR,,,train"], 2, "no patient id", id="patient"),
        pytest.param([GOOD[0], "no.png,oct,DR,p2,,val"], 3, "'no.png' is missing", id="file"),
        pytest.param([",oct,DR,p2,,val"], 2, "no file name", id="no-file"),
        pytest.param([GOOD[0], "", GOOD[0]], 4, "first in line 2", id="duplicate"),
        pytest.param([GOOD[0], "./a.png,oct,DR,p1,,train"], 3, "twice", id="same-file"),
        pytest.param([GOOD[0], "b.png,oct,DR,p1,,val"], 3, "patient p1", id="two-splits"),
        pytest.param([GOOD[0], "b.png,oct,DR,p1,,"], 3, "patient p1", id="half-assigned"),
        pytest.param(["a.png,fundus,DR,p1,train"], 2, "5 fields", id="short-row"),
        pytest.param(['a.png,fundus,"DR,p1,,train'], 2, "not CSV", id="quotes"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    folder: Path, rows: list[str], line: int, said: str
) -> None:
    path = table(folder, *rows)
    with pytest.raises(DatasetError) as caught:
        read_csv(path, TOPCON_MM)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(HEADER.encode(), "no image in it", id="header-only"),
        pytest.param(b"file,modality,labels,patient,split\n", "column eye", id="column"),
        pytest.param(f"{HEADER},eye\n".encode(), "stands twice", id="column-twice"),
        pytest.param(b"\xff\xfe\x00", "not UTF-8", id="encoding"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=said):
        read_csv(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match="cannot read"):
        read_csv(tmp_path)


def test_a_given_vocabulary_rules(folder: Path) -> None:
    labels = LabelSet.custom(("DR", "EXU"))
    samples = read_csv(table(folder, GOOD[0]), labels)
    assert samples.targets().tolist() == [[1, 1]]
