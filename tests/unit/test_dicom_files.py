"""DICOM files that are damaged, that lie in folders, and that stand in tables."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit

from qdr_edge.decode import decode
from qdr_edge.errors import DatasetError, ImageError
from qdr_edge.preprocess import load_image
from qdr_edge.samples import read_csv
from qdr_train.data.cache import open_pixels
from qdr_train.data.dicom import label_table, read_facts, survey
from qdr_train.data.read import read_data
from tests.dicoms import TOMOGRAPHY, dicom, dicom_bytes
from tests.unit.test_dicom import DEEP, GRAY, OCT, RGB, SPEC, VOLUME, jpeg, refused, rle

SEEDS = {
    "native": dicom_bytes(dicom(RGB, "RGB")),
    "deep": dicom_bytes(dicom(DEEP, WindowCenter=2000, WindowWidth=1000)),
    "volume": dicom_bytes(dicom(VOLUME, sop=TOMOGRAPHY)),
    "rle": dicom_bytes(rle(dicom(RGB, "RGB"))),
    "jpeg": dicom_bytes(
        dicom([jpeg(RGB)], "YBR_FULL_422", syntax=JPEGBaseline8Bit, size=(80, 120))
    ),
}


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_is_refused(name: str) -> None:
    content = SEEDS[name]
    for share in np.linspace(0.001, 0.995, 60):
        assert refused(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", SEEDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else(name: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(150):
        content = bytearray(SEEDS[name])
        for position in rng.integers(128, min(len(content), 1500), 3):
            content[position] = rng.integers(256)
        with contextlib.suppress(ImageError):
            found = decode(bytes(content), SPEC)
            assert found.dtype == np.uint8
            assert found.shape[2] == 3


def test_without_pydicom_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom.pixels.decoders.base", None)
    message = refused(dicom(GRAY))
    assert "pydicom is not installed" in message
    assert "pip install 'pydicom>=3'" in message


def test_other_images_never_load_pydicom() -> None:
    code = (
        "import sys, numpy; from qdr_edge.decode import decode;"
        "from qdr_edge.preprocess import PreprocessSpec;"
        "decode(numpy.zeros((64, 64), numpy.uint8), PreprocessSpec('oct', 64));"
        "sys.exit('pydicom' in sys.modules or 'qdr_edge.dicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Folders and tables


def clinic(folder: Path) -> Path:
    """Two photographs and a volume of two patients."""
    folder.mkdir()
    for patient, eye in (("p1", "R"), ("p2", "L")):
        data = dicom(RGB, "RGB", PatientID=patient, ImageLaterality=eye)
        (folder / f"{patient}.dcm").write_bytes(dicom_bytes(data))
    volume = dicom(VOLUME, sop=TOMOGRAPHY, PatientID="p2")
    anatomy, shared = Dataset(), Dataset()
    anatomy.FrameLaterality = "L"
    shared.FrameAnatomySequence = [anatomy]
    volume.SharedFunctionalGroupsSequence = [shared]
    (folder / "IM0001").write_bytes(dicom_bytes(volume))
    (folder / "notes").write_text("no image")
    return folder


def test_facts_of_a_file(tmp_path: Path) -> None:
    folder = clinic(tmp_path / "clinic")
    volume, photo = read_facts(folder / "IM0001"), read_facts(folder / "p1.dcm")
    assert (volume.modality, volume.frames, volume.patient) == ("oct", 5, "p2")
    assert volume.eyes == ("L",) * 5
    assert (photo.modality, photo.eyes, photo.patient) == ("fundus", ("R",), "p1")
    assert photo.kind == "Ophthalmic Photography 8 Bit Image Storage"


def test_a_folder_of_files_trains_nothing_without_a_table(tmp_path: Path) -> None:
    folder = clinic(tmp_path / "clinic")
    for path in (folder, folder / "p1.dcm"):
        with pytest.raises(DatasetError, match=r"carry no labels.*qdr-edge data table"):
            read_data(path)


def test_survey_tells_what_is_there_and_what_cannot_be_used(tmp_path: Path) -> None:
    folder = clinic(tmp_path / "clinic")
    (folder / "cut.dcm").write_bytes(SEEDS["native"][:100])
    (folder / "who.dcm").write_bytes(dicom_bytes(dicom(RGB, "RGB", PatientID="")))
    lines, problems = survey(folder)
    photos, volumes = lines
    assert photos == (
        "Ophthalmic Photography 8 Bit Image Storage (fundus), Explicit VR Little Endian: "
        "3 files, 3 frames, 3 patients, eyes L 1, R 1, unknown 1"
    )
    assert volumes == (
        "Ophthalmic Tomography Image Storage (oct), Explicit VR Little Endian: "
        "1 files, 5 frames, 1 patients, eyes L 1"
    )
    assert len(problems) == 2
    assert "cut.dcm" in problems[0]
    assert "who.dcm: no PatientID" in problems[1]


def test_the_table_with_labels_filled_in_can_be_trained_on(tmp_path: Path) -> None:
    text, count = label_table(clinic(tmp_path / "clinic"))
    assert count == 7
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(DatasetError, match=r"table.csv:2: no label"):
        read_csv(table)
    rows = text.splitlines()
    assert rows[1].endswith("/clinic/IM0001#1,oct,,p2,L,")
    table.write_text("\n".join([rows[0], *(row.replace(",,", ",DR,", 1) for row in rows[1:])]))
    samples = read_data(table)
    assert samples.patients() == ("p2",) * 5 + ("p1", "p2")
    pixels = open_pixels(tmp_path / "cache", samples.select("oct"), OCT)
    for row, frame in zip(pixels, VOLUME, strict=True):
        assert np.array_equal(row, load_image(np.ascontiguousarray(frame), OCT))
    assert samples.sha256


def test_frames_of_one_file_in_another_order_are_another_pack(tmp_path: Path) -> None:
    (tmp_path / "v.dcm").write_bytes(dicom_bytes(dicom(VOLUME, sop=TOMOGRAPHY)))
    header = "file,modality,labels,patient,eye,split\n"
    rows = [f"v.dcm#{k},oct,DR,p{k},," for k in (1, 4)]
    packs = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        (tmp_path / f"{name}.csv").write_text(header + "\n".join(order))
        packs.append(open_pixels(tmp_path, read_csv(tmp_path / f"{name}.csv"), OCT))
    assert np.array_equal(packs[0], packs[1][::-1])
    assert not np.array_equal(packs[0], packs[1])
    (tmp_path / "bad.csv").write_text(f"{header}w.dcm#2,oct,DR,p,,")
    with pytest.raises(DatasetError, match=r"bad.csv:2: image 'w.dcm#2' is missing"):
        read_csv(tmp_path / "bad.csv")
