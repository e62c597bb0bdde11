"""Which power sensor a machine has, and what an image costs in energy.

Energy of an image = (mean power under load − idle power) × time / images, the median of several
loops. A rail, a processor package or a GPU board is not the plug on the wall: the result says which
of them it was. Where there is no sensor there is no figure.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from qdr_bench.machine import nvidia
from qdr_bench.machine.jetson import Rail, module_rails
from qdr_bench.machine.tegrastats import find_tegrastats
from qdr_bench.machine.tree import ProcTree
from qdr_edge.errors import BenchmarkError

T = TypeVar("T")
SAMPLE_EVERY_S = 0.02
NO_SENSOR = "no power sensor that can be read (INA3221, tegrastats, powercap, NVML)"


class PowerSensor(Protocol):
    """Tells the mean power between two moments."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    @property
    def scope(self) -> str:
        """What it measures the power of."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """End; the mean power since `start`, watts.

        Raises:
            BenchmarkError: It could not be read meanwhile.
        """


@dataclass(frozen=True)
class Loop:
    """One loop under load."""

    watts: float
    seconds: float
    images: int


@dataclass(frozen=True)
class Energy:
    """What an image costs."""

    sensor: str
    scope: str
    idle_watts: float
    loops: tuple[Loop, ...]
    note: str = "not wall power"

    @property
    def joules_per_image(self) -> float:
        """Median over the loops of what the load added."""
        return statistics.median(
            (loop.watts - self.idle_watts) * loop.seconds / loop.images for loop in self.loops
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "sensor": self.sensor,
            "scope": self.scope,
            "idle_watts": self.idle_watts,
            "load_watts": statistics.median(loop.watts for loop in self.loops),
            "joules_per_image": self.joules_per_image,
            "loops": [asdict(loop) for loop in self.loops],
            "note": self.note,
        }


class EnergyCounter:
    """A sensor that counts energy; it may run over.

    Args:
        name: What it is.
        scope: What it measures the power of.
        read: The count now, in `unit_j` joules; None where it cannot be read.
        unit_j: Joules of one count.
        period: After how many counts it begins again; None if never.
    """

    def __init__(
        self,
        name: str,
        scope: str,
        read: Callable[[], int | None],
        unit_j: float,
        period: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self.scope = name, scope
        self._read, self._unit, self._period, self._clock = read, unit_j, period, clock
        self._began: tuple[float, int] | None = None

    def start(self) -> None:
        """See PowerSensor."""
        count = self._read()
        self._began = None if count is None else (self._clock(), count)

    def stop(self) -> float:
        """See PowerSensor."""
        count, now = self._read(), self._clock()
        if count is None or self._began is None:
            raise _unreadable(self.name)
        began, before = self._began
        spent = count - before
        if spent < 0:
            if self._period is None:
                raise _unreadable(self.name)
            spent += self._period
        return spent * self._unit / (now - began)


class RailSampler:
    """A sensor that tells power at a moment only: a thread of its own reads it again and again."""

    def __init__(self, name: str, scope: str, rails: list[Rail], tree: ProcTree) -> None:
        self.name, self.scope = name, scope
        self._rails, self._tree = rails, tree
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See PowerSensor."""
        self._samples, self._ended = [], threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """See PowerSensor."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if not self._samples:
            raise _unreadable(self.name)
        return statistics.fmean(self._samples)

    def _sample(self) -> None:
        while True:
            watts = [rail.watts(self._tree) for rail in self._rails]
            known = [value for value in watts if value is not None]
            # A sum with a part missing is another quantity.
            if len(known) == len(watts):
                self._samples.append(sum(known))
            if self._ended.wait(SAMPLE_EVERY_S):
                return


def find_sensor(tree: ProcTree) -> PowerSensor | None:
    """The best sensor of this machine: a Jetson's rails, a processor's counter, a GPU's."""
    rails = module_rails(tree)
    if rails and all(rail.watts(tree) is not None for rail in rails):
        names = " + ".join(rail.name for rail in rails)
        return RailSampler(f"INA3221 {names}", "module rails", rails, tree)
    if (sampler := find_tegrastats(tree)) is not None:
        return sampler
    for zone in tree.glob("/sys/class/powercap/*/energy_uj"):
        folder = zone.rsplit("/", 1)[0]
        name = tree.text(f"{folder}/name") or ""
        # A package holds its cores and, on some, its memory: those are zones below it.
        if tree.number(zone) is not None and name.startswith(("package", "psys")):
            return EnergyCounter(
                f"powercap {folder.rsplit('/', 1)[1]} ({name})",
                "processor package" if name.startswith("package") else "platform",
                partial(tree.number, zone),
                1e-6,
                tree.number(f"{folder}/max_energy_range_uj"),
            )
    if nvidia.energy_mj() is not None:
        return EnergyCounter("NVML", "GPU board", nvidia.energy_mj, 1e-3)
    return None


def measure_energy(
    sensor: PowerSensor,
    load: Callable[[float], int],
    *,
    idle_s: float = 10.0,
    loop_s: float = 10.0,
    loops: int = 5,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Measure what an image costs.

    Args:
        sensor: Where power is read.
        load: Answers images for so many seconds; returns how many.
        idle_s: How long the machine is left alone first.
        loop_s: Length of a loop.
        loops: How many.
        sleep: How to wait.
        clock: What time it is.

    Raises:
        BenchmarkError: The sensor cannot be read, or no image was answered.
    """
    idle, _ = _watched(sensor, lambda: sleep(idle_s))
    found = []
    for _ in range(loops):
        began = clock()
        watts, images = _watched(sensor, lambda: load(loop_s))
        if images < 1:
            raise BenchmarkError("no image was answered while power was read", where=sensor.name)
        found.append(Loop(watts, clock() - began, images))
    return Energy(sensor.name, sensor.scope, idle, tuple(found))


def _watched(sensor: PowerSensor, act: Callable[[], T]) -> tuple[float, T]:
    """Mean power while something is done, and what that returned."""
    sensor.start()
    try:
        done = act()
    except BaseException:
        # Ctrl-C or a load that fails must not leave a program or a thread of the sensor behind.
        with contextlib.suppress(BenchmarkError):
            sensor.stop()
        raise
    return sensor.stop(), done


def _unreadable(name: str) -> BenchmarkError:
    return BenchmarkError(
        "the power sensor could not be read",
        where=name,
        expected="a sensor that this user may read all along",
        fix="run as a user who may, or measure without energy",
    )
