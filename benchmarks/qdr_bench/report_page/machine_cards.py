"""The machine as cards: environment, what changed, how each row was run, how it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdr_bench.report_page.accuracy_cards import named
from qdr_bench.report_page.cards import Card, Entry, Table, headings
from qdr_bench.report_page.text import NONE, at, fixed, milliseconds, number, numbers, words

Rows = Sequence[Mapping[str, Any]]
UNREAD = "not readable here"
PINNED = """\
Threads are pinned and printed: the runtimes' own defaults differ.
ONNX Runtime's idle threads do not spin: they would slow the next row down.
OpenVINO's hint is latency, not throughput; what is not int8 it computes in f32, not in bf16.
TensorRT and CUDA: copies to and from the device are timed with the network (transfers); TensorRT \
waits asleep (spin_wait 0) and no CUDA graph is used, unless the options say otherwise. Its engine \
is built before, in another process.
On an Intel GPU or NPU OpenVINO computes in float16 what is not int8, as its options say.
Real preprocessed images are used: zeros as input flatter some kernels.""".splitlines()
NAMES = {
    "cpu": "CPU",
    "isa": "Instruction sets",
    "cores": "Usable cores",
    "machine_cores": "Cores of the machine",
    "cpu_quota": "CPU quota, cores",
    "governor": "Governor",
    "turbo": "Turbo",
    "gpu": "GPU driver",
    "nvidia": "NVIDIA",
    "memory_bytes": "Memory",
    "git_commit": "Source",
    "power_sensor": "Power sensor",
    "load_average": "Load (1, 5, 15 minutes)",
    "frequency_mhz": "Clock, MHz",
    "temperature_c": "Temperature, °C",
    "available_memory_bytes": "Memory available",
    "throttle_events": "Slowed down for heat since boot",
}


def flattened(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf of nested objects with the keys that lead to it."""
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from flattened(entry, (*path, str(key)))
    else:
        yield path, value


def _name(path: tuple[str, ...]) -> str:
    first = NAMES.get(path[0], path[0].replace("_", " ").capitalize())
    return " · ".join([first, *(part.replace("_", " ") for part in path[1:])])


def _value(path: tuple[str, ...], value: Any) -> str:
    if value is None:
        return UNREAD
    if path[-1].endswith("_bytes"):
        return fixed(value, 1, 2**-30, " GiB")
    return words(value)


def environment_card(report: Mapping[str, Any]) -> list[Card]:
    """What stays the same: machine, system, software, bundles."""
    environment = report.get("environment") or {}
    facts = []
    for key, value in environment.items():
        if key == "packages" and isinstance(value, Mapping):
            facts.append(("Packages", words(value)))
        elif key == "power_sensor" and value is None:
            facts.append(("Power sensor", "none can be read: energy is absent"))
        elif key == "git_commit" and value is None:
            facts.append(("Source", "installed package, commit unknown"))
        else:
            facts += [(_name(path), _value(path, leaf)) for path, leaf in flattened(value, (key,))]
    for bundle in report["bundles"]:
        signed = f"signed by {bundle['key_id']}" if bundle.get("key_id") else "UNSIGNED"
        facts.append((words(bundle.get("file")), f"sha256 {words(bundle.get('sha256'))}, {signed}"))
    return [Card("Machine and software", facts=facts)] if facts else []


def state_card(state: Any) -> list[Card]:
    """What may change, before the first round and after the last."""
    before, after = (dict(flattened(at(state, when) or {})) for when in ("before", "after"))
    lines = []
    for path in dict.fromkeys([*before, *after]):
        if path and (before.get(path) is not None or after.get(path) is not None):
            was, now = before.get(path), after.get(path)
            cells = [Entry(_value(path, was)), Entry(_value(path, now))]
            lines.append([Entry(_name(path)), *cells, Entry(_change(path, was, now))])
    unread = [_name(path) for path in before if path and before[path] is None and not after[path]]
    after_text = f"Not readable here: {', '.join(unread)}." if unread else ""
    if not lines and not unread:
        return []
    table = Table(headings("What", "before", "after", "change"), lines) if lines else None
    return [Card("Before and after", table=table, after=after_text)]


def _change(path: tuple[str, ...], was: Any, now: Any) -> str:
    if was is None or now is None:
        return NONE
    if was == now:
        return "same"
    first, last = number(was), number(now)
    if isinstance(was, Sequence) and path[0] == "frequency_mhz":
        clocks = numbers(was), numbers(now)
        if all(clocks):
            first, last = (sum(values) / len(values) for values in clocks)
            return f"mean {100 * (last / first - 1):+.1f} %" if first else "changed"
    if first is None or last is None:
        return "changed"
    if path[-1].endswith("_bytes"):
        return f"{(last - first) / 2**30:+.1f} GiB"
    return f"{last - first:+.4g}"


def row_states_card(rows: Rows) -> list[Card]:
    """The machine around each row."""
    lines = []
    for row in rows:
        before, after = at(row, "machine", "before"), at(row, "machine", "after")
        if not before and not after and row.get("foreign_cores") is None:
            continue
        lines.append(
            [
                named(row),
                Entry(_pair(_clock(before), _clock(after), 0)),
                Entry(_pair(_hottest(before), _hottest(after), 1)),
                Entry(_throttled(before, after)),
                Entry(fixed(row.get("foreign_cores"), 2)),
            ]
        )
    heads = headings("Row", "mean clock, MHz", "hottest, °C", "slowed down",
                     "cores busy with something else", text=("slowed down",))  # fmt: skip
    note = "Before → after the rounds of the row. What cannot be read here is a dash."
    return [Card("The machine around each row", note, table=Table(heads, lines))] if lines else []


def _pair(was: float | None, now: float | None, digits: int) -> str:
    return NONE if was is None and now is None else f"{fixed(was, digits)} → {fixed(now, digits)}"


def _clock(state: Any) -> float | None:
    clocks = numbers(at(state, "frequency_mhz"))
    return sum(clocks) / len(clocks) if clocks else None


def _hottest(state: Any) -> float | None:
    zones = at(state, "temperature_c")
    return max(numbers(list(zones.values())), default=None) if isinstance(zones, Mapping) else None


def _throttled(before: Any, after: Any) -> str:
    """Reasons that were read, the number of events, or a dash where neither can be read."""
    reasons = [at(state, "throttled") for state in (before, after)]
    if any(isinstance(found, list) for found in reasons):
        told = dict.fromkeys(str(why) for found in reasons for why in found or [])
        return ", ".join(told) or "no"
    counts = [number(at(state, "throttle_events")) for state in (before, after)]
    if counts[0] is None or counts[1] is None:
        return NONE
    return f"{counts[1] - counts[0]:.0f} times" if counts[1] > counts[0] else "no"


def _engine(engine: Any) -> str:
    """How a TensorRT row came to its engine, which is not in the time to open."""
    if not engine:
        return ""
    built = number(at(engine, "build_ms"))
    return "engine from the cache" if built is None else f"engine built in {built / 1e3:.0f} s"


def settings_card(rows: Rows) -> list[Card]:
    """How each row was run: what was pinned, so that rows are comparable."""
    lines = [
        [
            named(row),
            Entry(words(row.get("backend_version"))),
            Entry(words(row.get("device"))),
            Entry(fixed(row.get("threads") or None)),
            Entry(fixed(row.get("batch"))),
            Entry(words(row.get("options"))),
            Entry(milliseconds(row.get("open_ms")), _engine(row.get("engine"))),
            Entry(words(row.get("self_test"))),
            Entry(str(row.get("model_sha256") or NONE)[:12]),
        ]
        for row in rows
    ]
    heads = headings("Row", "runtime", "device", "threads", "batch", "options of the artefact",
                     "opens in, ms", "self-test", "model sha256",
                     text=("runtime", "device", "options of the artefact", "self-test",
                           "model sha256"))  # fmt: skip
    note = "What differs between runtimes by default is set, so that rows can be compared."
    table = Table(heads, lines)
    return [Card("How each row was run", note, table=table, points=PINNED)] if lines else []
