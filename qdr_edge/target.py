"""Targets: what a device must be able to do to run an artefact, and what this machine can do."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from qdr_edge.errors import CompatibilityError

# Linux's names of the instruction sets that change what int8 kernels do or cost.
_CPU_FLAGS: Final = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_VERSION_BOUND: Final = re.compile(r"(>=|<)\s*(\d+(?:\.\d+)*)")


@dataclass(frozen=True)
class Target:
    """A device profile that an artefact is emitted for.

    Args:
        name: as users write it after `--target`, e.g. "ort-x86".
        backend: the runtime that opens the artefact.
        runtime: accepted versions, e.g. ">=1.20,<2"; empty for any.
        requires: properties the machine must have: an architecture or an instruction set.
        description: for people.
    """

    name: str
    backend: str
    runtime: str = ""
    requires: tuple[str, ...] = ()
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return {**asdict(self), "requires": list(self.requires)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Target:
        """The target of a JSON or YAML object."""
        return cls(**{**value, "requires": tuple(value.get("requires", ()))})


ORT_X86: Final = Target(
    "ort-x86", "onnxruntime", ">=1.20,<2", ("x86_64",), "ONNX Runtime on x86-64 CPUs"
)
OPENVINO: Final = Target("openvino", "openvino", ">=2025.0", (), "OpenVINO on CPUs")
TENSORRT_10: Final = Target(
    "tensorrt-10",
    "tensorrt",
    ">=10.3,<11",
    ("nvidia",),
    "TensorRT 10 on NVIDIA GPUs and Jetson (JetPack 6)",
)
TENSORRT_11: Final = Target(
    "tensorrt-11",
    "tensorrt",
    ">=11,<12",
    ("nvidia",),
    "TensorRT 11 on NVIDIA GPUs and Jetson (JetPack 7.2.2)",
)
BUILTIN: Final = {target.name: target for target in (ORT_X86, OPENVINO, TENSORRT_10, TENSORRT_11)}


@dataclass(frozen=True)
class Host:
    """This machine, as far as it decides what can run and how fast."""

    architecture: str
    cpu: str
    features: frozenset[str]
    cores: int
    memory_bytes: int
    jetson: str

    def lacks(self, requires: Iterable[str]) -> list[str]:
        """Those of the required properties that this machine does not have."""
        return [name for name in requires if name not in self.features]


@cache
def host() -> Host:
    """Look at this machine once."""
    architecture = platform.machine().lower()
    architecture = _ARCHITECTURES.get(architecture, architecture)
    cpuinfo = _read_text("/proc/cpuinfo")
    words = set(re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE))
    flags = {flag for line in words for flag in line.split()}
    features = {name for flag, name in _CPU_FLAGS.items() if flag in flags} | {architecture}
    jetson = _jetson()
    if jetson or Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        features.add("nvidia")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return Host(
        architecture=architecture,
        cpu=model.group(1).strip() if model else platform.processor() or "unknown",
        features=frozenset(features),
        cores=available_cores(),
        memory_bytes=_memory_bytes(),
        jetson=jetson,
    )


def available_cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def version_in(version: str, accepted: str) -> bool:
    """Whether a runtime's version lies in a range such as ">=1.20,<2"; an empty range accepts all.

    Raises:
        CompatibilityError: the range is not written that way.
    """
    found = _numbers(version)
    for part in filter(None, (part.strip() for part in accepted.split(","))):
        bound = _VERSION_BOUND.fullmatch(part)
        if bound is None:
            raise CompatibilityError(
                f"runtime range {accepted!r} cannot be read",
                expected='bounds such as ">=1.20,<2"',
                fix="export the bundle again with this release",
            )
        limit = _numbers(bound.group(2))
        # 10.3 and 10.3.0 are the same version.
        width = max(len(found), len(limit))
        here, there = (n + (0,) * (width - len(n)) for n in (found, limit))
        if (here < there) if bound.group(1) == ">=" else (here >= there):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else (0,)


def _memory_bytes() -> int:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read_text("/proc/meminfo"), re.MULTILINE)
    memory = int(total.group(1)) * 1024 if total else 0
    limit = _read_text("/sys/fs/cgroup/memory.max").strip()
    return min(memory, int(limit)) if limit.isdigit() and memory else memory


def _jetson() -> str:
    """The Jetson's Linux release line (R36 is JetPack 6), empty elsewhere."""
    first = _read_text("/etc/nv_tegra_release").splitlines()[:1]
    return first[0].lstrip("# ") if first else ""


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
