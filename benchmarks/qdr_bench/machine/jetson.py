"""NVIDIA Jetson: board, release, power mode, clocks, rails and throttling, from sysfs alone.

No library of others is needed. Written from NVIDIA's documentation of these nodes and tested on
trees made from it; never run on a board.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from qdr_bench.machine.tree import ProcTree

# L4T release, to the JetPack that brings it.
JETPACK = {
    "36.5": "6.2.2", "36.4.7": "6.2.1", "36.4.4": "6.2.1", "36.4.3": "6.2", "36.4": "6.1",
    "36.3": "6.0", "35.6": "5.1.4", "35.5": "5.1.3", "35.4": "5.1.2", "35.3": "5.1.1",
    "35.2": "5.1", "35.1": "5.0.2", "32.7": "4.6.x",
}  # fmt: skip
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
# JetPack 4 prints no unit.
_TEGRASTATS_RAIL = re.compile(
    r"\b((?:VDD|VIN|POM|CPU|GPU|SOC|CV|SYS5V)\w*) (\d+)(?:mW)?/\d+(?:mW\b|(?![\w/]))"
)
# What a module takes, as the sum of these: Orin Nano, Orin NX and Xavier NX measure their input,
# Nano too; AGX Orin has three input rails and AGX Xavier six.
_MODULE_RAILS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
_INA = "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*"
_INA_OLD = "/sys/bus/i2c/drivers/ina3221x/*/iio:device*"
_COOLING_IS_A_FAN = ("fan", "pwm")


@dataclass(frozen=True)
class Board:
    """What a Jetson says of itself; what it does not say is None.

    Args:
        model: E.g. "NVIDIA Jetson Orin Nano Developer Kit".
        l4t: Release of its Linux, e.g. "36.4.3".
        jetpack: The JetPack that brings it.
        power_mode: Name of the nvpmodel mode.
        clocks_pinned: Whether processor and GPU run at one fixed clock, as `jetson_clocks` sets.
        gpu_mhz: The GPU's clock now.
        rails_watts: Power of each rail now, watts.
    """

    model: str
    l4t: str | None
    jetpack: str | None
    power_mode: str | None
    clocks_pinned: bool | None
    gpu_mhz: int | None
    rails_watts: dict[str, float]


@dataclass(frozen=True)
class Rail:
    """One monitored supply.

    Args:
        name: As the board labels it.
        voltage: Node of the voltage, mV; empty if `power` is there.
        current: Node of the current, mA.
        power: Node of the power, mW, of the older driver.
    """

    name: str
    voltage: str = ""
    current: str = ""
    power: str = ""

    def watts(self, tree: ProcTree) -> float | None:
        """The power now; None where a node cannot be read."""
        if self.power:
            milliwatts = tree.number(self.power)
            return None if milliwatts is None else milliwatts / 1e3
        volts, amperes = tree.number(self.voltage), tree.number(self.current)
        return None if volts is None or amperes is None else volts * amperes / 1e6


@dataclass(frozen=True)
class Throttling:
    """What slows a board down: active causes, and over-current events since boot."""

    active: tuple[str, ...]
    events: int | None


def read_board(tree: ProcTree) -> Board | None:
    """Read a Jetson; None on other machines."""
    model = tree.text("/proc/device-tree/model") or ""
    release = read_release(tree)
    if "jetson" not in model.lower() and release is None:
        return None
    gpu = next(iter(tree.glob("/sys/class/devfreq/*.g*")), "")
    clock = tree.number(f"{gpu}/cur_freq") if gpu else None
    return Board(
        model=model or "Jetson",
        l4t=release,
        jetpack=_jetpack(release),
        power_mode=read_power_mode(tree),
        clocks_pinned=_clocks_pinned(tree, gpu),
        gpu_mhz=None if clock is None else clock // 1_000_000,
        rails_watts={
            rail.name: watts for rail in rails(tree) if (watts := rail.watts(tree)) is not None
        },
    )


def read_power_mode(tree: ProcTree) -> str | None:
    """The name of the nvpmodel mode; its number where the table of names cannot be read."""
    status = tree.text("/var/lib/nvpmodel/status") or ""
    found = re.search(r"pmode:(\d+)", status)
    if found is None:
        return None
    names: dict[str, str] = dict(_MODE.findall(tree.text("/etc/nvpmodel.conf") or ""))
    number = str(int(found.group(1)))
    return names.get(number, number)


def rails(tree: ProcTree) -> list[Rail]:
    """Every labelled rail of the INA3221 monitors, through hwmon or the older iio driver."""
    found = []
    for monitor in tree.glob(_INA):
        for label in tree.glob(f"{monitor}/in*_label"):
            number = re.search(r"in(\d+)_label$", label)
            name = tree.text(label)
            # "NC" is a channel that is not connected; "sum of …" is made of the others.
            if number and name and name != "NC" and not name.startswith("sum"):
                channel = number.group(1)
                found.append(
                    Rail(name, f"{monitor}/in{channel}_input", f"{monitor}/curr{channel}_input")
                )
    for monitor in tree.glob(_INA_OLD):
        for label in tree.glob(f"{monitor}/rail_name_*"):
            name, channel = tree.text(label), label.rsplit("_", 1)[1]
            if name and name != "NC":
                found.append(Rail(name, power=f"{monitor}/in_power{channel}_input"))
    return found


def module_rails(tree: ProcTree) -> list[Rail]:
    """The rails whose sum is what the module takes; none where that cannot be known."""
    known = {rail.name: rail for rail in rails(tree)}
    return [known[name] for name in module_rail_names(known)]


def module_rail_names(known: Collection[str]) -> tuple[str, ...]:
    """Those of the known rails whose sum is what the module takes; none where that is not known."""
    return next((names for names in _MODULE_RAILS if all(name in known for name in names)), ())


def throttling(tree: ProcTree) -> Throttling | None:
    """What slows the board down; None where it does not say."""
    counts = [
        value
        for path in tree.glob("/sys/class/hwmon/hwmon*/oc*_event_cnt")
        if (value := tree.number(path)) is not None
    ]
    devices = list(_cooling(tree)) if read_release(tree) else []
    if not counts and not devices:
        return None
    active = tuple(f"{name} at step {state}" for name, state in devices if state > 0)
    return Throttling(active, sum(counts) if counts else None)


def read_release(tree: ProcTree) -> str | None:
    """The release of Jetson Linux, e.g. "36.4.3"; None elsewhere."""
    found = _RELEASE.search(tree.text("/etc/nv_tegra_release") or "")
    return f"{found.group(1)}.{found.group(2)}" if found else None


def parse_tegrastats(line: str) -> dict[str, float]:
    """Power of each rail in a line of `tegrastats`, watts: for boards whose sysfs is closed.

    Args:
        line: E.g. "RAM 2448/7620MB … VDD_IN 4560mW/4500mW …": now / mean since its start.
            JetPack 4 leaves the unit out.
    """
    return {name: int(now) / 1e3 for name, now in _TEGRASTATS_RAIL.findall(line)}


def _jetpack(release: str | None) -> str | None:
    """The JetPack of a release, by the longest known beginning."""
    parts = (release or "").split(".")
    beginnings = [".".join(parts[:length]) for length in range(len(parts), 1, -1)]
    return next((JETPACK[start] for start in beginnings if start in JETPACK), None)


def _clocks_pinned(tree: ProcTree, gpu: str) -> bool | None:
    """Whether every clock that can be read has no room to move."""
    pairs = [
        (tree.number(f"{core}/scaling_min_freq"), tree.number(f"{core}/scaling_max_freq"))
        for core in tree.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    ]
    if gpu:
        pairs.append((tree.number(f"{gpu}/min_freq"), tree.number(f"{gpu}/max_freq")))
    known = [(low, high) for low, high in pairs if low is not None and high is not None]
    return all(low == high for low, high in known) if known else None


def _cooling(tree: ProcTree) -> Iterator[tuple[str, int]]:
    for device in tree.glob("/sys/class/thermal/cooling_device*"):
        name, state = tree.text(f"{device}/type"), tree.number(f"{device}/cur_state")
        if name and state is not None and not any(word in name for word in _COOLING_IS_A_FAN):
            yield name, state
