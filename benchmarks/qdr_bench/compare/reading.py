"""Read two reports, and say whether their machines are alike enough to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdr_bench.report_page.document import read_report

MACHINE = ("cpu", "architecture", "isa", "cores", "cpu_quota", "governor", "turbo", "gpu", "jetson",
           "virtual_machine", "container")  # fmt: skip
"""What must be the same: a difference here is a difference of machines, not of models."""


@dataclass(frozen=True)
class Report:
    """A report that can be compared; `rows` by id."""

    file: Path
    document: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Differences:
    """How two reports' surroundings differ, one line each.

    Args:
        machine: Makes latencies of both incomparable.
        software: May well be what is compared: told, not refused.
    """

    machine: tuple[str, ...]
    software: tuple[str, ...]


def open_report(file: Path) -> Report:
    """Read a report.json.

    Raises:
        BenchmarkError: It is no report, or one of a later release.
    """
    document = read_report(file)
    return Report(file, document, {row["id"]: row for row in document["rows"]})


def differences(before: Report, after: Report) -> Differences:
    """What differs around the models."""
    was, now = before.document["environment"], after.document["environment"]
    machine = [
        f"{key}: {_told(was.get(key))} → {_told(now.get(key))}"
        for key in MACHINE
        if was.get(key) != now.get(key)
    ]
    for name in sorted(before.rows.keys() & after.rows.keys()):
        old, new = (report.rows[name]["threads"] for report in (before, after))
        if old and new and old != new:
            machine.append(f"threads of {name}: {old} → {new}")
    packages = [report.document["environment"]["packages"] for report in (before, after)]
    software = [
        f"{name}: {packages[0].get(name, 'none')} → {packages[1].get(name, 'none')}"
        for name in sorted(packages[0].keys() | packages[1].keys())
        if packages[0].get(name) != packages[1].get(name)
    ]
    software += [
        f"{key}: {_told(was.get(key))} → {_told(now.get(key))}"
        for key in ("system", "kernel")
        if was.get(key) != now.get(key)
    ]
    return Differences(tuple(machine), tuple(software))


def _told(value: object) -> str:
    if value is None:
        return "not known"
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)
