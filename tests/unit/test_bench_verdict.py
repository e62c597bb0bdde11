"""Every reason for INVALID happens when it should, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from qdr_bench.measurement import Latency, Status
from qdr_bench.verdict import PASSED, Limits, judge

STEADY = Latency(tuple((1_000_000 + i,) * 10 for i in range(10)))
SOUND: dict[str, Any] = {
    "latency": STEADY,
    "limits": Limits(),
    "threads": 2,
    "cores": 2,
    "foreign_cores": 0.02,
    "self_test": PASSED,
    "inconsistent": 0,
    "accuracy": {"map": 0.5},
}


def judged(**changes: Any) -> tuple[Status, list[str]]:
    arguments = {**SOUND, **changes}
    return judge(arguments.pop("latency"), arguments.pop("limits"), **arguments)


def test_a_sound_measurement_is_valid() -> None:
    assert judged() == (Status.VALID, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy": None}, "no accuracy: no data"),
        ({"latency": Latency(((1_000_000,) * 63,))}, "too few queries: 63, at least 64"),
        ({"limits": Limits(duration_s=5.0)}, "too short: 0.1 s"),
        (
            {"latency": Latency(((1_000_000,) * 40, (2_000_000,) * 40))},
            "unsteady: round medians vary by 47 %",
        ),
        ({"foreign_cores": 0.5}, "other load: 0.5 of 2 cores"),
        ({"self_test": "golden vector a: other pixels"}, "self-test: golden vector a"),
        ({"inconsistent": 3}, "3 timed outputs differ"),
    ],
    ids=["accuracy", "queries", "duration", "variation", "load", "self-test", "outputs"],
)
def test_each_reason_makes_it_invalid(change: dict[str, Any], reason: str) -> None:
    status, reasons = judged(**change)
    assert status is Status.INVALID
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)


def test_all_reasons_are_given() -> None:
    assert len(judged(accuracy=None, foreign_cores=2.0, inconsistent=1)[1]) == 3


def test_load_on_cores_nobody_asked_for_does_not_matter() -> None:
    assert judged(cores=8, foreign_cores=5.0)[0] is Status.VALID
    assert judged(cores=8, foreign_cores=7.0)[0] is Status.INVALID


def test_load_that_cannot_be_read_is_not_taken_for_none() -> None:
    # Absent, not zero: the report says that it is not known.
    assert judged(foreign_cores=None)[0] is Status.VALID
