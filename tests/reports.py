"""Reports as `qdr-edge bench` writes them, drawn from a seed: any size, full, empty or hostile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qdr_bench.accuracy import GroundTruth, assess
from qdr_bench.measurement import Cell, Memory, Row, Stages, Status
from qdr_bench.plan import Plan
from qdr_bench.report import FORMAT, SCHEMA_VERSION
from qdr_bench.scenarios.cold_start import ColdStart
from qdr_bench.scenarios.multi_stream import MultiStream
from qdr_bench.scenarios.offline import Offline, Pass
from qdr_bench.scenarios.single_stream import Latency
from qdr_bench.scenarios.soak import Slice, Soak
from qdr_bench.statistics import paired_ratio, round_medians
from qdr_edge.decision import DecisionRule
from qdr_edge.labels import TOPCON_MM, LabelSet

SCENARIOS = ["single-stream", "multi-stream", "offline", "cold-start", "soak"]
IMAGES = 160
HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    "\"' {{ 7 * 7 }} $\\alpha$ ]]> <!-- \u2028 火 [bold]"
)
LONG = "a very long reason that no table was made for, with a path in it: /" + "/".join(
    f"folder-number-{number}-of-a-deep-tree" for number in range(40)
)
# Variant, target, backend, form, device, batch, milliseconds, bytes.
FORMS: tuple[tuple[str, str, str, str, str, int, float, int], ...] = (
    ("int8", "ort-x86-vnni", "onnxruntime", "", "cpu", 1, 1.7, 1_610_000),
    ("float", "float", "onnxruntime", "", "cpu", 1, 4.1, 6_130_000),
    ("int8", "openvino-cpu", "openvino", "", "cpu", 1, 1.4, 1_640_000),
    ("float", "float", "openvino", "", "cpu", 1, 3.6, 6_130_000),
    ("int8", "peer", "onnxruntime", "ORT PTQ U8S8", "cpu", 1, 2.2, 1_700_000),
    ("int8", "peer", "openvino", "NNCF PTQ", "cpu", 1, 1.5, 1_690_000),
    ("float", "peer", "torch", "float channels_last", "cpu", 1, 9.4, 6_130_000),
    ("float", "peer", "torch", "cuda fp16", "cuda", 1, 0.62, 6_130_000),
    ("float", "peer", "torch", "cuda fp16", "cuda", 32, 3.1, 6_130_000),
    ("int8", "native", "native", "", "cpu", 1, 11.3, 1_580_000),
)


def report(
    *,
    rows: int = 10,
    bundles: int = 1,
    seed: int = 0,
    name: str = "qdr-small-fundus",
    labels: LabelSet = TOPCON_MM,
) -> dict[str, Any]:
    """A report in which everything was measured that can be.

    Args:
        rows: Of each bundle. The last one is FAILED, the one before it UNAVAILABLE, if there are
            more than three.
        bundles: How many.
        seed: Of everything drawn.
        name: Of the first bundle.
        labels: Of all bundles.
    """
    draw = np.random.default_rng(seed)
    names = [name if not place else f"{name}-{place + 1}" for place in range(bundles)]
    made = {bundle: _rows(bundle, rows, draw, labels) for bundle in names}
    plan = asdict(Plan(scenarios=tuple(SCENARIOS), threads=2))  # type: ignore[arg-type]
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "tool_version": "0.1.0",
        "created": "2026-11-27T12:00:00Z",
        "suite": "full",
        "scenarios": SCENARIOS,
        "quick": True,
        "interrupted": False,
        "synthetic": True,
        "plan": {**plan, "scenarios": SCENARIOS},
        "environment": _environment(),
        "state": {"before": _state(0), "after": _state(1)},
        "bundles": [_bundle(bundle, labels) for bundle in names],
        "ratios": [ratio for bundle in names for ratio in _ratios(bundle, made[bundle])],
        "against_peers": [
            {"row": peer.cell.id, "ours": made[bundle][0].cell.id,
             "times": {"value": 1.5, "low": 1.4, "high": 1.6, "rounds": 10}}
            for bundle in names for peer in made[bundle] if peer.cell.target == "peer"
        ],
        "rows": [row.to_dict() for bundle in names for row in made[bundle]],
        "groups": [
            {"bundles": [bundle], "plan": {**plan, "scenarios": SCENARIOS},
             "created": "2026-11-27T12:00:00Z"} for bundle in names
        ],
    }  # fmt: skip
    plain: dict[str, Any] = _plain(document)
    return plain


def emptied(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same with everything null that says what was measured, as after an early Ctrl-C."""
    kept = {"id", "bundle", "target", "variant", "form", "device", "batch", "backend", "status"}
    rows = [
        {key: value if key in kept else None for key, value in row.items()}
        for row in document["rows"]
    ]
    nothing = dict.fromkeys(document["state"]["before"])
    bundles = [
        {**bundle, "float_bytes": None, "data": None, "parity": None, "scheme": None,
         "label_names": None, "notes": None, "key_id": None}
        for bundle in document["bundles"]
    ]  # fmt: skip
    return {
        **document,
        "rows": rows,
        "bundles": bundles,
        "ratios": [],
        "environment": dict.fromkeys(document["environment"]),
        "state": {"before": nothing, "after": nothing},
        "plan": {**dict.fromkeys(document["plan"]), "limits": {}},
        "groups": None,
        "suite": None,
    }


def version_1(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same as the first schema version had it."""
    later = {"form", "device", "batch", "multi_stream", "offline", "cold_start", "soak", "energy",
             "machine"}  # fmt: skip
    rows = []
    for row in document["rows"]:
        old = {key: value for key, value in row.items() if key not in later}
        if old["accuracy"]:
            old["accuracy"] = {k: v for k, v in old["accuracy"].items() if k != "curves"}
        rows.append(old)
    new = ("suite", "scenarios", "groups", "against_peers")
    top = {key: value for key, value in document.items() if key not in new}
    return {**top, "schema_version": 1, "rows": rows}


def hostile(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every name, reason and note attacking the page."""
    codes = {code: f"{code}{HOSTILE}" for code in document["bundles"][0]["labels"]}
    named = {bundle["name"]: f"{bundle['name']}{HOSTILE}" for bundle in document["bundles"]}
    changed = _replaced({**document, "ratios": document["ratios"]}, {**codes, **named})
    for row in changed["rows"]:
        row["id"] = row["id"].replace(named.get(row["bundle"], row["bundle"]), HOSTILE)
        row["form"] = f"{row['form']}{HOSTILE}"
        row["backend_version"] = HOSTILE
        row["reasons"] = [HOSTILE, LONG]
        row["status"] = "INVALID" if row["status"] == "VALID" else row["status"]
        row["options"] = {HOSTILE: HOSTILE}
    for bundle in changed["bundles"]:
        bundle["notes"] = [HOSTILE, LONG]
        bundle["label_names"] = [HOSTILE for _ in bundle["labels"]]
        bundle["file"] = HOSTILE
    changed["environment"]["cpu"] = HOSTILE
    changed["environment"]["packages"] = {HOSTILE: HOSTILE}
    changed["created"] = changed["tool_version"] = changed["suite"] = HOSTILE
    return changed


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {names.get(key, key): _replaced(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_replaced(entry, names) for entry in value]
    return names.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _rows(bundle: str, count: int, draw: np.random.Generator, labels: LabelSet) -> list[Row]:
    found = []
    for place in range(count):
        variant, target, backend, form, device, batch, ms, size = FORMS[place % len(FORMS)]
        turn = place // len(FORMS)
        if turn:
            form = f"{form or variant} {turn + 1}"
        cell = Cell(
            bundle=bundle, target=target, variant=variant, backend=backend, model=Path("m.onnx"),
            model_bytes=size, model_sha256=f"{place:064x}", form=form, device=device, batch=batch,
            options={"session.intra_op.allow_spinning": "0"} if backend == "onnxruntime" else {},
        )  # fmt: skip
        if count > 3 and place == count - 2:
            why = "tensorrt is not installed; run `pip install 'qdr-edge[tensorrt]'`"
            found.append(Row(cell, Status.UNAVAILABLE, (why,)))
        elif count > 3 and place == count - 1:
            found.append(Row(cell, Status.FAILED, ("it ended with signal 11 (SIGSEGV)",)))
        else:
            found.append(_measured(cell, ms * (1 + 0.2 * turn), place, draw, labels))
    return found


def _measured(
    cell: Cell, ms: float, place: int, draw: np.random.Generator, labels: LabelSet
) -> Row:
    def times(mean: float, count: int) -> tuple[int, ...]:
        return tuple(int(1e6 * mean * (1 + t)) for t in draw.gamma(2.0, 0.03, count))

    on_gpu = cell.device == "cuda"
    parts = {
        "import": times(140, 5), "open": times(60 + 20 * ms, 5), "first_decision": times(4 * ms, 5)
    }  # fmt: skip
    starts = {**parts, "total": tuple(map(sum, zip(*parts.values(), strict=True)))}
    slices = tuple(
        Slice(5.0 * (turn + 1), times(ms + 4, 50), 0, 1, 0, 190_000_000 + 4096 * turn, 51 + turn)
        for turn in range(24)
    )
    noisy = place == 1
    return Row(
        cell=cell,
        status=Status.INVALID if noisy else Status.VALID,
        reasons=("other load: 1.2 of 2 cores were busy with something else",) if noisy else (),
        runtime_version={"onnxruntime": "1.32.0", "openvino": "2026.4.1"}.get(cell.backend, "2.13"),
        threads=2,
        open_ms=60 + 20 * ms,
        latency=Latency(tuple(times(ms, 90) for _ in range(10))),
        memory=Memory(int(4e7 + 6e6 * ms + cell.model_bytes), 40_000_000),
        stages=Stages(
            {
                "decode": times(2.2, 24),
                "preprocess": times(0.9, 24),
                "gate": times(0.4, 24),
                **({"h2d": times(0.03, 24)} if on_gpu else {}),
                "infer": times(1.3 * ms, 24),
                **({"d2h": times(0.01, 24)} if on_gpu else {}),
                "postprocess": times(0.05, 24),
                "end_to_end": times(3.8 + 1.3 * ms, 24),
            },
            {"POSITIVE": 20, "NEGATIVE": 4},
            210_000_000,
        )
        if cell.target not in ("float", "peer")
        else None,
        accuracy=_accuracy(cell.variant, labels, twin=cell.target != "float"),
        self_test="passed" if cell.target not in ("float", "peer") else "",
        foreign_cores=1.2 if noisy else 0.03,
        multi_stream=MultiStream(tuple(times(8 * ms, 70) for _ in range(10))),
        offline=Offline(cell.batch, tuple(Pass(400, 0.4 * ms + 0.01 * t) for t in range(10))),
        cold_start=ColdStart(starts) if cell.target not in ("float", "peer") else None,
        soak=Soak(10.0, slices) if cell.target not in ("float", "peer") else None,
        energy={
            "sensor": "NVML" if on_gpu else "INA3221 VDD_CPU_GPU_CV",
            "scope": "gpu" if on_gpu else "module rail",
            "idle_watts": 4.1,
            "load_watts": 9.2,
            "joules_per_image": 0.0051 * ms,
            "loops": [{"watts": 9 + 0.1 * t, "seconds": 10.0, "images": 5000} for t in range(5)],
            "note": "a rail of the module: not wall power",
        }
        if place % 3 != 2
        else None,
        before={**_state(0), "throttled": []},
        after={**_state(1), "throttled": ["soft thermal slowdown"] if noisy else []},
    )


@cache
def _accuracy(variant: str, labels: LabelSet, *, twin: bool) -> dict[str, Any]:
    """The accuracy of drawn logits; int8 and float differ a little."""
    draw = np.random.default_rng(17)
    targets = (draw.random((IMAGES, len(labels))) < 0.25).astype(np.uint8)
    targets[targets.sum(axis=1) == 0, 0] = 1
    targets[:, -1] = 0  # a label that cannot be evaluated
    signal = 2.2 * (targets - 0.5) + draw.normal(0, 1.2, targets.shape)
    logits = signal.astype(np.float32)
    other = (logits + draw.normal(0, 0.15, targets.shape)).astype(np.float32)
    rule = DecisionRule(labels, 1.3, (0.2,) * len(labels))
    truth = GroundTruth(targets, tuple(f"p{n // 2}" for n in range(IMAGES)), rule)
    chosen, against = (other, logits) if variant == "int8" else (logits, other)
    return assess(chosen, truth, against if twin else None)


def _ratios(bundle: str, rows: list[Row]) -> list[dict[str, Any]]:
    twins = {row.cell.backend: row.latency for row in rows if row.cell.target == "float"}
    found = []
    for row in rows:
        twin = twins.get(row.cell.backend)
        if row.latency is None or twin is None or row.cell.target == "float":
            continue
        ratio = paired_ratio(round_medians(twin.rounds), round_medians(row.latency.rounds))
        assert ratio is not None
        found.append({"row": row.cell.id, "bundle": bundle, "target": row.cell.target,
                      "backend": row.cell.backend,
                      "faster_than_float": ratio.to_dict()})  # fmt: skip
    return found


def _bundle(name: str, labels: LabelSet) -> dict[str, Any]:
    flips = [{"image": f"eyes/{n}.jpg", "label": "DR", "logit": 0.01 * n} for n in range(14)]
    return {
        "name": name,
        "file": f"{name}.qdr",
        "bundle_id": "0f" * 16,
        "model_version": "1.0.0",
        "sha256": "ab" * 32,
        "key_id": "3f2a90c1",
        "bundle_bytes": 3_400_000,
        "modality": "fundus",
        "size": 224,
        "labels": list(labels.codes),
        "label_names": list(labels.names),
        "scheme": {"name": "exact"},
        "synthetic": True,
        "proven": True,
        "created": "2026-11-26T08:00:00Z",
        "float_bytes": 6_130_000,
        "notes": [],
        "parity": {
            "rungs": [
                {"name": "ort-x86", "runtime": "onnxruntime 1.32", "role": "gates", "exact": 198,
                 "images": 200, "largest": 0.125, "status": "ran", "reason": "", "flips": flips},
                {"name": "tensorrt-10", "runtime": "tensorrt", "role": "gates",
                 "status": "skipped", "reason": "not installed here", "flips": []},
            ],
            "read_back": {"openvino": {"int8_share": 0.998}},
        },
        "data": {"source": "data.csv", "split": "test", "images": IMAGES, "patients": IMAGES // 2,
                 "sha256": "cd" * 32, "unreadable": ["broken.png: not a picture"]},
    }  # fmt: skip


def _state(after: int) -> dict[str, Any]:
    return {
        "load_average": [0.2 + after, 0.4, 0.3],
        "frequency_mhz": [2400 - 100 * after] * 8,
        "temperature_c": {"CPU-therm": 44.0 + 6 * after, "GPU-therm": 42.5 + 5 * after},
        "available_memory_bytes": 11_000_000_000 - 10**9 * after,
        "governor": "schedutil",
        "throttle_events": None,
        "nvidia": {"clocks_mhz": {"sm": 918 - 10 * after, "memory": 3199}, "throttled": []},
    }


def _environment() -> dict[str, Any]:
    return {
        "cpu": "ARMv8 Processor rev 1 (v8l)",
        "architecture": "aarch64",
        "isa": ["asimddp", "fp16"],
        "cores": 8,
        "machine_cores": 8,
        "cpu_quota": None,
        "governor": "schedutil",
        "turbo": None,
        "gpu": None,
        "nvidia": None,
        "jetson": {"model": "NVIDIA Jetson AGX Orin Developer Kit", "l4t": "R36.4.3",
                   "nvpmodel": "MAXN", "jetson_clocks": False},
        "memory_bytes": 32 * 2**30,
        "system": "Ubuntu 22.04.5 LTS",
        "kernel": "5.15.148-tegra",
        "container": "docker",
        "virtual_machine": False,
        "python": "3.11.9",
        "packages": {"qdr-edge": "0.1.0", "numpy": "2.3.5", "onnxruntime": "1.32.0"},
        "git_commit": "52a1694c0ffee",
        "power_sensor": "INA3221 VDD_CPU_GPU_CV",
    }  # fmt: skip
