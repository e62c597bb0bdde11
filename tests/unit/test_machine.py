"""Probes on trees of files: each board is read right; what is broken is absent, not zero."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdr_bench.machine import nvidia
from qdr_bench.machine.environment import changes, environment, machine_state
from qdr_bench.machine.jetson import (
    rails,
    read_board,
    read_power_mode,
    throttling,
)
from qdr_bench.machine.power import (
    EnergyCounter,
    RailSampler,
    find_sensor,
    measure_energy,
)
from qdr_bench.machine.tree import ProcTree
from qdr_edge.errors import BenchmarkError
from tests.machine_trees import nodes, plant

BOARDS = ("orin-nano", "orin-nx", "agx-orin", "agx-xavier")


@pytest.mark.parametrize(
    ("name", "expected", "watts"),
    [
        (
            "orin-nano",
            ("36.4.3", "6.2", "MAXN_SUPER", False, 306),
            {"VDD_IN": 5.054, "VDD_CPU_GPU_CV": 0.790, "VDD_SOC": 1.422},
        ),
        (
            "orin-nx",
            ("35.5.0", "5.1.3", "15W", True, 612),
            {"VDD_IN": 12.5, "VDD_CPU_GPU_CV": 6.0, "VDD_SOC": 2.5},
        ),
        (
            "agx-orin",
            ("36.3.0", "6.0", "MAXN", True, 1300),
            {
                "VDD_GPU_SOC": 7.958,
                "VDD_CPU_CV": 3.979,
                "VIN_SYS_5V0": 4.0,
                "VDDQ_VDD2_1V8AO": 0.796,
            },
        ),
        (
            "agx-xavier",
            ("32.7.1", "4.6.x", "MODE_30W_ALL", False, 318),
            {"GPU": 1.0, "CPU": 0.7, "SOC": 0.9, "CV": 0.1, "VDDRQ": 0.3, "SYS5V": 2.0},
        ),
    ],
)
def test_each_board_is_read(
    name: str, expected: tuple[Any, ...], watts: dict[str, float], tmp_path: Path
) -> None:
    board = read_board(plant(tmp_path, nodes(name)))
    assert board is not None
    found = (board.l4t, board.jetpack, board.power_mode, board.clocks_pinned, board.gpu_mhz)
    assert found == expected
    assert board.rails_watts == pytest.approx(watts, abs=1e-3)
    assert "\0" not in board.model


@pytest.mark.parametrize(
    ("name", "scope", "power"),
    [("orin-nano", "VDD_IN", 5.054), ("orin-nx", "VDD_IN", 12.5),
     ("agx-orin", "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 15.938),
     ("agx-xavier", "GPU + CPU + SOC + CV + VDDRQ + SYS5V", 5.0)],
)  # fmt: skip
def test_the_modules_power_is_that_of_the_right_rails(
    name: str, scope: str, power: float, tmp_path: Path
) -> None:
    sensor = find_sensor(plant(tmp_path, nodes(name)))
    assert isinstance(sensor, RailSampler)
    assert sensor.name == f"INA3221 {scope}"
    sensor.start()
    assert sensor.stop() == pytest.approx(power, abs=1e-3)


def test_throttling_is_told(tmp_path: Path) -> None:
    nano, nx = (plant(tmp_path / name, nodes(name)) for name in ("orin-nano", "orin-nx"))
    quiet, hot = throttling(nano), throttling(nx)
    assert quiet is not None
    assert hot is not None
    assert (quiet.active, quiet.events) == ((), 3)  # a fan that turns throttles nothing
    assert (hot.active, hot.events) == (("devfreq-17000000.ga10b at step 3",), None)
    state = machine_state(nx)
    assert state.throttled == hot.active
    assert "throttled: devfreq-17000000.ga10b at step 3" in changes(state, state)
    before = machine_state(nano)
    plant(tmp_path / "orin-nano", {"/sys/class/hwmon/hwmon2/oc3_event_cnt": "5\n"})
    assert "throttled 2 times" in changes(before, machine_state(nano))
    plant(tmp_path / "orin-nano", {"/var/lib/nvpmodel/status": "pmode:0000\n"})
    assert "power mode changed from MAXN_SUPER to 15W" in changes(before, machine_state(nano))


def test_an_x86_box(tmp_path: Path) -> None:
    tree = plant(tmp_path, nodes("x86"))
    assert read_board(tree) is None
    state, found = machine_state(tree), environment(tree)
    assert (state.governor, state.throttle_events, state.throttled) == ("powersave", 12, None)
    assert found.turbo == "on"
    assert found.power_sensor == "powercap intel-rapl:0 (package-0)"
    assert found.jetson_board is None


def test_a_counter_that_runs_over(tmp_path: Path) -> None:
    tree = plant(tmp_path, nodes("x86"))
    times = iter([0.0, 10.0])
    sensor = find_sensor(tree)
    assert isinstance(sensor, EnergyCounter)
    sensor._clock = lambda: next(times)
    sensor.start()
    plant(tmp_path, {"/sys/class/powercap/intel-rapl:0/energy_uj": "49671150\n"})
    # 262143328850 − 262143000000 + 49671150 µJ in ten seconds.
    assert sensor.stop() == pytest.approx(5.0)


def test_energy_of_an_image(tmp_path: Path) -> None:
    """Real reads of a counter that a load moves; the clock is the test's."""
    tree, now, joules = plant(tmp_path, nodes("x86")), 0.0, 0.0
    counter = "/sys/class/powercap/intel-rapl:0/energy_uj"

    def spend(seconds: float, watts: float) -> None:
        nonlocal now, joules
        now, joules = now + seconds, joules + seconds * watts
        plant(tmp_path, {counter: f"{int(joules * 1e6)}\n"})

    def load(seconds: float) -> int:
        spend(seconds, 14.0)
        return 200

    spend(0.0, 0.0)
    sensor = find_sensor(tree)
    assert isinstance(sensor, EnergyCounter)
    sensor._clock = lambda: now
    found = measure_energy(
        sensor, load, sleep=lambda seconds: spend(seconds, 4.0), clock=lambda: now
    )
    assert found.idle_watts == pytest.approx(4.0)
    assert len(found.loops) == 5
    assert found.joules_per_image == pytest.approx((14 - 4) * 10 / 200)
    document = found.to_dict()
    assert document["scope"] == "processor package"
    assert document["load_watts"] == pytest.approx(14.0)
    assert document["note"] == "not wall power"
    with pytest.raises(BenchmarkError, match="no image was answered"):
        measure_energy(
            sensor, lambda s: load(s) * 0, sleep=lambda s: spend(s, 1.0), clock=lambda: now
        )


def test_a_sensor_that_goes_away_is_an_error_not_a_zero(tmp_path: Path) -> None:
    tree = plant(tmp_path, nodes("orin-nano"))
    sensor = find_sensor(tree)
    assert sensor is not None
    (tmp_path / rails(tree)[0].current.lstrip("/")).unlink()
    sensor.start()
    with pytest.raises(BenchmarkError, match="could not be read"):
        sensor.stop()
    # One part of a sum is missing: there is no sum.
    partial = nodes("agx-orin")
    del partial["/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/curr2_input"]
    assert find_sensor(plant(tmp_path / "agx", partial)) is None


def test_a_mode_without_a_table_of_names_is_its_number(tmp_path: Path) -> None:
    tree = plant(tmp_path, {"/var/lib/nvpmodel/status": "pmode:0007\n"})
    assert read_power_mode(tree) == "7"
    assert read_power_mode(ProcTree(tmp_path / "none")) is None


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", [*BOARDS, "x86"])
def test_whatever_a_node_holds_nothing_breaks_and_nothing_becomes_zero(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    files = nodes(name)
    plant(root, files)
    broken = data.draw(st.lists(st.sampled_from(sorted(files)), min_size=1, unique=True))
    for path in broken:
        node = root / path.lstrip("/")
        kind = data.draw(st.sampled_from(["bytes", "gone", "folder"]))
        if kind == "bytes":
            # No digit: such a node can only ever be read as absent.
            letters = st.binary(max_size=40).filter(lambda b: not any(48 <= c < 58 for c in b))
            node.write_bytes(data.draw(letters))
        else:
            node.unlink()
            if kind == "folder":
                node.mkdir()
    tree = ProcTree(root)
    board, state = read_board(tree), machine_state(tree)
    environment(tree).to_dict()
    throttling(tree)
    find_sensor(tree)
    whole = read_board(plant(tmp_path_factory.mktemp("whole"), files))
    if board is not None and whole is not None:
        for rail, watts in board.rails_watts.items():
            if rail in whole.rails_watts:
                assert watts == whole.rails_watts[rail]
    if any(path.endswith("scaling_cur_freq") for path in broken):
        assert state.frequency_mhz is None


def test_nvml_asks_what_there_is() -> None:
    """Every function and constant we name exists in NVIDIA's own binding."""
    binding = pytest.importorskip("pynvml", reason="pip install nvidia-ml-py")
    source = Path(nvidia.__file__).read_text()
    import re

    named = set(re.findall(r"nvml\.(nvml\w+|NVML_\w+)", source)) | set(nvidia.THROTTLE_BITS)
    assert len(named) > 15
    assert [name for name in sorted(named) if not hasattr(binding, name)] == []


def test_without_a_driver_there_is_no_gpu() -> None:
    if importlib.util.find_spec("pynvml") and Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    assert nvidia.gpus() == []
    assert nvidia.throttle_reasons() is None
    assert nvidia.energy_mj() is None
