"""One node of /proc or /sys at a time."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NUMBER = re.compile(r"-?[0-9]{1,18}")


class ProcTree:
    """Reads /proc and /sys and finds programs, below a root that tests point at another tree."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def text(self, path: str) -> str | None:
        """Return a node's text, or None where it is missing or may not be read."""
        try:
            content = (self._root / path.lstrip("/")).read_bytes()
        except OSError:
            return None
        # Nodes of the device tree end with a NUL.
        return content.decode(errors="replace").strip("\0 \t\r\n")

    def number(self, path: str) -> int | None:
        """Return the whole number that a node holds, or None where it holds none."""
        text = self.text(path)
        # Not int() alone: it takes "1_000" and Arabic digits, which no driver writes.
        return int(text) if text and _NUMBER.fullmatch(text) else None

    def glob(self, pattern: str) -> list[str]:
        """Return the nodes of a pattern, sorted, as paths that the other methods take."""
        found = sorted(self._root.glob(pattern.lstrip("/")))
        return [f"/{path.relative_to(self._root)}" for path in found]

    def program(self, name: str) -> str | None:
        """Return where a program lies that a shell would find, as it is started; None if none."""
        for folder in os.get_exec_path():
            path = self._root / folder.lstrip("/") / name
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
        return None

    def busy_cores_ticks(self) -> tuple[int, int] | None:
        """Return (busy, total) CPU ticks since boot; a neighbour's stolen time is busy."""
        stat = self.text("/proc/stat")
        first = (stat or "").split("\n", 1)[0].split()
        if len(first) < 9 or first[0] != "cpu" or not all(v.isdecimal() for v in first[1:9]):
            return None
        ticks = [int(value) for value in first[1:9]]
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle, sum(ticks)) if sum(ticks) else None
