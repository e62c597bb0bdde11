"""Figures as a reader sees them; what is not a number is a dash, never a zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"


def at(value: Any, *path: str) -> Any:
    """Return what a path of keys leads to; None where any of them is missing or null."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: Any) -> float | None:
    """Return a finite number, None for everything else that JSON may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(value: Any) -> list[float]:
    """Return the numbers of a list, in their order."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [found for entry in value if (found := number(entry)) is not None]


def fixed(value: Any, digits: int = 0, factor: float = 1.0, unit: str = "") -> str:
    """Return a number with so many decimals, thousands set apart."""
    found = number(value)
    return NONE if found is None else f"{found * factor:,.{digits}f}{unit}"


def megabytes(count: Any) -> str:
    """Return bytes as MB of a million bytes."""
    return fixed(count, 2, 1e-6)


def milliseconds(value: Any) -> str:
    """Return milliseconds with three significant digits, trailing zeros kept."""
    found = number(value)
    if found is None:
        return NONE
    decimals = next((n for n, low in ((0, 100), (1, 10), (2, 1)) if found >= low), 3)
    return f"{found:,.{decimals}f}"


def per_second(value: Any) -> str:
    """Return a rate: whole from ten upwards, three significant digits below."""
    found = number(value)
    return milliseconds(found) if found is not None and found < 10 else fixed(found)


def percent(value: Any, digits: int = 1) -> str:
    """Return a figure of 0..1 in percent, without the sign."""
    return fixed(value, digits, 100.0)


def interval(estimate: Any, factor: float = 100.0, digits: int = 1) -> str:
    """Return the two ends of a 95 % interval; empty where there is none."""
    low, high = number(at(estimate, "low")), number(at(estimate, "high"))
    if low is None or high is None:
        return ""
    return f"{low * factor:.{digits}f} – {high * factor:.{digits}f}"


def words(value: Any) -> str:
    """Return any JSON value as a person would write it."""
    if value is None or value in ("", [], {}):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        found = numbers(value)
        if len(found) == len(value) > 4:
            # One figure a core: what matters is whether they agree.
            low, high, mean = min(found), max(found), sum(found) / len(found)
            same = f"{low:g}" if low == high else f"{low:g} – {high:g}, mean {mean:.4g}"
            return f"{same} ({len(found)} values)"
        return ", ".join(words(entry) for entry in value)
    return str(value)


def shortened(text: str, longest: int) -> str:
    """Return a text that fits a plot; the whole of it stands in the tables."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
