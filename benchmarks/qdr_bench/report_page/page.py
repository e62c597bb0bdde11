"""report.html: one file that opens offline and fetches nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qdr_bench.report import JSON_NAME, headline
from qdr_bench.report_page import accuracy_cards, machine_cards, peer_cards, scenario_cards
from qdr_bench.report_page.cards import Section, Tile, plots
from qdr_bench.report_page.console import scenario_names, thread_counts
from qdr_bench.report_page.document import check, named_rows, of_bundle, results
from qdr_bench.report_page.first_table import COLUMNS, first_table
from qdr_bench.report_page.method import method_cards
from qdr_bench.report_page.plots import speed
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
    words,
)

MOST_EMBEDDED = 6_000_000
"""Bytes of the compressed copy inside the page; above, the raw latencies are left out of it."""


def render(report: Mapping[str, Any], json_name: str = JSON_NAME) -> str:
    """Render the page of a report.

    Args:
        report: A report's JSON document, of any schema version known here.
        json_name: Where it stands, relative to the page.

    Returns:
        A self-contained HTML document.

    Raises:
        BenchmarkError: It is no such document.
    """
    check(report, json_name)
    rows = named_rows(report)
    names = [str(bundle.get("name")) for bundle in report["bundles"]]
    sections = [
        _bundle_section(report, bundle, rows, f"b{place}-")
        for place, bundle in enumerate(report["bundles"])
    ]
    sections += _scenario_section(rows), _machine_section(report, rows)
    sections.append(Section("method", "How it was measured", cards=method_cards(report)))
    embedded, whole = _embedded(report)
    script = _source("page.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_source("report.html.j2")).render(
        created=str(report.get("created") or NONE),
        tool_version=str(report.get("tool_version") or ""),
        synthetic=bool(report.get("synthetic")),
        interrupted=bool(report.get("interrupted")),
        title=", ".join(names) or NONE,
        chips=_chips(report),
        table=first_table(report),
        columns=COLUMNS,
        doubtful=_doubtful(report, rows),
        sections=[section for section in sections if section.cards or section.tiles],
        json_link=quote(json_name),
        embedded=embedded,
        embedded_whole=whole,
        style=Markup(_source("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@cache
def _source(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _embedded(report: Mapping[str, Any]) -> tuple[str, bool]:
    """The document as base64 of gzip, which no HTML parser can misread, and whether it is whole."""
    packed = _packed(report)
    if len(packed) <= MOST_EMBEDDED:
        return base64.b64encode(packed).decode(), True
    return base64.b64encode(_packed(_without_raw(report))).decode(), False


def _packed(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    return gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)


def _without_raw(value: Any) -> Any:
    """The same without the lists of raw times, by far the most of a long measurement."""
    if isinstance(value, Mapping):
        return {
            key: [] if key.endswith("_ns") and isinstance(entry, list) else _without_raw(entry)
            for key, entry in value.items()
        }
    return [_without_raw(entry) for entry in value] if isinstance(value, list) else value


def _chips(report: Mapping[str, Any]) -> list[str]:
    environment = report.get("environment") or {}
    seconds, threads = number(at(report, "plan", "seconds")), thread_counts(report)
    kind = "Quick " if report.get("quick") else ""
    devices = {str(row.get("device") or "cpu") for row in report["rows"]}
    gpu = at(environment, "nvidia", "name") or at(environment, "nvidia", "gpu")
    return [
        chip
        for chip in (
            f"{kind}{', '.join(scenario_names(report))}",
            str(report.get("suite") or "") and f"suite {report['suite']}",
            f"{threads} thread{'' if threads == '1' else 's'}",
            "" if seconds is None else f"{seconds:g} s a row and scenario",
            f"{words(environment.get('cpu'))}, {words(environment.get('cores'))} cores",
            words(gpu) if gpu and devices - {"cpu"} else "",
        )
        if chip
    ]


def _doubtful(report: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Bundles whose best row is not VALID, and why."""
    found = []
    for bundle in report["bundles"]:
        best = headline(of_bundle(rows, bundle.get("name")))
        if best is not None and best["status"] != "VALID":
            found.append((str(bundle.get("name")), [str(why) for why in best.get("reasons") or ()]))
    return found


def _bundle_section(
    report: Mapping[str, Any],
    bundle: Mapping[str, Any],
    all_rows: list[dict[str, Any]],
    prefix: str,
) -> Section:
    """Everything the page shows of one bundle."""
    rows = of_bundle(all_rows, bundle.get("name"))
    measured = results(rows)
    ratios = {
        entry["row"]: entry["faster_than_float"]
        for entry in report["ratios"]
        if entry.get("row") and entry.get("faster_than_float")
    }
    codes, full = bundle.get("labels") or [], bundle.get("label_names") or []
    names = {str(code): str(name) for code, name in zip(codes, full, strict=False)}
    chance = number(at(measured[0], "accuracy", "chance_map")) if measured else None
    cards = [
        *plots(
            "Accuracy against latency",
            "Up and to the left is better. The numbers are those of the rows in the first table; "
            "an arrow leads from a float model to its artefact.",
            speed.accuracy_against_latency(measured, chance, f"{prefix}a"),
        ),
        *plots(
            "Latency distributions",
            "Every raw latency of SingleStream.",
            speed.latency_distributions(measured, f"{prefix}l"),
        ),
        *plots(
            "Speed against float",
            "Same runtime (native: the fastest float one), same rounds; 95 % bootstrap interval.",
            speed.speed_ratios(measured, ratios, f"{prefix}x"),
        ),
        *plots(
            "From image file to decision",
            "Medians through the device's own code.",
            speed.stage_bars(rows, f"{prefix}s"),
        ),
        *peer_cards.peers_card(report.get("against_peers") or [], rows),
        *accuracy_cards.against_chance([row for row in rows if row.get("accuracy")]),
        *accuracy_cards.by_label([row for row in rows if row.get("accuracy")], names),
        *accuracy_cards.curve_cards(
            [row for row in rows if row.get("accuracy")], names, f"{prefix}q"
        ),
        *accuracy_cards.parity_cards(bundle.get("parity")),
    ]
    return Section(
        prefix.rstrip("-"),
        f"{bundle.get('name')} in detail",
        _told(bundle),
        _tiles(bundle, headline(rows), ratios),
        cards,
    )


def _told(bundle: Mapping[str, Any]) -> str:
    """What a bundle is, in a few sentences."""
    data = bundle.get("data")
    scheme = at(bundle, "scheme", "name") or "none"
    text = (
        f"{words(bundle.get('modality'))} at {words(bundle.get('size'))} px, "
        f"{len(bundle.get('labels') or ())} labels, scheme {scheme}"
    )
    if data:
        text += (
            f"; evaluated on {words(data.get('images'))} images of {words(data.get('patients'))} "
            f"patients (split {words(data.get('split'))})"
        )
    proven = "Parity was proven at export." if bundle.get("proven") else (
        "Parity was NOT proven at export."
    )  # fmt: skip
    notes = "".join(f" {note}." for note in bundle.get("notes") or ())
    unreadable = len(at(data, "unreadable") or ())
    lost = f" {unreadable} images could not be read and are left out." if unreadable else ""
    return f"{text}. {proven}{notes}{lost}"


def _tiles(
    bundle: Mapping[str, Any], best: Mapping[str, Any] | None, ratios: Mapping[str, Any]
) -> list[Tile]:
    """The four figures a bundle is introduced by."""
    if best is None:
        return []
    metric, latency, ratio = best["accuracy"].get("map"), best["latency"], ratios.get(best["id"])
    size, whole = number(best.get("model_bytes")), number(bundle.get("float_bytes"))
    speed_up = number(at(ratio, "value"))
    ends, chance = interval(metric), percent(best["accuracy"].get("chance_map"))
    return [
        Tile(
            f"Mean average precision, {best['form']}",
            percent(at(metric, "value")),
            "%",
            f"{f'95 % interval {ends}; ' if ends else ''}chance {chance}",
        ),
        Tile(
            f"Median latency, {best['backend']}",
            milliseconds(latency.get("p50_ms")),
            "ms",
            f"network only; {per_second(latency.get('images_per_second'))} images/s",
        ),
        Tile(
            "Speed against float",
            fixed(speed_up, 2),
            "×" if speed_up is not None else "",
            f"95 % interval {interval(ratio, 1.0, 2)}, same rounds"
            if speed_up is not None
            else "no float model measured",
        ),
        Tile(
            "Artefact size",
            megabytes(size),
            "MB",
            f"{100 * size / whole:.1f} % of the float model"
            if size is not None and whole
            else "no float model to compare",
        ),
    ]


def _scenario_section(rows: list[dict[str, Any]]) -> Section:
    shown = [row for row in rows if row.get("accuracy")]
    return Section(
        "scenarios",
        "Scenarios and energy",
        cards=[
            *scenario_cards.latency_card(results(rows)),
            *scenario_cards.throughput_card(shown),
            *scenario_cards.cold_start_card(rows, "k"),
            *scenario_cards.soak_cards(rows, "o"),
            *scenario_cards.energy_card(rows),
        ],
    )


def _machine_section(report: Mapping[str, Any], rows: list[dict[str, Any]]) -> Section:
    return Section(
        "environment",
        "Environment",
        cards=[
            *machine_cards.environment_card(report),
            *machine_cards.state_card(report.get("state")),
            *machine_cards.row_states_card(rows),
            *machine_cards.settings_card(rows),
        ],
    )
