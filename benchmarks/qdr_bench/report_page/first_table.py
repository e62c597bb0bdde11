"""The table a reader wants first: one row a bundle × target or form, on page and terminal alike."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdr_bench.report_page.document import STATUSES, is_twin, named_rows
from qdr_bench.report_page.text import (
    NONE,
    at,
    fixed,
    interval,
    megabytes,
    milliseconds,
    number,
    per_second,
    percent,
)


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Args:
        name: What stands above it.
        unit: Its unit, set smaller.
        long: What it is called where there is no head above it.
        short: Its head on a terminal, in two narrow lines.
    """

    name: str
    unit: str
    long: str
    short: str


COLUMNS = (
    Column("size", "MB", "size, MB", "size\nMB"),
    Column("mAP", "%", "mAP, %", "mAP\n%"),
    Column("p50", "ms", "p50, ms", "p50\nms"),
    Column("p90", "ms", "p90, ms", "p90\nms"),
    Column("images", "/s", "images/s", "img\n/s"),
    Column("peak", "MB", "peak, MB", "peak\nMB"),
    Column("energy", "mJ", "mJ an image", "\nmJ"),
    Column("speed", "× float", "× float", "×\nfloat"),
)


@dataclass(frozen=True)
class Cell:
    """One figure.

    Args:
        text: As shown; a dash where it is absent.
        value: By which it sorts; None sorts last.
        note: An interval or the like, shown smaller.
        absent: Why there is none.
        mark: Letter of the note that says so.
    """

    text: str
    value: float | None = None
    note: str = ""
    absent: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """One row of the table; `rank` orders the status words, the best first."""

    row: Mapping[str, Any]
    number: int
    title: str
    note: str
    status: str
    rank: int
    reasons: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def never(self) -> bool:
        """Whether it was never measured."""
        return self.status in ("FAILED", "UNAVAILABLE") and not self.row.get("latency")


@dataclass(frozen=True)
class FirstTable:
    """All rows, and why figures are absent: letter and reason."""

    lines: tuple[Line, ...]
    notes: tuple[tuple[str, str], ...]

    def of(self, bundle: Any) -> list[Line]:
        """The rows of one bundle."""
        return [line for line in self.lines if line.row.get("bundle") == bundle]


@dataclass
class _Marks:
    """Gives every reason a letter: a, b, … z, aa, ab, …"""

    letters: dict[str, str] = field(default_factory=dict)

    def mark(self, cell: Cell) -> Cell:
        if not cell.absent:
            return cell
        count = len(self.letters)
        alphabet = string.ascii_lowercase
        letter = (alphabet[count // 26 - 1] if count >= 26 else "") + alphabet[count % 26]
        mark = self.letters.setdefault(cell.absent, letter)
        return Cell(cell.text, cell.value, cell.note, cell.absent, mark)


def first_table(report: Mapping[str, Any]) -> FirstTable:
    """Lay out the first table of a report."""
    marks = _Marks()
    ratios = {at(entry, "row"): at(entry, "faster_than_float") for entry in report["ratios"]}
    float_bytes = {bundle.get("name"): bundle.get("float_bytes") for bundle in report["bundles"]}
    several = len(float_bytes) > 1
    twins = {
        (row.get("bundle"), row.get("backend"), "cpu") for row in report["rows"] if is_twin(row)
    }
    sensor = at(report, "environment", "power_sensor")
    lines = []
    for row in named_rows(report):
        bundle = row.get("bundle")
        cells = (
            _size(row, float_bytes.get(bundle)),
            _metric(row),
            _percentile(row, "p50_ms"),
            _percentile(row, "p90_ms"),
            _rate(row),
            _memory(row),
            _energy(row, sensor),
            _ratio(
                row, ratios.get(row["id"]), (bundle, row.get("backend"), row["device"]) in twins
            ),
        )
        lines.append(
            Line(
                row=row,
                number=row["number"],
                title=row["title"],
                note=_note(row, several),
                status=row["status"],
                rank=STATUSES.index(row["status"]),
                reasons=tuple(str(reason) for reason in row.get("reasons") or ()),
                cells=tuple(marks.mark(cell) for cell in cells),
            )
        )
    return FirstTable(tuple(lines), tuple((mark, why) for why, mark in marks.letters.items()))


def _note(row: Mapping[str, Any], several: bool) -> str:
    """What tells a row from another of the same form and runtime."""
    target = row.get("target")
    parts = [
        row.get("bundle") if several else None,
        target if target not in ("float", "peer") else None,
        row.get("backend_version"),
    ]
    return " · ".join(str(part) for part in parts if part)


def _never_ran(row: Mapping[str, Any]) -> str:
    return {
        "UNAVAILABLE": "cannot run here: see the reason of the row",
        "FAILED": "failed: see the reason of the row",
    }.get(row["status"], "")


def _size(row: Mapping[str, Any], float_bytes: Any) -> Cell:
    size, whole = number(row.get("model_bytes")), number(float_bytes)
    if size is None:
        return Cell(NONE, absent=_never_ran(row) or "the size is not recorded")
    note = f"{100 * size / whole:.0f} % of float" if whole and not is_twin(row) else ""
    return Cell(megabytes(size), size, note)


def _metric(row: Mapping[str, Any]) -> Cell:
    estimate = at(row, "accuracy", "map")
    value = number(at(estimate, "value"))
    if value is not None:
        return Cell(percent(value), value, interval(estimate))
    if row.get("accuracy"):
        return Cell(NONE, absent="no label has both positives and negatives: mAP is undefined")
    return Cell(NONE, absent=_never_ran(row) or "no labelled images were given")


def _timed(row: Mapping[str, Any]) -> str:
    """Why a latency may not be shown; empty if it may."""
    if not row.get("latency"):
        return _never_ran(row) or "SingleStream was not measured"
    if not row.get("accuracy"):
        return "a latency without the accuracy of the same file is no result (raw figures: JSON)"
    return ""


def _percentile(row: Mapping[str, Any], key: str) -> Cell:
    why = _timed(row)
    value = None if why else number(at(row, "latency", key))
    if value is None:
        return Cell(NONE, absent=why or "too few queries to carry this percentile")
    bound = number(at(row, "latency", "early_stopping_p90_ms")) if key == "p90_ms" else None
    note = "" if bound is None else f"≤ {milliseconds(bound)} at 99 %"
    return Cell(milliseconds(value), value, note)


def _rate(row: Mapping[str, Any]) -> Cell:
    why = _timed(row)
    value = None if why else number(at(row, "latency", "images_per_second"))
    if value is not None:
        return Cell(per_second(value), value)
    offline = number(at(row, "offline", "images_per_second"))
    if offline is not None and row.get("accuracy"):
        return Cell(per_second(offline), offline, "Offline")
    return Cell(NONE, absent=why or "no rate was measured")


def _memory(row: Mapping[str, Any]) -> Cell:
    added, runtime = (
        number(at(row, "memory", key)) for key in ("model_bytes", "baseline_rss_bytes")
    )
    if added is None:
        return Cell(NONE, absent=_never_ran(row) or "peak memory was not read")
    return Cell(
        fixed(added, 1, 1e-6), added, "" if runtime is None else f"+ {runtime / 1e6:.0f} runtime"
    )


def _energy(row: Mapping[str, Any], sensor: Any) -> Cell:
    energy = row.get("energy")
    joules = number(at(energy, "joules_per_image"))
    if joules is not None:
        return Cell(milliseconds(1000 * joules), joules, str(at(energy, "scope") or ""))
    why = str(at(energy, "note") or "") or _never_ran(row)
    if not why:
        why = "energy was not measured" if sensor else "no power sensor can be read here"
    return Cell(NONE, absent=why)


def _ratio(row: Mapping[str, Any], ratio: Any, has_twin: bool) -> Cell:
    value = number(at(ratio, "value"))
    if value is not None and not _timed(row):
        return Cell(f"{value:.2f}", value, interval(ratio, 1.0, 2))
    if is_twin(row):
        return Cell(NONE, absent="the float model itself")
    why = _timed(row)
    if not why:
        why = (
            "not both were measured" if has_twin else "no float twin on the same runtime and device"
        )
    return Cell(NONE, absent=why)


def reasons(lines: Sequence[Line]) -> list[Line]:
    """Return the rows that a reader must be told something about."""
    return [line for line in lines if line.reasons]
