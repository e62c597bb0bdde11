"""What machine and software a figure was measured on. What cannot be read is absent, never zero."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qdr_bench.machine.jetson import read_board, read_power_mode, throttling
from qdr_bench.machine.nvidia import gpus, throttle_reasons
from qdr_bench.machine.power import find_sensor
from qdr_bench.machine.tree import ProcTree
from qdr_edge.target import host

PACKAGES = ("qdr-edge", "numpy", "onnxruntime", "openvino", "tensorrt", "opencv-python-headless",
            "pillow", "torch", "scipy")  # fmt: skip

_LOAD = re.compile(r"(\d+\.\d+) (\d+\.\d+) (\d+\.\d+) ")
_KILOBYTES = re.compile(r"(\d{1,15}) kB")
FREQUENCY_CHANGE = 0.10
"""Largest share by which the mean clock may differ between before and after."""


@dataclass(frozen=True)
class MachineState:
    """What may change while measuring.

    Args:
        load_average: Over 1, 5 and 15 minutes.
        frequency_mhz: Of each core.
        temperature_c: Of each thermal zone, by its type.
        available_memory_bytes: What could be given to processes.
        governor: Of the first core.
        throttle_events: How often cores and packages were slowed down for heat since boot, and a
            Jetson for its supply.
        throttled: What slows the machine down right now; None where nothing would say so.
        power_mode: A Jetson's nvpmodel mode.
    """

    load_average: tuple[float, ...] | None
    frequency_mhz: tuple[int, ...] | None
    temperature_c: dict[str, float] | None
    available_memory_bytes: int | None
    governor: str | None = None
    throttle_events: int | None = None
    throttled: tuple[str, ...] | None = None
    power_mode: str | None = None

    @property
    def hottest_c(self) -> float | None:
        """The temperature of the hottest zone."""
        return max(self.temperature_c.values()) if self.temperature_c else None


def changes(before: MachineState, after: MachineState) -> list[str]:
    """What happened to the machine between two looks that makes a measurement doubtful."""
    found = []
    if before.frequency_mhz and after.frequency_mhz:
        was, now = (
            sum(state) / len(state) for state in (before.frequency_mhz, after.frequency_mhz)
        )
        if abs(now / was - 1) > FREQUENCY_CHANGE:
            found.append(f"clock changed from {was:.0f} to {now:.0f} MHz")
    if before.throttle_events is not None and after.throttle_events is not None:
        events = after.throttle_events - before.throttle_events
        if events > 0:
            found.append(f"throttled {events} times")
    found += [f"throttled: {reason}" for reason in after.throttled or ()]
    if before.power_mode != after.power_mode:
        found.append(f"power mode changed from {before.power_mode} to {after.power_mode}")
    if before.governor != after.governor:
        found.append(f"governor changed from {before.governor} to {after.governor}")
    return found


@dataclass(frozen=True)
class Environment:
    """What stays the same: machine, system, software."""

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    machine_cores: int | None
    cpu_quota: float | None
    governor: str | None
    turbo: str | None
    gpu: str | None
    jetson: str | None
    memory_bytes: int
    system: str
    kernel: str
    container: str | None
    virtual_machine: bool
    python: str
    packages: dict[str, str]
    git_commit: str | None
    power_sensor: str | None
    nvidia: tuple[dict[str, Any], ...]
    jetson_board: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def machine_state(tree: ProcTree) -> MachineState:
    """Read what may change while measuring."""
    load = _LOAD.match(tree.text("/proc/loadavg") or "")
    memory = _KILOBYTES.match(_field(tree.text("/proc/meminfo"), "MemAvailable") or "")
    frequencies = [
        value // 1000
        for path in tree.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (value := tree.number(path)) is not None
    ]
    temperatures = {}
    for zone in tree.glob("/sys/class/thermal/thermal_zone*"):
        value = tree.number(f"{zone}/temp")
        if value is not None:
            temperatures[tree.text(f"{zone}/type") or zone.rsplit("/", 1)[1]] = value / 1000
    throttled = [
        events
        for path in tree.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
        if (events := tree.number(path)) is not None
    ]
    board_now, gpu_now = throttling(tree), throttle_reasons()
    slowed = board_now.active if board_now else ()
    throttled += [board_now.events] if board_now and board_now.events is not None else []
    return MachineState(
        load_average=tuple(float(x) for x in load.groups()) if load else None,
        frequency_mhz=tuple(frequencies) or None,
        temperature_c=temperatures or None,
        available_memory_bytes=int(memory.group(1)) * 1024 if memory else None,
        governor=tree.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        throttle_events=sum(throttled) if throttled else None,
        throttled=None if board_now is None and gpu_now is None else (*slowed, *(gpu_now or ())),
        power_mode=read_power_mode(tree),
    )


def environment(tree: ProcTree) -> Environment:
    """Read what stays the same."""
    machine = host()
    cpuinfo = tree.text("/proc/cpuinfo") or ""
    flags = (_field(cpuinfo, "flags") or "").split()
    return Environment(
        cpu=machine.cpu,
        architecture=machine.architecture,
        isa=tuple(sorted(machine.features - {machine.architecture, "nvidia"})),
        cores=machine.cores,
        machine_cores=sum(line.startswith("processor") for line in cpuinfo.splitlines()) or None,
        cpu_quota=_cpu_quota(tree.text("/sys/fs/cgroup/cpu.max")),
        governor=tree.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(tree),
        gpu=_first_line(tree.text("/proc/driver/nvidia/version")),
        jetson=machine.jetson or None,
        memory_bytes=machine.memory_bytes,
        system=_system(tree),
        kernel=platform.release(),
        container=_container(tree),
        virtual_machine="hypervisor" in flags,
        python=platform.python_version(),
        packages=_packages(),
        git_commit=_git_commit(),
        power_sensor=sensor.name if (sensor := find_sensor(tree)) else None,
        nvidia=tuple(asdict(gpu) for gpu in gpus()),
        jetson_board=asdict(board) if (board := read_board(tree)) else None,
    )


def _turbo(tree: ProcTree) -> str | None:
    boost = tree.text("/sys/devices/system/cpu/cpufreq/boost")
    if boost in ("0", "1"):
        return "on" if boost == "1" else "off"
    no_turbo = tree.text("/sys/devices/system/cpu/intel_pstate/no_turbo")
    return {"0": "on", "1": "off"}.get(no_turbo or "")


def _cpu_quota(text: str | None) -> float | None:
    """Cores a container may use at most, from cgroup v2's "quota period"."""
    parts = (text or "").split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or not int(parts[1]):
        return None
    return int(parts[0]) / int(parts[1])


def _system(tree: ProcTree) -> str:
    for line in (tree.text("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.split("=", 1)[1].strip('"')
    return platform.system()


def _container(tree: ProcTree) -> str | None:
    if tree.text("/.dockerenv") is not None:
        return "docker"
    if tree.text("/run/.containerenv") is not None:
        return "podman"
    return None


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """Commit of the source this runs from, marked if it was changed; None for an installed one."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # A package installed into some other project's repository is not of that commit.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit} (changed)" if commit and changed else commit


def _field(text: str | None, name: str) -> str | None:
    for line in (text or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _first_line(text: str | None) -> str | None:
    return text.splitlines()[0] if text else None
