"""Byte-exact preprocessing. A change here changes what every trained network sees.

A difference on another machine is a finding, not a reason to write new goldens. To write them
after a deliberate change of the contract (with a new `version`): set QDR_WRITE_GOLDENS=1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from qdr_edge.preprocess import PreprocessSpec, preprocess

HERE = Path(__file__).parent
HASHES = HERE / "preprocess.json"
PIXELS = HERE / "preprocess.npz"


def _pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_pictures", HERE / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


P = _pictures()


def rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)


CASES: dict[str, tuple[NDArray[np.uint8], PreprocessSpec]] = {
    "fundus-wide-128": (P.fundus(300, 420), PreprocessSpec("fundus", 128)),
    "fundus-tall-224": (P.fundus(700, 500, 2), PreprocessSpec("fundus", 224)),
    "fundus-enlarged-128": (P.fundus(90, 100, 3), PreprocessSpec("fundus", 128)),
    "fundus-integer-ratio-64": (P.fundus(256, 256, 4), PreprocessSpec("fundus", 64)),
    "fundus-clip-64": (P.fundus(200, 200, 5), PreprocessSpec("fundus", 64, clahe_clip_x100=350)),
    "fundus-constant-64": (P.constant(80, 80, 90), PreprocessSpec("fundus", 64)),
    "oct-wide-128": (rgb(P.oct_scan(240, 400)), PreprocessSpec("oct", 128)),
    "oct-framed-224": (rgb(P.framed(P.oct_scan(300, 320, 2), 25)), PreprocessSpec("oct", 224)),
    "oct-median5-64": (rgb(P.oct_scan(150, 150, 3)), PreprocessSpec("oct", 64, median_kernel=5)),
    "oct-enlarged-128": (rgb(P.oct_scan(60, 80, 4)), PreprocessSpec("oct", 128)),
}
KEPT = ("fundus-integer-ratio-64", "oct-median5-64")


def digest(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def record(name: str) -> dict[str, str]:
    picture, spec = CASES[name]
    return {
        "input": digest(picture),
        "output": digest(preprocess(picture, spec)),
        "spec": spec.sha256,
    }


if os.environ.get("QDR_WRITE_GOLDENS"):
    HASHES.write_text(json.dumps({name: record(name) for name in CASES}, indent=1) + "\n")
    np.savez_compressed(PIXELS, **{name: preprocess(*CASES[name]) for name in KEPT})


@pytest.mark.parametrize("name", CASES)
def test_output_is_byte_exact(name: str) -> None:
    assert record(name) == json.loads(HASHES.read_text())[name]


@pytest.mark.parametrize("name", KEPT)
def test_pixels_are_byte_exact(name: str) -> None:
    # Beside the hash, so that a difference can be looked at.
    expected = np.load(PIXELS)[name]
    found = preprocess(*CASES[name])
    different = int((found != expected).sum())
    assert different == 0, f"{different} of {found.size} values differ"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    before = cv2.getNumThreads()
    goldens = json.loads(HASHES.read_text())
    try:
        cv2.setNumThreads(threads)
        for name in ("fundus-tall-224", "oct-framed-224"):
            assert record(name) == goldens[name]
    finally:
        cv2.setNumThreads(before)


def test_vector_instructions_do_not_matter() -> None:
    goldens = json.loads(HASHES.read_text())
    try:
        cv2.setUseOptimized(False)
        assert {name: record(name) for name in CASES} == goldens
    finally:
        cv2.setUseOptimized(True)
