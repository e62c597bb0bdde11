"""NAME.parity.html: the ladder as one page that opens offline, on a phone and on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from qdr_export.parity import FAILED, GATES, HELD, INFORMS, METRIC, UNAVAILABLE, UNSURE
from qdr_export.rungs import as_written

TEMPLATE = "parity.html.j2"
NONE = "–"
_FLIPS_SHOWN = 40
_VERDICT_WORDS = {HELD: "held", FAILED: "FAILED", UNSURE: "cannot tell"}
# The style of a verdict's badge.
_STYLES = {HELD: "good", FAILED: "bad", UNSURE: "warn"}


def render(document: Mapping[str, Any]) -> str:
    """The page of a parity document, of `qdr-edge export` or `qdr-edge parity`.

    Args:
        document: What NAME.parity.json holds.

    Returns:
        A self-contained HTML document.
    """
    source = resources.files("qdr_export").joinpath("templates", TEMPLATE).read_text()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rungs = document["rungs"]
    gating = [rung for rung in rungs if rung["role"] == GATES]
    ran = [rung for rung in gating if rung["status"] != UNAVAILABLE]
    groups = {GATES: "of forms that gate", INFORMS: "of forms that inform"}
    return environment.from_string(source).render(
        document=document,
        verdict=_verdict(rungs),
        facts=_facts(document, ran),
        rows=_rows(rungs, document["bytes"]),
        flips=[_flips(rungs, role == GATES, words) for role, words in groups.items()],
        unavailable=[rung for rung in rungs if rung["status"] == UNAVAILABLE],
        artefacts=_artefacts(document),
        maps=_maps(document.get("maps")),
        step=f"{document['logit_step']:.4g}",
        limits=document["limits"],
        percent=_percent,
    )


def _verdict(rungs: list[Mapping[str, Any]]) -> dict[str, str]:
    failed = [rung for rung in rungs if rung["verdict"] == FAILED]
    unsure = [rung for rung in rungs if rung["verdict"] == UNSURE]
    missing = [rung for rung in rungs if rung["status"] == UNAVAILABLE]
    notes = [f"{rung['name']}: {rung['reason']}" for rung in failed or unsure]
    if missing:
        notes.append(f"not compared: {', '.join(rung['name'] for rung in missing)}")
    if failed:
        style, words = "bad", "A gate failed"
    elif unsure:
        style, words = "warn", "No gate failed, but one cannot tell"
    else:
        style, words = "good", "Every gate that could be asked held"
    return {"style": style, "words": words, "notes": ". ".join(notes)}


def _facts(document: Mapping[str, Any], ran: list[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    images = ran[0]["images"] if ran else 0
    exact = min((rung["exact"] for rung in ran), default=0)
    flips = sum(len(rung["flips"]) for rung in ran)
    decisions = sum(rung["decisions"] for rung in ran)
    facts = [
        ("decision flips", str(flips), f"of {decisions:,} decisions on {len(ran)} gating forms"),
        ("bit-equal images", f"{exact} / {images}", "on the form that has fewest"),
    ]
    metric = [rung for rung in document["rungs"] if rung["role"] == METRIC]
    if metric:
        lost = metric[0]["map_difference"]
        facts.append(
            ("int8 costs", f"{_points(lost)} pts", f"of mAP, n = {lost['n']}; {_interval(lost)}")
        )
    if maps := document.get("maps"):
        equal = min(maps["equal"].values(), default=0)
        facts.append(("bit-equal maps", f"{equal} / {maps['images']}", "images, every label's map"))
    return facts


def _rows(rungs: list[Mapping[str, Any]], targets: Mapping[str, Any]) -> list[dict[str, str]]:
    """The ladder, the reference standing between what was trained and what ships."""
    trained = sum(rung["name"] not in targets for rung in rungs if not _stands_in(rung))
    rows = [_row(rung) for rung in rungs]
    yardstick = {**_nothing(), "name": "reference", "runtime": "NumPy, integers", "style": "idle"}
    return [*rows[:trained], {**yardstick, "verdict": "the yardstick"}, *rows[trained:]]


def _stands_in(rung: Mapping[str, Any]) -> bool:
    return str(rung["name"]).endswith(as_written(""))


def _nothing() -> dict[str, str]:
    return dict.fromkeys(("exact", "unequal", "steps", "flips", "map"), NONE)


def _row(rung: Mapping[str, Any]) -> dict[str, str]:
    if rung["status"] == UNAVAILABLE:
        return {
            **_nothing(),
            "name": rung["name"],
            "runtime": "not run here",
            "verdict": "not run",
            "style": "idle",
        }
    informs = rung["role"] == INFORMS
    allowed = f" (≤ {rung['allowed']})" if rung["role"] == GATES else ""
    return {
        "name": rung["name"],
        "runtime": rung["runtime"],
        "exact": f"{rung['exact']} / {rung['images']}",
        "unequal": _percent(rung["unequal"]),
        "steps": _steps(rung["steps"]),
        "flips": f"{len(rung['flips'])}{allowed}",
        "map": _difference(rung["map_difference"]),
        "verdict": "informs" if informs else _VERDICT_WORDS[rung["verdict"]],
        "style": "idle" if informs else _STYLES[rung["verdict"]],
    }


def _artefacts(document: Mapping[str, Any]) -> list[dict[str, str]]:
    read_back = document.get("read_back") or {}
    rows = []
    for name, size in (document.get("bytes") or {}).items():
        seen = read_back.get(name)
        rows.append(
            {
                "name": name,
                "bytes": f"{size:,}",
                "int8": NONE if seen is None else _percent(seen["int8_share"]),
            }
        )
    return rows


def _maps(maps: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not maps:
        return []
    images = maps["images"]
    lines = [
        (f"equal to the reference's maps on {name}", f"{count} / {images} images")
        for name, count in maps["equal"].items()
    ]
    if maps.get("pairs"):
        correlation, peak = maps["correlation"], maps["same_peak"]
        lines += [
            (
                "correlation with the float maps",
                f"{correlation['value']:.3f} {_range(correlation)}",
            ),
            ("highest position the same or next to it", f"{peak['value']:.3f} {_range(peak)}"),
            ("pairs of an image and a positive label", str(maps["pairs"])),
        ]
    return lines


def _flips(rungs: list[Mapping[str, Any]], gate: bool, words: str) -> dict[str, Any]:
    """The exceptions of the forms whose decisions gate, or of the others."""
    chosen = [rung for rung in rungs if (rung["role"] == GATES) == gate]
    every = [(rung["name"], flip) for rung in chosen for flip in rung["flips"]]
    lines = [(name, _flip(flip)) for name, flip in every[:_FLIPS_SHOWN]]
    return {"words": words, "open": gate, "lines": lines, "total": len(every)}


def _flip(flip: Mapping[str, Any]) -> str:
    # The folders of a workstation are nobody's business elsewhere.
    image = "/".join(Path(flip["image"]).parts[-2:])
    return (
        f"{flip['label']} of {image}: logit {flip['logit']:.6g}, reference "
        f"{flip['reference_logit']:.6g}, threshold {flip['threshold']:.6g}"
    )


def _difference(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return NONE
    if estimate["value"] == estimate["low"] == estimate["high"] == 0:
        return "0"
    return f"{_points(estimate)} {_interval(estimate)}"


def _points(estimate: Mapping[str, Any]) -> str:
    return NONE if estimate["value"] is None else _signed(100 * estimate["value"])


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return ""
    return f"[{_signed(100 * estimate['low'])}, {_signed(100 * estimate['high'])}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _range(estimate: Mapping[str, Any]) -> str:
    return "" if estimate["low"] is None else f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _steps(value: float) -> str:
    if not math.isfinite(value):
        return "no number"
    return "0" if value == 0 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
