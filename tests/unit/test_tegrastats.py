"""`tegrastats` as the power sensor of a board whose sysfs is closed.

The program is a script that prints lines reconstructed from NVIDIA's documentation, in place of a
board: what is tested is that ours starts it, reads it, sums the right rails, and ends it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from qdr_bench.machine.environment import environment
from qdr_bench.machine.jetson import parse_tegrastats
from qdr_bench.machine.power import RailSampler, find_sensor, measure_energy
from qdr_bench.machine.tegrastats import TegrastatsSampler
from qdr_bench.machine.tree import ProcTree
from qdr_edge.errors import BenchmarkError
from tests.machine_trees import nodes, plant

HEAD = (
    "01-08-2025 10:00:00 RAM 2448/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) CPU "
    "[5%@1113,1%@1113] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] cpu@48.5C tj@49.2C "
)
NANO = HEAD + "VDD_IN {}mW/4500mW VDD_CPU_GPU_CV 500mW/480mW VDD_SOC 1420mW/1400mW"
AGX = HEAD + (
    "VDD_GPU_SOC 2000mW/1990mW VDD_CPU_CV 400mW/410mW VIN_SYS_5V0 3000mW/2990mW "
    "VDDQ_VDD2_1V8AO 700mW/690mW"
)


def board(root: Path, *lines: str, after: str = "") -> ProcTree:
    """A board whose rails this user may not read, with the program on the path.

    Args:
        root: Where its tree lies.
        lines: What the program prints, one at each interval, again and again.
        after: A line of shell after each round.
    """
    files = {path: text for path, text in nodes("orin-nano").items() if "ina3221" not in path}
    plant(root, files)
    printed = "\n".join(f'echo "{line}"; sleep 0.02' for line in lines)
    program = root / os.get_exec_path()[0].lstrip("/") / "tegrastats"
    program.parent.mkdir(parents=True, exist_ok=True)
    # It wants the option that the real one takes.
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --interval ] || exit 2\nwhile :; do\n{printed}\n{after}\ndone\n'
    )
    program.chmod(0o755)
    return ProcTree(root)


def running(root: Path) -> list[psutil.Process]:
    """Processes of a board's program."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(root) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_it_is_the_sensor_where_sysfs_is_closed_and_is_ended(tmp_path: Path) -> None:
    tree = board(tmp_path, NANO.format(4000), NANO.format(6000))
    sensor = find_sensor(tree)
    assert isinstance(sensor, TegrastatsSampler)
    assert (sensor.name, sensor.scope) == ("tegrastats VDD_IN", "module rails")
    assert environment(tree).power_sensor == "tegrastats VDD_IN"
    assert running(tmp_path) == []
    sensor.start()
    time.sleep(0.5)
    assert len(running(tmp_path)) == 1
    assert 4.4 < sensor.stop() < 5.6
    assert running(tmp_path) == []


def test_what_can_be_read_in_sysfs_is_read_there(tmp_path: Path) -> None:
    board(tmp_path, NANO.format(4000))
    assert isinstance(find_sensor(plant(tmp_path, nodes("orin-nano"))), RailSampler)


def test_input_rails_are_summed_and_no_others(tmp_path: Path) -> None:
    sensor = find_sensor(board(tmp_path, AGX))
    assert sensor is not None
    assert sensor.name == "tegrastats VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    sensor.start()
    time.sleep(0.2)
    assert sensor.stop() == pytest.approx(5.4)


def test_energy_says_which_source_it_was_and_ctrl_c_leaves_no_program(tmp_path: Path) -> None:
    sensor = find_sensor(board(tmp_path, NANO.format(4000)))
    assert sensor is not None

    def load(seconds: float) -> int:
        time.sleep(seconds)
        return 10

    found = measure_energy(sensor, load, idle_s=0.3, loop_s=0.2, loops=2).to_dict()
    assert found["sensor"] == "tegrastats VDD_IN"
    assert found["joules_per_image"] == pytest.approx(0.0, abs=1e-9)

    def interrupted(seconds: float) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_energy(sensor, interrupted, idle_s=0.3, loop_s=0.2)
    assert running(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "after"),
    [(HEAD, ""), ("Permission denied", "exit 1"), ("", "exec sleep 60")],
    ids=["no rails", "ends at once", "hangs"],
)
def test_a_program_that_tells_no_power_is_no_sensor(
    line: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qdr_bench.machine.tegrastats.FIRST_LINE_S", 0.4)
    sensor = find_sensor(board(tmp_path, line, after=after))
    # This machine's own GPU may have one.
    assert sensor is None or "tegrastats" not in sensor.name
    assert running(tmp_path) == []


def test_a_program_that_ends_while_it_is_watched_is_an_error(tmp_path: Path) -> None:
    sensor = find_sensor(board(tmp_path, NANO.format(4000), after="exit 0"))
    assert sensor is not None
    sensor.start()
    time.sleep(0.4)
    with pytest.raises(BenchmarkError, match=r"tegrastats VDD_IN.*could not be read"):
        sensor.stop()


def test_lines_of_every_release() -> None:
    assert parse_tegrastats(NANO.format(4560)) == {
        "VDD_IN": 4.56,
        "VDD_CPU_GPU_CV": 0.5,
        "VDD_SOC": 1.42,
    }
    old = "RAM 1021/3956MB (lfb 512x4MB) CPU [12%@1479] POM_5V_IN 2532/2500 POM_5V_GPU 40/40"
    assert parse_tegrastats(old) == {"POM_5V_IN": 2.532, "POM_5V_GPU": 0.04}
    xavier = "SWAP 0/7834MB GPU 155/155 CPU 310/300 SOC 930/930 CV 0/0 VDDRQ 155/155 SYS5V 1374/1"
    assert sum(parse_tegrastats(xavier).values()) == pytest.approx(2.924)
    assert parse_tegrastats("") == {}
