"""What is read from /proc and /sys, on a recorded tree and on this machine."""

from __future__ import annotations

from pathlib import Path

from qdr_bench.machine.environment import environment, machine_state
from qdr_bench.machine.tree import ProcTree


def plant(root: Path, files: dict[str, str]) -> ProcTree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return ProcTree(root)


def test_a_recorded_tree_is_read(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    tree = plant(
        tmp_path,
        {
            "proc/loadavg": "0.50 0.25 0.10 1/200 4242\n",
            "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n",
            "proc/stat": "cpu  10 0 20 60 10 0 0 5 0 0\ncpu0 1 1\n",
            "proc/cpuinfo": "processor\t: 0\nflags\t: fpu hypervisor\n\nprocessor\t: 1\n",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
            f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "729600\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "schedutil\n",
            f"{cpu}/cpufreq/boost": "1\n",
            "sys/class/thermal/thermal_zone0/temp": "48500\n",
            "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
            "sys/class/thermal/thermal_zone1/type": "GPU-therm\n",
            "sys/class/powercap/intel-rapl:0/energy_uj": "123\n",
            "sys/class/powercap/intel-rapl:0/name": "package-0\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "etc/os-release": 'NAME="X"\nPRETTY_NAME="X OS 1"\n',
            ".dockerenv": "",
        },
    )
    state = machine_state(tree)
    assert state.load_average == (0.5, 0.25, 0.1)
    assert state.frequency_mhz == (1510, 729)
    assert state.temperature_c == {"CPU-therm": 48.5}  # the unreadable zone is absent
    assert state.available_memory_bytes == 4_096_000
    # Stolen time is a neighbour's; waiting for a disk is idle.
    assert tree.busy_cores_ticks() == (35, 105)
    found = environment(tree)
    assert found.governor == "schedutil"
    assert found.turbo == "on"
    assert found.cpu_quota == 1.5
    assert found.machine_cores == 2
    assert found.virtual_machine
    assert found.container == "docker"
    assert found.system == "X OS 1"
    assert found.power_sensor == "powercap intel-rapl:0 (package-0)"


def test_an_empty_tree_gives_absent_values_not_zeros(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path)
    state = machine_state(tree)
    assert set(vars(state).values()) == {None}
    assert tree.busy_cores_ticks() is None
    found = environment(tree)
    for name in ("governor", "turbo", "cpu_quota", "machine_cores", "container", "power_sensor"):
        assert getattr(found, name) is None, name


def test_this_machine_is_described() -> None:
    found = environment(ProcTree()).to_dict()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["packages"]["numpy"]
    assert found["cpu"]
