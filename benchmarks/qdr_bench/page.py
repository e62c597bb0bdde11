"""report.html: one file that opens offline and fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from qdr_bench import plots
from qdr_bench.console import NONE, megabytes, milliseconds
from qdr_bench.report import JSON_NAME, headline

TEMPLATE = "report.html.j2"
PARITY_FLIPS_SHOWN = 12
# Name, and whether it sorts by number.
COLUMNS = (
    ("Model", False),
    ("Status", False),
    ("MB", True),
    ("mAP %", True),
    ("p50 ms", True),
    ("p90 ms", True),
    ("img/s", True),
    ("Peak MB", True),
    ("× float", True),
)
PLOT_TITLES = (
    ("accuracy", "Accuracy against latency", "Up and to the left is better. Hollow: float model."),
    ("latency", "Latency distributions", "Every raw latency, one line a row."),
    ("ratios", "Speed against float", "Same runtime, same rounds; 95 % bootstrap interval."),
    ("stages", "From image file to decision", "Medians through the device's own code."),
)


def render(report: Mapping[str, Any]) -> str:
    """Render the page of a report.

    Args:
        report: `BenchmarkReport.to_dict()`.

    Returns:
        A self-contained HTML document.
    """
    source = resources.files("qdr_bench").joinpath("templates", TEMPLATE).read_text()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        mb=megabytes,
        ms=milliseconds,
        percent_value=_percent_value,
        interval=_interval,
        figure=_figure,
    )
    sections = [_section(report, bundle) for bundle in report["bundles"]]
    return environment.from_string(source).render(
        report=report,
        sections=sections,
        several=len(sections) > 1,
        faster={ratio["row"]: ratio["faster_than_float"] for ratio in report["ratios"]},
        json_name=JSON_NAME,
        dash=NONE,
        columns=COLUMNS,
        plot_titles=PLOT_TITLES,
        machine=_machine(report["environment"], report["state"]),
    )


def _section(report: Mapping[str, Any], bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the page shows of one bundle."""
    rows = [row for row in report["rows"] if row["bundle"] == bundle["name"]]
    results = [row for row in rows if row["latency"] and row["accuracy"]]
    ratios = [entry for entry in report["ratios"] if entry["bundle"] == bundle["name"]]
    staged = [row for row in rows if row["stages"] and "end_to_end" in row["stages"]["median_ms"]]
    chance = results[0]["accuracy"]["chance_map"] if results else None
    plotted = [row for row in results if row["accuracy"]["map"]["value"] is not None]
    best = headline(rows)
    drawings = {
        "accuracy": plots.accuracy_against_latency(plotted, chance) if plotted else "",
        "latency": plots.latency_distributions(results) if results else "",
        "ratios": plots.speed_ratios(ratios) if ratios else "",
        "stages": plots.stage_bars(staged) if staged else "",
    }
    # Two bundles draw the same kinds of plot: their ids must differ.
    tag = f"b{report['bundles'].index(bundle)}-"
    drawings = {name: _tagged(svg, tag) for name, svg in drawings.items()}
    return {
        "bundle": bundle,
        "rows": rows,
        "results": results,
        "best": best,
        "best_ratio": next(
            (r["faster_than_float"] for r in ratios if best and r["row"] == best["id"]), None
        ),
        "plots": drawings,
        "labels": _label_rows(results),
        "parity": parity_table(bundle["parity"]),
    }


def _tagged(svg: str, tag: str) -> str:
    for start in ('id="', "url(#", 'href="#'):
        svg = svg.replace(start, start + tag)
    return svg


def _label_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a label: its average precision on every result, and the operating point."""
    if not results:
        return []
    # int8 results on two runtimes are usually the same numbers: the first stands for them.
    first = next((row for row in results if row["target"] != "float"), results[0])
    twin = next((row for row in results if row["target"] == "float"), None)
    by_code = {label["code"]: label for label in twin["accuracy"]["labels"]} if twin else {}
    against = first["accuracy"]["against_float"]
    return [
        {
            "label": label,
            "float_ap": by_code[label["code"]]["ap"] if label["code"] in by_code else None,
            "flips": against["flips_by_label"][label["code"]] if against else None,
        }
        for label in first["accuracy"]["labels"]
    ]


def parity_table(parity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Lay out NAME.parity.json, which export writes; what it does not hold is not shown."""
    rungs = parity.get("rungs") if parity else None
    if parity is None or not isinstance(rungs, list):
        return None
    rows = [rung for rung in rungs if isinstance(rung, Mapping)]
    flips = [(str(rung.get("name", "")), flip) for rung in rows for flip in rung.get("flips") or []]
    read_back = parity.get("read_back")
    shares = read_back if isinstance(read_back, Mapping) else {}
    return {
        "rungs": [{**rung, "flip_count": len(rung.get("flips") or [])} for rung in rows],
        "flips": [(name, _flip_words(flip)) for name, flip in flips[:PARITY_FLIPS_SHOWN]],
        "flips_total": len(flips),
        "read_back": [
            (target, entry["int8_share"])
            for target, entry in shares.items()
            if isinstance(entry, Mapping) and isinstance(entry.get("int8_share"), float)
        ],
    }


def _flip_words(flip: Any) -> str:
    if not isinstance(flip, Mapping):
        return str(flip)
    return ", ".join(f"{name} {_figure(value)}" for name, value in flip.items())


def _machine(environment: Mapping[str, Any], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The environment as name and value; what could not be read is named as such."""
    unread = "not readable here"

    def spread(values: Sequence[Any] | None) -> str:
        return unread if not values else " / ".join(f"{value:g}" for value in values)

    before, after = state["before"], state["after"]
    temperatures = after["temperature_c"] or {}
    container = environment["container"]
    kind = "virtual machine" if environment["virtual_machine"] else "physical machine"
    quota = environment["cpu_quota"]
    return [
        ("CPU", environment["cpu"]),
        ("Instruction sets", ", ".join(environment["isa"]) or NONE),
        ("Cores", f"{environment['cores']} usable of {environment['machine_cores'] or '?'}"),
        *([("CPU quota", f"{quota:g} cores")] if quota else []),
        ("Machine", f"{kind}{', in ' + container if container else ''}"),
        *([("Jetson", environment["jetson"])] if environment["jetson"] else []),
        *([("GPU driver", environment["gpu"])] if environment["gpu"] else []),
        ("Memory", f"{environment['memory_bytes'] / 2**30:.1f} GiB"),
        ("Governor", environment["governor"] or unread),
        ("Turbo", environment["turbo"] or unread),
        ("Frequency before, MHz", spread(before["frequency_mhz"])),
        ("Frequency after, MHz", spread(after["frequency_mhz"])),
        ("Load before", spread(before["load_average"])),
        ("Load after", spread(after["load_average"])),
        (
            "Temperature after",
            ", ".join(f"{name} {value:.0f} °C" for name, value in temperatures.items()) or unread,
        ),
        ("Power sensor", environment["power_sensor"] or "none: energy is not reported"),
        ("System", f"{environment['system']}, kernel {environment['kernel']}"),
        ("Python", environment["python"]),
        ("Packages", ", ".join(f"{k} {v}" for k, v in environment["packages"].items())),
        ("Source", environment["git_commit"] or "installed package, commit unknown"),
    ]


def _percent_value(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    """The 95 % interval in percent, empty where there is none."""
    low, high = estimate["low"], estimate["high"]
    return "" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
