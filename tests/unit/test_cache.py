"""The image cache: right pixels, built once, never half, never stale."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qdr_edge.errors import DatasetError, ImageError, OutputError
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import SampleSet, read_csv
from qdr_train.data.cache import open_pixels
from tests.eyes import draw, write_eyes

SPEC = PreprocessSpec("fundus", 32)


@pytest.fixture
def samples(tmp_path: Path) -> SampleSet:
    return read_csv(write_eyes(tmp_path / "eyes", patients=4)).select("fundus")


def test_pixels_are_those_of_the_contract_in_table_order(
    tmp_path: Path, samples: SampleSet
) -> None:
    calls: list[tuple[int, int]] = []
    pixels = open_pixels(
        tmp_path / "c", samples, SPEC, threads=3, progress=lambda *at: calls.append(at)
    )
    assert pixels.shape == (8, 3, 32, 32)
    for image, sample in zip(pixels, samples, strict=True):
        assert np.array_equal(image, load_image(sample.file, SPEC))
    assert calls == [(i, 8) for i in range(1, 9)]


def test_second_opening_decodes_nothing(tmp_path: Path, samples: SampleSet) -> None:
    first = open_pixels(tmp_path / "c", samples, SPEC)
    calls: list[object] = []
    again = open_pixels(tmp_path / "c", samples, SPEC, progress=lambda *at: calls.append(at))
    assert not calls
    assert np.array_equal(first, again)


def test_another_size_or_content_is_another_pack(tmp_path: Path, samples: SampleSet) -> None:
    import cv2

    open_pixels(tmp_path / "c", samples, SPEC)
    open_pixels(tmp_path / "c", samples, PreprocessSpec("fundus", 64))
    cv2.imwrite(str(samples[0].file), draw(2, "fundus", 99))
    pixels = open_pixels(tmp_path / "c", samples, SPEC)
    assert np.array_equal(pixels[0], load_image(samples[0].file, SPEC))
    assert len(list((tmp_path / "c").iterdir())) == 3


def test_bad_image_is_named_and_leaves_nothing(tmp_path: Path, samples: SampleSet) -> None:
    samples[3].file.write_bytes(b"no image")
    with pytest.raises(ImageError, match=samples[3].file.name):
        open_pixels(tmp_path / "c", samples, SPEC)
    assert not list((tmp_path / "c").iterdir())


def test_torn_pack_is_rebuilt(tmp_path: Path, samples: SampleSet) -> None:
    expected = np.array(open_pixels(tmp_path / "c", samples, SPEC))
    pack = next((tmp_path / "c").iterdir())
    pack.write_bytes(pack.read_bytes()[:100])
    assert np.array_equal(open_pixels(tmp_path / "c", samples, SPEC), expected)


def test_missing_image_and_unwritable_folder(tmp_path: Path, samples: SampleSet) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--cache"):
        open_pixels(tmp_path / "file" / "c", samples, SPEC)
    samples[1].file.unlink()
    with pytest.raises(DatasetError, match=samples[1].file.name):
        open_pixels(tmp_path / "c", samples, SPEC)


CHILD = """
import json, sys, time
from pathlib import Path
import qdr_train.data.cache as cache
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.samples import read_csv

folder, table, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
decode, decoded = cache.load_image, 0

def slow(*arguments):  # long enough that the processes meet
    global decoded
    decoded += 1
    time.sleep(pause)
    return decode(*arguments)

cache.load_image = slow
print("ready", flush=True)
sys.stdin.readline()
pixels = cache.open_pixels(folder, read_csv(table).select("fundus"), PreprocessSpec("fundus", 32))
print(json.dumps([decoded, int(pixels.astype(int).sum())]), flush=True)
"""


def start_builder(folder: Path, samples: SampleSet, pause: float) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), samples.source, str(pause)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_of_three_processes_one_builds_and_all_read_the_same(
    tmp_path: Path, samples: SampleSet
) -> None:
    children = [start_builder(tmp_path / "c", samples, 0.05) for _ in range(3)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = []
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        answers.append(json.loads(out))
    expected = open_pixels(tmp_path / "alone", samples, SPEC)
    assert sorted(decoded for decoded, _ in answers) == [0, 0, 8]
    assert {total for _, total in answers} == {int(expected.astype(int).sum())}
    packs = list((tmp_path / "c").iterdir())
    assert len(packs) == 1
    assert packs[0].read_bytes() == expected.tobytes()


def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path, samples: SampleSet) -> None:
    folder = tmp_path / "c"
    child = start_builder(folder, samples, 30.0)
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size for file in folder.glob(".*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    # The file has its full size already: only its name tells that it is not whole.
    (partial,) = folder.iterdir()
    assert partial.stat().st_size == 8 * 3 * 32 * 32
    assert partial.name.startswith(".")
    pixels = open_pixels(folder, samples, SPEC)
    assert np.array_equal(pixels[5], load_image(samples[5].file, SPEC))
    assert [file.name.startswith(".") for file in folder.iterdir()] == [False]


def test_without_locks_every_process_writes_its_own_file(
    tmp_path: Path, samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    pixels = open_pixels(tmp_path / "c", samples, SPEC)
    assert np.array_equal(pixels[2], load_image(samples[2].file, SPEC))
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_a_full_disk_is_an_output_error(
    tmp_path: Path, samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: object, at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left"):
        open_pixels(tmp_path / "c", samples, SPEC)
    assert not list((tmp_path / "c").iterdir())
