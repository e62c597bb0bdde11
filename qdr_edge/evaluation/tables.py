"""The evaluation for people: tables of what the JSON document holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qdr_edge.commands.show import SYNTHETIC_NOTICE, UNPROVEN_NOTICE, pairs, printable

# Name in the document, name for people. Every figure is shown × 100.
_WHOLE = (
    ("map", "mAP"),
    ("auc", "AUC"),
    ("f1", "F1"),
    ("f1_sens_spec", "F1 sens/spec"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("label_accuracy", "accuracy"),
    ("kappa", "kappa"),
    ("ece", "ECE"),
    ("brier", "Brier"),
    ("accuracy", "top-1 accuracy"),
    ("top1_kappa", "top-1 kappa"),
)
_BY_LABEL = (
    (
        ("ap", "AP"),
        ("auc", "AUC"),
        ("sensitivity", "sensitivity"),
        ("specificity", "specificity"),
        ("f1", "F1"),
    ),
    (
        ("f1_sens_spec", "F1 sens/spec"),
        ("accuracy", "accuracy"),
        ("kappa", "kappa"),
        ("ece", "ECE"),
        ("brier", "Brier"),
    ),
)
_UNITS = {"image": "images", "eye": "eyes", "patient": "patients"}
_FEW = 10


def show(console: Console, document: Mapping[str, Any]) -> None:
    """Print one evaluation."""
    console.print(pairs(str(document["name"]), _about(document)))
    if document["gate"]["asked"]:
        _show_gate(console, document["gate"])
    for name, level in document["levels"].items():
        _show_level(console, name, level, document)
    for note in document["notes"]:
        console.print(Text(f"Note: {printable(note)}."))
    if document["subject"]["synthetic"]:
        console.print(SYNTHETIC_NOTICE, style="yellow")
    if not document["subject"].get("proven", True):
        console.print(UNPROVEN_NOTICE, style="yellow")
    console.print("Research software, not a medical device.\n", style="dim")


def figure(estimate: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """`68.3 [62.5, 75.1]` for 0.683; a dash where undefined."""
    if estimate is None or estimate["value"] is None:
        return "-"
    sign = "+" if signed else ""
    value, *ends = (
        None if estimate[key] is None else f"{100 * estimate[key]:{sign}.1f}"
        for key in ("value", "low", "high")
    )
    return str(value) if None in ends else f"{value} [{ends[0]}, {ends[1]}]"


def _stacked(estimate: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """The interval below its figure: five of them then fit a terminal of 80 columns."""
    return figure(estimate, signed=signed).replace(" [", "\n[").replace(", ", ",")


def _about(document: Mapping[str, Any]) -> list[tuple[str, object]]:
    subject, data, point = document["subject"], document["data"], document["operating_point"]
    if subject["kind"] == "bundle":
        signed = f"signed by {subject['signed_by']}" if subject["signed_by"] else "UNSIGNED"
        answered = f"{subject['target']} on {subject['backend']}; {signed}, self-test held"
    else:
        answered = f"training's integer reference, stage {subject['stage']}"
    ledger = document["evaluated_before"]
    before = f"{ledger['before']} time{'' if ledger['before'] == 1 else 's'} before this"
    if ledger["before"]:
        before += f", {ledger['before_same_artefact']} of them this very artefact"
    unreached = [
        f"{label['code']} (n = {label['positives']})"
        for label in point["labels"]
        if label.get("reached") is False
    ]
    images = (
        f"{data['images']} {subject['modality']} images of {data['patients']} patients, "
        f"split {data['split']} of {data['table']}"
    )
    rows: list[tuple[str, object]] = [
        ("answers", answered),
        ("images", images),
        ("thresholds", f"for {point['fitted_for']}; {point['fitted_on']}"),
        (f"split {data['split']} evaluated", f"{before} ({ledger['file']})"),
        ("intervals", _intervals(document["intervals"])),
    ]
    if unreached:
        rows.insert(3, ("target not shown", f"too few positives: {', '.join(unreached)}"))
    return rows


def _intervals(how: Mapping[str, Any]) -> str:
    if not how["resamples"]:
        return "none"
    return f"95 %, {how['resamples']} resamples of patients"


def _show_gate(console: Console, gate: Mapping[str, Any]) -> None:
    counts = [("graded", gate["graded"]), *gate["rejected"].items()]
    total = sum(count for _, count in counts)
    rows = [(name, f"{count} of {total} ({100 * count / total:.1f} %)") for name, count in counts]
    console.print()
    console.print(pairs("Gate", rows))
    for rejection in gate["rejections"][:_FEW]:
        console.print(Text(f"    {printable(rejection['file'])}: {printable(rejection['reason'])}"))
    if len(gate["rejections"]) > _FEW:
        console.print(f"    and {len(gate['rejections']) - _FEW} more, see --json")


def _show_level(
    console: Console, name: str, level: Mapping[str, Any], document: Mapping[str, Any]
) -> None:
    unit = _UNITS[name]
    shown = level[level["shown"]]
    graded = "graded " if document["gate"]["asked"] else ""
    count = f"{level['graded']} {graded}{unit} of {level['patients']} patients"
    title = f"\n{name} level: {count}; figures × 100"
    table = _table(console, title, "figure")
    forms = [form for form in ("int8", "float") if form in level]
    difference = level["int8_minus_float"]
    for column in (*forms, *(["int8 − float"] if difference else [])):
        table.add_column(column, justify="right")
    for key, label in _WHOLE:
        if shown.get(key) is None:
            continue
        cells = [figure(level[form][key]) for form in forms]
        if difference:
            cells.append(figure(difference[key], signed=True))
        table.add_row(label, *cells)
    console.print(table)
    chance, majority = shown["chance_map"], shown["majority_accuracy"]
    used, known = len(shown["labels"]), len(document["labels"]["codes"])
    if chance is not None:
        console.print(
            f"Means are over {used} of {known} labels. Chance: mAP {100 * chance:.1f}; always "
            f"answering the commonest label: top-1 accuracy {100 * majority:.1f}."
        )
    _show_labels(console, shown, unit)
    for codes, lacks in (
        (shown["without_positives"], "positives"),
        (shown["without_negatives"], "negatives"),
    ):
        if codes:
            console.print(f"Without {lacks} here, in no mean and never 0: {' '.join(codes)}")
    if shown["confusion"]:
        _show_confusion(console, shown["confusion"], document["labels"]["codes"], unit)
    if level["rejected_as_referred"]:
        _show_referred(console, level["rejected_as_referred"], shown, unit)
    for column in level["subgroups"]:
        _show_subgroups(console, column, unit)


def _show_labels(console: Console, shown: Mapping[str, Any], unit: str) -> None:
    for number, group in enumerate(_BY_LABEL):
        if not any(label.get(key) for label in shown["labels"] for key, _ in group):
            continue
        table = _table(
            console, f"\nBy label, n = {shown['images']} {unit}" if number == 0 else "", "label"
        )
        for column in ("n+", *(heading for _, heading in group)):
            table.add_column(column, justify="right")
        for label in shown["labels"]:
            cells = [_stacked(label[key]) for key, _ in group]
            table.add_row(label["code"], str(label["positives"]), *cells)
        console.print(table)


def _show_confusion(
    console: Console, confusion: Sequence[Sequence[int]], codes: Sequence[str], unit: str
) -> None:
    total = sum(map(sum, confusion))
    table = _table(
        console, f"\nHighest-scoring label of {total} {unit} with exactly one label", "true"
    )
    for code in codes:
        table.add_column(code, justify="right")
    for code, row in zip(codes, confusion, strict=True):
        table.add_row(code, *map(str, row))
    console.print(table)


def _show_referred(
    console: Console, referred: Mapping[str, Any], shown: Mapping[str, Any], unit: str
) -> None:
    title = f"\nWith the {referred['rejected']} rejected of {referred['n']} {unit} counted as "
    table = _table(console, title + "referred (positive for every label)", "label")
    for column in ("n+", "sensitivity", "graded only", "specificity", "graded only"):
        table.add_column(column, justify="right")
    graded = {label["code"]: label for label in shown["labels"]}
    for label in (*referred["labels"], {"code": "mean", "positives": "", **referred}):
        own = shown if label["code"] == "mean" else graded.get(label["code"], {})
        table.add_row(
            label["code"],
            str(label["positives"]),
            *(
                _stacked(source.get(name))
                for name in ("sensitivity", "specificity")
                for source in (label, own)
            ),
        )
    console.print(table)


def _show_subgroups(console: Console, column: Mapping[str, Any], unit: str) -> None:
    edges = ", ".join(f"{edge:g}" for edge in column["bin_edges"])
    title = f"\nBy {printable(column['column'])}" + (f", bins at {edges}" if edges else "")
    table = _table(console, title, "group")
    for name in (unit, "patients", "mAP", "AUC", "mAP − the rest"):
        table.add_column(name, justify="right")
    for group in column["groups"]:
        table.add_row(
            Text(printable(group["value"])),
            str(group["n"]),
            str(group["patients"]),
            _stacked(group["map"]),
            _stacked(group["auc"]),
            _stacked(group["map_minus_rest"], signed=True),
        )
    console.print(table)
    console.print(
        "mAP depends on how common the labels are in a group; the difference is over the labels "
        "that both sides have."
    )


def _table(console: Console, title: str, first: str) -> Table:
    # A table's own title is broken at the table's width, which may be a few columns.
    if title:
        console.print(Text(title, style="italic"))
    table = Table(box=None, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def print_all(console: Console, documents: Iterable[Mapping[str, Any]]) -> None:
    """Print each evaluation."""
    for document in documents:
        show(console, document)
