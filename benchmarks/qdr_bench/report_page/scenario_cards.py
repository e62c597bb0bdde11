"""The other scenarios as cards: MultiStream, Offline, ColdStart, Soak, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdr_bench.report_page.accuracy_cards import named
from qdr_bench.report_page.cards import Card, Entry, Table, headings, plots
from qdr_bench.report_page.plots.scenarios import cold_start_bars, soak_timeline
from qdr_bench.report_page.text import (
    NONE,
    at,
    fixed,
    megabytes,
    milliseconds,
    number,
    numbers,
    per_second,
    percent,
    words,
)

Rows = Sequence[Mapping[str, Any]]


def latency_card(rows: Rows) -> list[Card]:
    """Every percentile of SingleStream that a row's queries carry."""
    if not rows:
        return []
    keys = ("mean", "min", "p50", "p90", "p95", "p99", "p999", "max")
    lines = [
        [
            named(row),
            Entry(fixed(at(row, "latency", "queries"))),
            *(Entry(milliseconds(at(row, "latency", f"{key}_ms"))) for key in keys),
            Entry(milliseconds(at(row, "latency", "early_stopping_p90_ms"))),
            Entry(percent(at(row, "latency", "round_coefficient_of_variation"))),
        ]
        for row in rows
    ]
    heads = headings("Row", "queries", "mean", "min", "p50", "p90", "p95", "p99", "p99.9", "max",
                     "p90 at 99 %", "rounds vary, %")  # fmt: skip
    note = "Milliseconds. A percentile is absent where there are too few queries to carry it."
    return [Card("SingleStream in full", note, table=Table(heads, lines))]


def throughput_card(rows: Rows) -> list[Card]:
    """MultiStream and Offline, one line a row that has either."""
    lines = []
    for row in rows:
        multi, offline = row.get("multi_stream"), row.get("offline")
        if not multi and not offline:
            continue
        rounds = numbers(at(offline, "rounds_images_per_second"))
        spread = f"{per_second(min(rounds))} – {per_second(max(rounds))}" if rounds else ""
        lines.append(
            [
                named(row),
                Entry(fixed(at(multi, "queries")), _of_images(multi)),
                *(Entry(milliseconds(at(multi, f"{key}_ms"))) for key in ("mean", "p50", "p99")),
                Entry(milliseconds(at(multi, "early_stopping_p99_ms"))),
                Entry(per_second(at(offline, "images_per_second")), spread),
                Entry(fixed(at(offline, "batch"))),
                Entry(fixed(at(offline, "images"))),
            ]
        )
    if not lines:
        return []
    heads = headings("Row", "queries", "mean, ms", "p50, ms", "p99, ms", "p99 at 99 %, ms",
                     "Offline, images/s", "batch", "images")  # fmt: skip
    note = (
        "MultiStream: several images a query, answered when the last of them is; p99 is shown only "
        "where there are queries enough. Offline: all images at once; beneath: slowest and fastest "
        "round."
    )
    return [Card("MultiStream and Offline", note, table=Table(heads, lines))]


def _of_images(multi: Any) -> str:
    count = number(at(multi, "samples_per_query"))
    return "" if count is None else f"of {count:.0f} images"


def cold_start_card(rows: Rows, prefix: str) -> list[Card]:
    """Medians of a start's parts as bars."""
    counts = sorted({starts for row in rows if (starts := at(row, "cold_start", "starts"))})
    note = (
        "A new process each time: imports, opening the bundle with its self-test, the first "
        f"decision. Medians of {words(counts)} starts; the file system's cache is warm."
    )
    return plots("Cold start", note, cold_start_bars(rows, prefix))


def soak_cards(rows: Rows, prefix: str) -> list[Card]:
    """Soaks: a table of what drifted, and each one's timeline."""
    soaked = [row for row in rows if row.get("soak")]
    if not soaked:
        return []
    lines = []
    for row in soaked:
        soak = row["soak"]
        golden = f"{fixed(soak.get('golden_wrong'))} of {fixed(soak.get('golden_checks'))}"
        first, last = (megabytes(soak.get(f"rss_{end}_bytes")) for end in ("first", "last"))
        drift = number(soak.get("rss_drift"))
        lines.append(
            [
                named(row),
                Entry(fixed(soak.get("seconds"))),
                Entry(fixed(soak.get("images")), f"{words(soak.get('images_per_second_asked'))}/s"),
                Entry(fixed(soak.get("late"))),
                Entry(golden),
                Entry(NONE if drift is None else f"{100 * drift:+.2f} %", f"{first} → {last} MB"),
                Entry(
                    f"{milliseconds(soak.get('p99_first_ms'))} → "
                    f"{milliseconds(soak.get('p99_last_ms'))}"
                ),
            ]
        )
    heads = headings("Row", "seconds", "images", "began late", "golden images wrong", "memory",
                     "p99 in the first and last third, ms")  # fmt: skip
    note = "Images at a camera's pace, from file to decision, with a known image now and then."
    found = [Card("Soak", note, table=Table(heads, lines))]
    for row in soaked:
        svg = soak_timeline(row, f"{prefix}{row['number']}")
        found += plots(f"Soak of row {row['number']}", str(row["title"]), [svg])
    return found


def energy_card(rows: Rows) -> list[Card]:
    """Energy an image, with the sensor and what it covers; left out where none was read."""
    lines, notes = [], []
    for row in rows:
        energy = row.get("energy")
        if not energy:
            continue
        loops = [loop for loop in energy.get("loops") or [] if isinstance(loop, Mapping)]
        joules = number(energy.get("joules_per_image"))
        watts = numbers([loop.get("watts") for loop in loops])
        spread = f"{min(watts):.2f} – {max(watts):.2f}" if watts else ""
        seconds = numbers([loop.get("seconds") for loop in loops])
        lines.append(
            [
                named(row),
                Entry(words(energy.get("sensor")), words(energy.get("scope"))),
                Entry(fixed(energy.get("idle_watts"), 2)),
                Entry(fixed(energy.get("load_watts"), 2), spread),
                Entry(milliseconds(None if joules is None else 1000 * joules)),
                Entry(fixed(len(loops)), f"{sum(seconds):.0f} s together" if seconds else ""),
            ]
        )
        if energy.get("note"):
            notes.append(f"Row {row['number']}: {energy['note']}")
    if not lines:
        return []
    heads = headings("Row", "sensor", "idle, W", "load, W", "mJ an image", "loops",
                     text=("sensor",))  # fmt: skip
    note = (
        "(mean power under load − idle power) × time / images, the median of the loops. What the "
        "sensor covers is named; it is not what a wall plug would show."
    )
    return [Card("Energy", note, table=Table(heads, lines), points=notes)]
