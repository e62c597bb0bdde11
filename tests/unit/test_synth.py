"""The synthetic data set as a whole: same seed same bytes, table, split, resumption, refusals."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import cv2
import pytest

from qdr_edge.errors import DatasetError, OutputError
from qdr_edge.labels import TOPCON_MM
from qdr_edge.samples import read_csv
from qdr_train.synth import generate
from qdr_train.synth.dataset import COLUMNS, CSV_NAME, MARKER_NAME
from qdr_train.synth.writer import is_complete

PATIENTS, SEED, SIZE = 6, 11, 64


def _bytes_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CSV_NAME).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "set"
    assert generate(out, PATIENTS, SEED, SIZE, workers=1) == out / CSV_NAME
    return out


def test_same_seed_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", PATIENTS, SEED, SIZE, workers=2)
    assert _bytes_of(tmp_path / "again") == _bytes_of(folder)


def test_another_seed_gives_other_images(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "other", 1, SEED + 1, SIZE, workers=1)
    name = "fundus/p0000-R-1.jpg"
    assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def test_a_patient_does_not_depend_on_how_many_follow(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", 2, SEED, SIZE, workers=1)
    whole = _bytes_of(folder)
    for name, digest in _bytes_of(tmp_path / "fewer").items():
        if name.endswith((".jpg", ".png")):
            assert whole[name] == digest


def test_table_lists_every_image_once_with_valid_fields(folder: Path) -> None:
    header = (folder / CSV_NAME).read_text().splitlines()[0]
    assert tuple(header.split(",")) == COLUMNS
    rows = _rows(folder)
    images = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in (".jpg", ".png")}
    assert Counter(row["file"] for row in rows) == Counter(images)
    for row in rows:
        labels = row["labels"].split(";")
        assert labels == [code for code in TOPCON_MM.codes if code in labels]
        assert "NOR" not in labels or labels == ["NOR"]
        assert row["modality"] == row["file"].split("/")[0]
        patient, side, scan = Path(row["file"]).stem.split("-")
        assert (patient, side) == (row["patient"], row["eye"])
        assert 1 <= int(scan) <= 3
        assert row["quality"] in {"0", "1", "2", "3"}
        assert row["camera"].startswith("oct-" if row["modality"] == "oct" else "cfp-")


def test_every_eye_is_there_in_both_modalities(folder: Path) -> None:
    seen = {(row["patient"], row["eye"], row["modality"]) for row in _rows(folder)}
    assert len(seen) == PATIENTS * 2 * 2


def test_images_have_the_stated_size(folder: Path) -> None:
    fundus = cv2.imread(str(folder / "fundus/p0000-R-1.jpg"), cv2.IMREAD_UNCHANGED)
    scan = cv2.imread(str(folder / "oct/p0000-R-1.png"), cv2.IMREAD_UNCHANGED)
    assert fundus is not None
    assert scan is not None
    assert fundus.shape == (SIZE, SIZE, 3)
    assert scan.shape == (SIZE, SIZE * 3 // 2)


def test_the_table_is_one_the_core_reads(folder: Path) -> None:
    samples = read_csv(folder / CSV_NAME)
    assert samples.labels == TOPCON_MM
    assert len(samples.samples) == len(_rows(folder))
    assert samples.samples[0].extra["quality"] in {"0", "1", "2", "3"}


def test_everything_declares_itself_synthetic(folder: Path) -> None:
    for row in _rows(folder):
        head = (folder / row["file"]).read_bytes()[:300]
        assert b"SYNTHETIC" in head
        assert f"seed {SEED}".encode() in head
    assert json.loads((folder / MARKER_NAME).read_text())["synthetic"] is True
    assert "no image in this folder shows a person" in (folder / "README.txt").read_text()


def test_an_unfinished_set_is_completed_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    generate(out, 2, SEED, SIZE, workers=1)
    before = _bytes_of(out)
    (out / CSV_NAME).unlink()
    (out / "oct/p0001-L-1.png").unlink()
    (out / "oct/.p0001-L-1.png.77.tmp").write_bytes(b"half")
    torn = out / "fundus/p0000-R-1.jpg"
    torn.write_bytes(torn.read_bytes()[:500])
    kept = (out / "fundus/p0000-L-1.jpg").stat().st_mtime_ns
    generate(out, 2, SEED, SIZE, workers=1)
    assert _bytes_of(out) == before
    assert (out / "fundus/p0000-L-1.jpg").stat().st_mtime_ns == kept


def test_completeness_needs_the_end_marker(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    assert not is_complete(path)
    path.write_bytes(b"")
    assert not is_complete(path)
    path.write_bytes(b"\xff\xd8 \xff\xd9")
    assert is_complete(path)


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate(tmp_path / "p", 2, 0, SIZE, workers=1, progress=lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1] == len(_rows(tmp_path / "p"))


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        generate(tmp_path, 1, 0, SIZE, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_data_set_is_refused_and_left_alone(folder: Path) -> None:
    before = _bytes_of(folder)
    with pytest.raises(OutputError, match=f"with seed {SEED}; expected seed {SEED + 1}"):
        generate(folder, PATIENTS, SEED + 1, SIZE, workers=1)
    assert _bytes_of(folder) == before


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qdr_train.synth.dataset.write_image", fail)
    with pytest.raises(OutputError, match="No space left"):
        generate(tmp_path / "out", 1, 0, SIZE, workers=1)
    assert not (tmp_path / "out" / CSV_NAME).exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        generate(tmp_path / "out", 1, 0, SIZE, workers=1)


@pytest.mark.parametrize(
    ("patients", "seed", "size", "workers", "name"),
    [
        (0, 0, 128, 1, "patients"),
        (10_000, 0, 128, 1, "patients"),
        (1, -1, 128, 1, "seed"),
        (1, 0, 8, 1, "size"),
        (1, 0, 5000, 1, "size"),
        (1, 0, 128, 0, "workers"),
    ],
    ids=["none", "too-many", "negative-seed", "tiny", "huge", "no-workers"],
)
def test_arguments_out_of_range_write_nothing(
    tmp_path: Path, patients: int, seed: int, size: int, workers: int, name: str
) -> None:
    with pytest.raises(DatasetError, match=name):
        generate(tmp_path / "out", patients, seed, size, workers=workers)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_stops_the_queue(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        generate(out, 60, 0, SIZE, workers=2, progress=interrupt)
    drawn = len(list(out.rglob("p*.*")))
    assert 0 < drawn < 200, drawn  # of about 360
    assert not (out / CSV_NAME).exists()
