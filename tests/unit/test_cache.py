"""The image cache: right pixels, built once, never half, never stale."""

from __future__ import annotations

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
