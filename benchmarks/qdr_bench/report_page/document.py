"""A report's JSON document as the page reads it: every schema version, every row named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdr_bench.report import FORMAT, SCHEMA_VERSION
from qdr_bench.report_page.text import at, number
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import read_input

EXPECTED = "a report.json of `qdr-edge bench`"
STATUSES = ("VALID", "INVALID", "FAILED", "UNAVAILABLE")

ROW_KEYS = ("bundle", "target", "variant", "backend", "threads", "latency", "accuracy", "reasons")


def read_report(path: Path) -> dict[str, Any]:
    """Read a report's JSON document.

    Raises:
        BenchmarkError: It cannot be read, is no report, or is of a later schema version.
    """
    content = read_input(path, BenchmarkError, expected=EXPECTED)
    try:
        report = json.loads(content)
    except ValueError as error:
        raise BenchmarkError(f"not JSON: {error}", where=str(path), expected=EXPECTED) from error
    check(report, str(path))
    return dict(report)


def check(report: Any, where: str) -> None:
    """Refuse what is no report of a schema version known here.

    Raises:
        BenchmarkError: See above.
    """
    found = at(report, "format")
    if found != FORMAT:
        raise BenchmarkError(f"format is {found!r}", where=where, expected=EXPECTED)
    version = at(report, "schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise BenchmarkError(
            f"schema version {version!r}",
            where=where,
            expected=f"1 to {SCHEMA_VERSION}",
            fix="use the release of qdr-edge that wrote it, or a later one",
        )
    for key in ("bundles", "rows", "ratios"):
        entries = report.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
            raise BenchmarkError(f"{key} is no list of objects", where=where, expected=EXPECTED)
    for row in report["rows"]:
        if row.get("status") not in STATUSES or not isinstance(row.get("id"), str):
            raise BenchmarkError(
                f"a row without an id, or of status {row.get('status')!r}",
                where=where,
                expected=f"one of {', '.join(STATUSES)}",
            )


def named_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows with a number and a title, by which every table and plot calls them.

    A row of schema version 1 gets the form, device and batch that version had.
    """
    threads = {row.get("threads") for row in report["rows"] if row.get("threads")}
    return [
        {
            **dict.fromkeys(ROW_KEYS),
            "form": row.get("variant"),
            "device": "cpu",
            "batch": 1,
            **row,
            "number": index,
            "title": _title(row, several=len(threads) > 1),
        }
        for index, row in enumerate(report["rows"], start=1)
    ]


def _title(row: Mapping[str, Any], *, several: bool) -> str:
    """What a row is, e.g. "int8 · onnxruntime · 4 threads"."""
    parts = [str(row.get("form") or row.get("variant") or ""), str(row.get("backend") or "")]
    device, batch, threads = row.get("device"), number(row.get("batch")), row.get("threads")
    # A form may say the device already: "cuda fp16".
    if device not in (None, "cpu") and str(device) not in parts[0]:
        parts.append(str(device))
    if batch is not None and batch != 1:
        parts.append(f"batch {batch:g}")
    if several and threads:
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    return " · ".join(part for part in parts if part) or str(row["id"])


def of_bundle(rows: list[dict[str, Any]], name: Any) -> list[dict[str, Any]]:
    """Return the rows of one bundle."""
    return [row for row in rows if row.get("bundle") == name]


def is_float(row: Mapping[str, Any]) -> bool:
    """Whether a row computes in floating point: drawn hollow."""
    return row.get("variant") == "float"


def is_twin(row: Mapping[str, Any]) -> bool:
    """Whether a row is the float twin that an artefact was made from."""
    return row.get("target") == "float"


def results(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows whose latency may be shown: its accuracy is known."""
    return [row for row in rows if row.get("latency") and row.get("accuracy")]
