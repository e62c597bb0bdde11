"""What else a user could pick, and how many times faster the artefact is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdr_bench.report_page.accuracy_cards import named
from qdr_bench.report_page.cards import Card, Entry, Table, headings
from qdr_bench.report_page.text import at, fixed, interval, milliseconds, number, percent

Rows = Sequence[Mapping[str, Any]]


def peers_card(against: Rows, rows: Rows) -> list[Card]:
    """One line a peer.

    Args:
        against: The report's `against_peers`.
        rows: Named rows of one bundle.
    """
    by_id = {row["id"]: row for row in rows}
    lines = [
        [
            named(by_id[entry["row"]]),
            Entry(milliseconds(at(by_id[entry["row"]], "latency", "p50_ms"))),
            Entry(percent(at(by_id[entry["row"]], "accuracy", "map", "value"))),
            Entry(str(by_id[entry["ours"]]["title"])),
            Entry(
                f"{fixed(number(entry['times']['value']), 2)} ×", interval(entry["times"], 1.0, 2)
            ),
        ]
        for entry in against
        if entry.get("row") in by_id and entry.get("ours") in by_id
    ]
    if not lines:
        return []
    heads = headings("Other", "p50, ms", "mAP, %", "ours", "ours is faster", text=("ours",))
    note = (
        "The same network made ready by other means, in the same rounds: beside the artefact of "
        "the same runtime, and beside the fastest one; 95 % bootstrap interval."
    )
    return [Card("Beside what else there is", note, table=Table(heads, lines))]
