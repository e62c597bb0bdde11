"""Resident memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return this process's peak resident memory since it was started."""
    found = _status("VmHWM")
    if found is not None:
        return found
    # Not the first choice: on Linux ru_maxrss keeps the parent's peak across exec.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int | None:
    """Return this process's resident memory now; None where the system does not say."""
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
