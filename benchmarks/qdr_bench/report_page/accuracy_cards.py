"""Accuracy as cards: against chance and float, by label, curves, parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdr_bench.report_page.cards import Card, Drawing, Entry, Table, headings
from qdr_bench.report_page.document import is_twin
from qdr_bench.report_page.plots.quality import label_curves, reliability_diagram
from qdr_bench.report_page.text import NONE, at, fixed, interval, number, percent, words

PARITY_FLIPS_SHOWN = 12
PARITY_NOTE = (
    "Each rung against the integer reference of the network, on the validation and test images. A "
    "flip is a label above its threshold on one side and below it on the other."
)
Rows = Sequence[Mapping[str, Any]]


def estimate(value: Any) -> Entry:
    """A figure of 0..1 in percent with its interval."""
    return Entry(percent(at(value, "value")), interval(value))


def named(row: Mapping[str, Any]) -> Entry:
    """The head of a row: its number in the first table, and its title."""
    target = row.get("target")
    return Entry(
        f"{row['number']}  {row['title']}", str(target) if target not in ("float", "peer") else ""
    )


def against_chance(rows: Rows) -> list[Card]:
    """Each row's accuracy, beside chance, the majority answer and its float twin."""
    if not rows:
        return []
    keys = ("map", "map_above_chance", "auc", "accuracy", "sensitivity", "specificity")
    lines = []
    for row in rows:
        accuracy = row["accuracy"]
        against = accuracy.get("against_float")
        difference = at(against, "map_difference")
        change = number(at(difference, "value"))
        flips, decisions = (number(at(against, key)) for key in ("label_flips", "decisions"))
        ece = accuracy.get("ece")
        lines.append(
            [
                named(row),
                *(estimate(accuracy.get(key)) for key in keys),
                # Schema version 1 has a bare number, a later one an estimate.
                estimate(ece) if isinstance(ece, Mapping) else Entry(percent(ece)),
                Entry(NONE if change is None else f"{100 * change:+.2f}", interval(difference)),
                Entry(fixed(flips), "" if decisions is None else f"of {decisions:,.0f}"),
            ]
        )
    first = rows[0]["accuracy"]
    lines.append(
        [
            Entry("chance · majority answer"),
            Entry(percent(first.get("chance_map"))),
            Entry("0.0"),
            Entry("50.0"),
            Entry(percent(first.get("majority_accuracy"))),
            *[Entry(NONE)] * 5,
        ]
    )
    table = Table(
        headings("Row", "mAP, %", "above chance", "AUC, %", "accuracy, %", "sensitivity, %",
                 "specificity, %", "ECE, %", "mAP − float", "label flips"),
        lines,
    )  # fmt: skip
    return [
        Card(
            "Against chance, the majority answer and the float model",
            table=table,
            after="Sensitivity, specificity and label flips are at the thresholds frozen in the "
            "bundle, fitted for the int8 model: the float model's own best thresholds would "
            "differ. Accuracy: the highest-scoring label is one of the image's. Intervals: 95 %, "
            "bootstrapped by patient.",
        )
    ]


def compared(rows: Rows) -> tuple[Rows, Mapping[str, Any] | None]:
    """The first artefact, which stands for all of the same numbers, and its float twin."""
    first = next((row for row in rows if not is_twin(row)), rows[0] if rows else None)
    twin = next((row for row in rows if is_twin(row)), None)
    chosen = [row for row in (first, twin) if row is not None]
    return (chosen[:1] if first is twin else chosen), twin


def by_label(rows: Rows, names: Mapping[str, str]) -> list[Card]:
    """One line a label: average precision, and what happens at its threshold."""
    chosen, twin = compared(rows)
    if not chosen:
        return []
    first = chosen[0]["accuracy"]
    of_twin = _labels(twin)
    flips = at(first, "against_float", "flips_by_label") or {}
    lines = []
    for code, label in _labels(chosen[0]).items():
        lines.append(
            [
                Entry(code, names.get(code, "")),
                Entry(fixed(label.get("positives"))),
                estimate(label.get("ap")),
                estimate(at(of_twin, code, "ap")),
                Entry(percent(label.get("chance_ap"))),
                *(estimate(label.get(key)) for key in ("auc", "sensitivity", "specificity")),
                Entry(fixed(flips.get(code))),
            ]
        )
    skipped = [str(code) for code in first.get("skipped") or ()]
    after = (
        "Not evaluated, because this split has only one kind of image for them: "
        f"{', '.join(skipped)}."
        if skipped
        else ""
    )
    table = Table(
        headings("Label", "images", "AP, %", "AP float, %", "chance, %", "AUC, %",
                 "sensitivity, %", "specificity, %", "flips"),
        lines,
    )  # fmt: skip
    note = f"Of row {chosen[0]['number']}, {chosen[0]['title']}."
    return [Card("By label", note, table=table, after=after)] if lines or after else []


def _labels(row: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    labels = at(row, "accuracy", "labels") or []
    return {str(label.get("code")): label for label in labels if isinstance(label, Mapping)}


def curve_cards(rows: Rows, names: Mapping[str, str], prefix: str) -> list[Card]:
    """ROC and precision-recall curves of each label, and the reliability diagram."""
    chosen, twin = compared(rows)
    if not chosen:
        return []
    first = chosen[0]
    chance = {code: number(label.get("chance_ap")) for code, label in _labels(first).items()}
    drawings = []
    for place, code in enumerate(at(first, "accuracy", "curves", "labels") or {}):
        svg = label_curves(chosen, code, chance.get(code), f"{prefix}c{place}")
        drawings.append(Drawing(svg, f"{code} · {names[code]}" if names.get(code) else code))
    against = (
        f"; dashed: row {twin['number']}, {twin['title']}" if twin not in (None, first) else ""
    )
    found = []
    if drawings:
        note = (
            f"Solid: row {first['number']}, {first['title']}{against}. Points: the operating "
            "points frozen in the bundle, filled and hollow likewise. Grey: chance."
        )
        found.append(Card("ROC and precision-recall by label", note, drawings=drawings))
    diagram = reliability_diagram(chosen, f"{prefix}r")
    if diagram:
        note = (
            "On the diagonal a probability means what it says. All labels and images together, in "
            "the bins of the ECE; beneath: how many answers fall into each."
        )
        found.append(
            Card("Reliability", note, drawings=[Drawing(svg) for svg in diagram], wide=False)
        )
    return found


def parity_cards(parity: Any) -> list[Card]:
    """Lay out NAME.parity.json, which export writes; what it does not hold is not shown."""
    rungs = at(parity, "rungs")
    if not isinstance(rungs, list):
        return []
    rows = [rung for rung in rungs if isinstance(rung, Mapping)]
    lines, flips = [], []
    for rung in rows:
        found = list(rung.get("flips") or [])
        flips += [f"{words(rung.get('name'))}: {words(flip)}" for flip in found]
        head = [Entry(words(rung.get(key))) for key in ("name", "runtime", "role")]
        if (rung.get("status") or "ran") == "ran":
            images = words(rung.get("images"))
            figures = [f"{words(rung.get('exact'))} of {images}", words(rung.get("largest"))]
            lines.append([*head, *map(Entry, figures), Entry(str(len(found)))])
        else:
            why = words(rung.get("reason") or "not run")
            lines.append([*head, Entry(NONE, why), Entry(NONE), Entry(NONE)])
    shares = at(parity, "read_back")
    compiled = [
        f"In {target}'s compiled graph {percent(share, 2)} % of the multiplications are int8."
        for target, entry in (shares if isinstance(shares, Mapping) else {}).items()
        if (share := number(at(entry, "int8_share"))) is not None
    ]
    shown = flips[:PARITY_FLIPS_SHOWN]
    more = f", the first {len(shown)} of them" if len(flips) > len(shown) else ""
    table = Table(
        headings("Rung", "runtime", "role", "images equal bit for bit", "largest logit difference",
                 "decision flips", text=("runtime", "role")),
        lines,
    )  # fmt: skip
    return [
        Card(
            "Parity, measured at export",
            " ".join([PARITY_NOTE, *compiled]),
            table=table,
            after=f"{len(flips)} decision flip{'s' if len(flips) != 1 else ''}{more}:"
            if flips
            else "",
            points=shown,
        )
    ]
