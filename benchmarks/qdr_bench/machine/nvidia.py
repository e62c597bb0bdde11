"""NVIDIA GPUs through NVML, where the nvidia-ml-py package and a driver are there."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

INSTALL = "pip install nvidia-ml-py"
# Bits of the clocks-event reasons that mean: slower than it could be. Idle and application clocks
# are not among them.
THROTTLE_BITS = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "heat (software)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU now; what NVML does not say of it is None."""

    name: str
    driver: str | None
    cuda: str | None
    memory_bytes: int | None
    sm_mhz: int | None
    sm_max_mhz: int | None
    temperature_c: float | None
    power_watts: float | None
    power_limit_watts: float | None
    persistence: bool | None
    mig: bool | None
    other_processes: int | None


def gpus() -> list[Gpu]:
    """Every GPU; none where NVML is not there."""
    with _nvml() as nvml:
        return [_read(nvml, handle) for handle in _handles(nvml)] if nvml else []


def throttle_reasons() -> tuple[str, ...] | None:
    """What slows a GPU down right now; None where there is none to ask."""
    with _nvml() as nvml:
        handles = _handles(nvml) if nvml else []
        masks = [
            mask
            for handle in handles
            if (mask := _ask(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)) is not None
        ]
        if not masks:
            return None
        return tuple(
            f"GPU {number}: {text}"
            for number, mask in enumerate(masks)
            for name, text in THROTTLE_BITS.items()
            if mask & getattr(nvml, name)
        )


def energy_mj() -> int | None:
    """Energy the first GPU took since its driver was loaded, mJ; None where it does not count."""
    with _nvml() as nvml:
        handles = _handles(nvml) if nvml else []
        return _ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handles[0]) if handles else None


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        # The package is missing, or the driver's library is, or it refuses: no GPU to speak of.
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Any) -> list[Any]:
    count = _ask(nvml.nvmlDeviceGetCount) or 0
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """An answer of NVML; None where the GPU does not support the question."""
    try:
        return question(*arguments)
    except Exception:
        return None


def _read(nvml: Any, handle: Any) -> Gpu:
    import os

    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    power = _ask(nvml.nvmlDeviceGetPowerUsage, handle)
    limit = _ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    cuda = _ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
    mig = _ask(nvml.nvmlDeviceGetMigMode, handle)
    persistence = _ask(nvml.nvmlDeviceGetPersistenceMode, handle)
    running = _ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
    return Gpu(
        name=str(_ask(nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
        driver=_ask(nvml.nvmlSystemGetDriverVersion),
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        memory_bytes=None if memory is None else int(memory.total),
        sm_mhz=_ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        sm_max_mhz=_ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
        temperature_c=_ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        persistence=None if persistence is None else bool(persistence),
        mig=None if mig is None else bool(mig[0]),
        other_processes=None
        if running is None
        else sum(process.pid != os.getpid() for process in running),
    )
