"""Every reason for INVALID happens when it should, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qdr_bench.machine.environment import MachineState, changes
from qdr_bench.scenarios.multi_stream import MultiStream
from qdr_bench.scenarios.single_stream import Latency
from qdr_bench.scenarios.soak import Slice, Soak
from qdr_bench.verdict import Evidence, Limits, judge

STEADY = Latency(tuple((1_000_000 + i,) * 10 for i in range(10)))
SOUND = Evidence(
    latency=STEADY, threads=2, cores=2, foreign_cores=0.02, accuracy={"map": {"value": 0.5}}
)
QUIET = Slice(5.0, (1_000_000,) * 200, 0, 2, 0, 10**8, None)


def soaked(**changes: Any) -> Soak:
    return Soak(10.0, (QUIET,) * 9 + (replace(QUIET, **changes),))


def test_a_sound_measurement_is_valid() -> None:
    assert judge(SOUND, Limits()) == []
    everything = replace(
        SOUND,
        repeated=Latency(((990_000,) * 64,)),
        multi_stream=MultiStream(((8_000_000,) * 662,)),
        soak=soaked(),
    )
    assert judge(everything, Limits(min_map=0.5)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy": None}, "no accuracy: no data"),
        ({"latency": Latency(((1_000_000,) * 63,))}, "too few queries: 63, at least 64"),
        (
            {"latency": Latency(((1_000_000,) * 40, (2_000_000,) * 40))},
            "unsteady: round medians vary by 47 %",
        ),
        ({"foreign_cores": 0.5}, "other load: 0.5 of 2 cores"),
        ({"self_test": "golden vector a: other pixels"}, "self-test: golden vector a"),
        ({"inconsistent": 3}, "3 timed outputs differ"),
        ({"repeated": Latency(((500_000,) * 64,))}, "one repeated image is 50 % faster"),
        (
            {"multi_stream": MultiStream(((8_000_000,) * 661,))},
            "MultiStream: 661 queries, a p99 needs 662",
        ),
        ({"soak": soaked(golden_wrong=1)}, "soak: 1 golden vectors did not come out"),
        ({"soak": soaked(late=50)}, "soak: 50 of 2000 images began late"),
        ({"soak": soaked(rss_bytes=103 * 10**6)}, "soak: memory grew by 3.0 %"),
        ({"machine": ["throttled for heat 2 times"]}, "throttled for heat 2 times"),
        ({"unfinished": "interrupted after 3 of 10 rounds"}, "interrupted after 3 of 10"),
    ],
)
def test_each_reason_makes_it_invalid(change: dict[str, Any], reason: str) -> None:
    reasons = judge(replace(SOUND, **change), Limits())
    assert len(reasons) == 1
    assert reasons[0].startswith(reason)


def test_limits_that_are_asked_for() -> None:
    assert judge(SOUND, Limits(duration_s=5.0))[0].startswith("too short: 0.1 s")
    assert judge(SOUND, Limits(min_map=0.6)) == ["mAP is 50.0 %, at least 60.0 % was asked for"]
    undefined = replace(SOUND, accuracy={"map": {"value": None}})
    assert judge(undefined, Limits(min_map=0.1))[0].startswith("mAP is undefined")


def test_all_reasons_are_given() -> None:
    bad = replace(SOUND, accuracy=None, foreign_cores=2.0, inconsistent=1)
    assert len(judge(bad, Limits())) == 3


def test_load_on_cores_nobody_asked_for_does_not_matter() -> None:
    assert judge(replace(SOUND, cores=8, foreign_cores=5.0), Limits()) == []
    assert judge(replace(SOUND, cores=8, foreign_cores=7.0), Limits()) != []


def test_load_that_cannot_be_read_is_not_taken_for_none() -> None:
    # Absent, not zero: the report says that it is not known.
    assert judge(replace(SOUND, foreign_cores=None), Limits()) == []


def test_memory_counts_once_it_has_settled() -> None:
    filling = replace(QUIET, rss_bytes=5 * 10**7)
    assert Soak(10.0, (filling,) + (QUIET,) * 19).rss_drift == 0


def test_what_changes_about_a_machine() -> None:
    state = MachineState(None, (2000, 3000), None, None, "performance", 4)
    assert changes(state, state) == []
    assert changes(state, replace(state, frequency_mhz=(2100, 3100))) == []
    assert changes(state, replace(state, frequency_mhz=(1000, 2000))) == [
        "clock changed from 2500 to 1500 MHz"
    ]
    assert changes(state, replace(state, throttle_events=7)) == ["throttled 3 times"]
    assert changes(state, replace(state, governor="powersave")) == [
        "governor changed from performance to powersave"
    ]
    # What cannot be read has not changed.
    unknown = MachineState(None, None, None, None)
    assert changes(unknown, unknown) == []
