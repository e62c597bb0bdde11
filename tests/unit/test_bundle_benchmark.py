"""benchmarks/bundle.py: what is compared, what is left out of the sealing time, what fails."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "bundle.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("ours", "holds"), [(125, True), (140, False)])
def test_opening_is_judged_by_its_ratio_to_a_bare_session(
    bench: ModuleType, ours: int, holds: bool
) -> None:
    found = {
        "qdr_edge.load": {"import": [1] * 5, "open": [ours] * 5},
        "bare session": {"import": [1] * 5, "open": [100] * 5},
    }
    claim = bench.opening_claims("warm", found)[0]
    assert claim.value == pytest.approx(ours / 100)
    assert claim.holds is holds


def test_both_ways_take_turns_and_the_first_round_is_not_counted(bench: ModuleType) -> None:
    turns: list[str] = []

    def turn(way: str) -> dict[str, int]:
        turns.append(way)
        return {"import": 0, "open": len(turns)}

    found = bench.interleave(turn, 2)
    first, second = bench.WAYS
    assert turns == [first, second, second, first, first, second]
    assert found[first]["open"] == [4, 5]


def test_sealing_leaves_out_the_proof_images_alone(bench: ModuleType) -> None:
    claim = bench.seal_claims({"emitting": 12.0, bench.PROOF_STEP: 100.0, "sealing": 9.0})[0]
    assert claim.value == pytest.approx(21.0)
    assert not claim.holds
