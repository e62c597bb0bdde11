"""What benchmarks/isa_certificate.py says of logits: equal, off, missing, or of a crash."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = np.array([[1.27, -0.5], [0.25, 0.5]], np.float32)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "isa_certificate.py"))


@pytest.fixture
def given(script: dict[str, Any], tmp_path: Path) -> Any:
    pixels = np.zeros((2, 3, 32, 32), np.uint8)
    return script["Given"](tmp_path, "exact", None, pixels, EXPECTED)


def answer(script: dict[str, Any], given: Any, program: str) -> Any:
    """What a program of Python's makes of it, run as the emulated ones are."""
    return script["_run"](given, ("a", "b"), "libqdr", [sys.executable, "-c", program])


def test_equal_logits_are_identical(script: dict[str, Any], given: Any) -> None:
    raw = EXPECTED.tobytes()
    cell = answer(
        script,
        given,
        f"import sys; sys.stdout.buffer.write({raw!r}); print('plain C', file=sys.stderr)",
    )
    assert (cell.text, cell.kernels) == ("identical", "plain C")


def test_one_bit_is_seen_and_counted_in_steps(script: dict[str, Any], given: Any) -> None:
    off = EXPECTED.copy()
    off[1, 0] += np.float32(0.02)  # two steps of 1.27 / 127
    cell = given.compared(off.tobytes(), "a", "b", "libqdr")
    assert cell.text == "1 of 2, 2.00 steps"
    off[1, 0] = np.nextafter(EXPECTED[1, 0], np.float32(1))
    assert given.compared(off.tobytes(), "a", "b", "libqdr").equal == 1


def test_what_went_wrong_is_said(script: dict[str, Any], given: Any) -> None:
    assert given.compared(b"", "a", "b", "libqdr").text == "0 logits, not 4"
    assert answer(script, given, "import os; os.abort()").text == "crashed: signal 6"
    assert answer(script, given, "import sys; sys.exit('no model')").text == "crashed: no model"
    missing = script["_run"](given, ("a", "b"), "libqdr", ["no-such-emulator"])
    assert missing.text == "not run: no no-such-emulator"
