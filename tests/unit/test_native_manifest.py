"""The C reader of manifests against the Python one: every field, and every wrong one."""

from __future__ import annotations

import ctypes
import json
from random import Random
from typing import Any

import pytest

from qdr_edge.bundle import read_bundle
from qdr_edge.errors import QdrError
from qdr_edge.files import canonical_json
from qdr_edge.gate import FEATURES, GateLimits, default_limits
from qdr_edge.intake import Intake
from qdr_edge.preprocess import PreprocessSpec
from tests.attacks import (
    evil,
)
from tests.bundles import manifest
from tests.fuzz.mutate import mutate_json
from tests.native_bundles import (
    BAD_BUNDLE,
    OK,
    OUTCOMES,
    TRUST,
    UNSUPPORTED,
    CSpec,
    Gates,
    assert_alike,
    c_manifest_status,
    c_open,
    compiled,
    python_status,
    rich_manifest,
    status_of,
)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return compiled()


def _drawn(random: Random) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A valid manifest with other values in every field that C hands out, and its entries."""

    def text(most: int) -> str:
        alphabet = 'aZ9 ._-"\\\n\t\x00\x1f\x7f/é\u2028\U0001f600'
        return "".join(random.choices(alphabet, k=random.randint(0, most)))

    def number() -> str:
        return repr(random.choice([random.gauss(0, 9), 10.0 ** random.randint(-30, 30), -0.0, 3.5]))

    value = evil.manifest_of()
    count = random.choice([1, 2, 5, 64])
    codes = random.sample(["NOR", *(f"L{k}.x+_-" for k in range(80))], count)
    files = {f"f/{k}": random.randbytes(random.randint(0, 80)) for k in range(random.randint(1, 9))}
    targets = [f"t{k}" for k in range(random.randint(1, 32))]
    value |= {
        "bundle_id": "b" * random.randint(1, 128), "model_version": "1.0+" + codes[0],
        "security_version": random.choice([0, 2**31 - 1]), "licence": text(4096),
        "synthetic": random.random() < 0.5, "proven": random.random() < 0.5,
        "modality": random.choice(["oct", "fundus"]), "input": {"size": random.randint(8, 4096)},
        "labels": {"name": text(9), "codes": codes, "names": [text(30) for _ in codes],
                   "exclusive": count > 1 and random.random() < 0.5},
        "decision": {
            "temperature": number(), "gates": {text(3): [None, {text(2): 1}]},
            "thresholds": [
                {"code": code, "logit": random.choice([number(), "inf", "-inf"]), "split": text(5),
                 "fitted_for": text(5), "reached": random.choice([None, True]), "patients": 7}
                for code in codes
            ],
        },
        "artefacts": {
            target: {"entry": random.choice(list(files)), "backend": "b" + target, "opset": 64,
                     "runtime": text(5), "requires": random.sample(codes, min(count, 3)),
                     "options": {"o" + target: text(9)}, "logit_step": number(),
                     "tolerance_steps": random.choice([0, 1, 255])}
            for target in targets
        },
        "golden": [
            {"name": f"g{k}", "image": random.choice(list(files)),
             "outcome": random.choice(OUTCOMES[1:5]),
             "preprocessed_sha256": random.choice(["", random.randbytes(32).hex()]),
             "positives": random.choices(codes, k=random.randint(0, 3)),
             "logits": {target: [number() for _ in codes]
                        for target in random.sample(targets, min(len(targets), 2))}}
            for k in range(random.choice([0, 1, 8, 64]))
        ],
        "entries": evil.listing(files),
    }  # fmt: skip
    return value, files


def test_every_field_is_read_alike(lib: ctypes.CDLL) -> None:
    random, seen = Random(12), set()
    for _ in range(80):
        value, files = _drawn(random)
        assert assert_alike(lib, evil.signed(value, files)) == OK
        for vector in value["golden"]:
            order = [value["labels"]["codes"].index(code) for code in vector["positives"]]
            seen.add(order == sorted(set(order)))
    assert seen == {True, False}


def test_manifests_changed_at_random_are_read_alike(lib: ctypes.CDLL) -> None:
    """One value somewhere is replaced, removed or changed, and the whole written canonically."""
    random = Random(6)
    seeds = [canonical_json(rich_manifest()), manifest().to_bytes()]
    counts = {OK: 0, BAD_BUNDLE: 0, UNSUPPORTED: 0}

    def change(content: bytes) -> bytes:
        text = bytearray(content or b"x")
        text[random.randrange(len(text))] = random.choice(b'0123456789azAZ._-+"\\\x00\n\xc3 ')
        return bytes(text)

    for _ in range(12_000):
        raw = mutate_json(random.choice(seeds), random, change)
        if random.random() < 0.2:
            raw = change(raw)
        status = c_manifest_status(lib, raw)
        assert status == python_status(raw), raw
        counts[status] += 1
    assert min(counts.values()) > 20


def _trees(depth: int, leaf: Any, kind: str) -> Any:
    for _ in range(depth):
        leaf = {"a": leaf} if kind == "object" else [leaf]
    return leaf


@pytest.mark.parametrize("depth", [30, 31, 32, 33, 40, 300])
@pytest.mark.parametrize("kind", ["object", "array"])
def test_the_depth_of_a_tree(lib: ctypes.CDLL, depth: int, kind: str) -> None:
    base = json.loads(manifest().to_bytes())
    for leaf in (1, "x", {}, [], None):
        inner = _trees(depth, leaf, kind)
        value = {"x": inner} if kind == "array" else inner
        for field in ("evidence", "scheme"):
            raw = canonical_json({**base, field: value})
            assert c_manifest_status(lib, raw) == python_status(raw)
        spec = canonical_json({**base, "preprocess": {**base["preprocess"], "spec": value}})
        assert c_manifest_status(lib, spec) == python_status(spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", ...), ("schema_version", ...), ("created", ...), ("key_id", ...),
        ("golden", ...), ("evidence", ...), ("entries", ...), ("proven", ...), ("scheme", ...),
        ("licence", "\U0001f600" * 4096), ("licence", "\U0001f600" * 4097), ("licence", "\x7f\0"),
        ("licence", "\ufffe\uffff\u2028"), ("evidence", {"n": 10**4299}),
        ("evidence", {"n": -(10**4299)}), ("evidence", {"\n": 1, " ": 2, '"': 3, "\\": 4, "é": 5}),
        ("security_version", 2**31 - 1), ("security_version", 2**32), ("input", {"size": 64}),
        ("input", {"size": True}), ("input", {"size": 8, "channels": True}), ("key_id", "A" * 16),
    ],
)  # fmt: skip
def test_edges_of_a_field(lib: ctypes.CDLL, field: str, value: Any) -> None:
    changed = json.loads(manifest().to_bytes())
    changed.pop(field, None)
    if value is not ...:
        changed[field] = value
    raw = canonical_json(changed)
    assert c_manifest_status(lib, raw) == python_status(raw)


def test_numbers_with_more_digits_than_python_reads(lib: ctypes.CDLL) -> None:
    raw = manifest().to_bytes()
    for digits in (4300, 4301):
        for old in (b'"evidence":{', b'"positives":null'):
            number = b"9" * digits
            new = old + b'"a":' + number if old.endswith(b"{") else b'"positives":' + number
            changed = raw.replace(old, new, 1)
            assert changed != raw
            assert c_manifest_status(lib, changed) == python_status(changed)


def test_what_c_refuses_although_python_takes_it(lib: ctypes.CDLL) -> None:
    """The stated exception: no maker's tool writes it."""
    base = json.loads(manifest().to_bytes())
    unnamed = {k: v for k, v in base.items() if k != "format"}
    raw = canonical_json({**unnamed, "schema_version": True})
    assert (python_status(raw), c_manifest_status(lib, raw)) == (OK, BAD_BUNDLE)


def test_a_time_has_the_digits_of_ascii(lib: ctypes.CDLL) -> None:
    base = json.loads(manifest().to_bytes())
    raw = canonical_json({**base, "created": "\u0662025-01-01T00:00:00Z"})
    assert (python_status(raw), c_manifest_status(lib, raw)) == (BAD_BUNDLE, BAD_BUNDLE)


def _intake(changes: dict[str, Any]) -> tuple[int, bytes]:
    raw = {**evil.manifest_of(), **changes}
    data = evil.signed(raw)
    try:
        Intake(read_bundle(data, trust=TRUST))
    except QdrError as error:
        return status_of(error), data
    return OK, data


def _contract(**changes: Any) -> dict[str, Any]:
    spec = PreprocessSpec(**{"modality": "fundus", "size": 64, **changes})
    return {"spec": spec.to_dict(), "sha256": spec.sha256}


SPECS: list[dict[str, Any]] = [
    _contract(), _contract(clahe_clip_x100=10_000, clahe_tiles=16, median_kernel=5),
    _contract(window_low=65534), _contract(size=128), _contract(modality="oct"),
    {**_contract(), "sha256": "0" * 64}, {**_contract(), "spec": {}},
    {**_contract(), "spec": {"modality": "fundus", "size": 64, "version": 1}},
    *(
        {**_contract(), "spec": {**_contract()["spec"], **wrong}}
        for wrong in (
            {"version": 2}, {"size": 65}, {"size": True}, {"size": "64"}, {"size": -64},
            {"size": 10**30}, {"clahe_tiles": 0}, {"clahe_tiles": 33}, {"decode_margin": 9},
            {"window_low": 65535}, {"window_high": 65536}, {"clahe_clip_x100": 0},
            {"median_kernel": 4}, {"modality": "xray"}, {"modality": 1}, {"extra": 1},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(SPECS)))
def test_the_preprocessing_contract(lib: ctypes.CDLL, index: int) -> None:
    limits = {name: list(ends) for name, ends in default_limits("fundus").to_dict().items()}
    base = evil.manifest_of()
    changes = {"preprocess": SPECS[index], "decision": {**base["decision"], "gates": limits}}
    expected, data = _intake(changes)
    status, bundle, _ = c_open(lib, data)
    spec = CSpec()
    assert status == OK
    assert (
        lib.qdr_manifest_preprocess(ctypes.byref(bundle.manifest), ctypes.byref(spec)) == expected
    )
    if expected == OK:
        python = PreprocessSpec.from_dict(dict(SPECS[index]["spec"]))
        assert ("", "fundus", "oct")[spec.modality] == python.modality
        for name, _ in CSpec._fields_[1:]:
            assert getattr(spec, name) == getattr(python, name)


def _gates(**changes: Any) -> dict[str, Any]:
    limits = {name: list(ends) for name, ends in default_limits("fundus").to_dict().items()}
    limits |= changes
    return {name: ends for name, ends in limits.items() if ends is not None}


GATES: list[dict[str, Any]] = [
    _gates(), _gates(grain=["-inf", "inf"]), _gates(flat=["0.5", "0.5"]), {}, {"version": ["2"]},
    _gates(version=None), _gates(version=["1"]), _gates(version=["3"]), _gates(version=["2", "2"]),
    _gates(flat=None), _gates(extra=["0.0", "1.0"]), _gates(flat=["1.0", "0.5"]), _gates(flat=[]),
    _gates(flat=["0.0"]), _gates(flat=["x", "1.0"]), {"structure": ["0.0", "1.0"]},
    _gates(flat=["nan", "1.0"]), {"grain": ["0.0", "1.0"]},
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(GATES)))
def test_the_gates(lib: ctypes.CDLL, index: int) -> None:
    decision = {**evil.manifest_of()["decision"], "gates": GATES[index]}
    expected, data = _intake({"decision": decision})
    status, bundle, _ = c_open(lib, data)
    gates = Gates()
    assert status == OK
    assert lib.qdr_manifest_gates(ctypes.byref(bundle.manifest), ctypes.byref(gates)) == expected
    if expected == OK:
        python = GateLimits.from_dict(GATES[index])
        assert len(FEATURES) == 14
        assert tuple(gates.low) == python.low
        assert tuple(gates.high) == python.high


def test_every_feature_of_the_gate_has_its_place(lib: ctypes.CDLL) -> None:
    ends = {name: [f"{k}.0", f"{k}.5"] for k, name in enumerate(FEATURES)}
    decision = {**evil.manifest_of()["decision"], "gates": {"version": ["2"], **ends}}
    _, bundle, _ = c_open(lib, evil.signed({**evil.manifest_of(), "decision": decision}))
    gates = Gates()
    assert lib.qdr_manifest_gates(ctypes.byref(bundle.manifest), ctypes.byref(gates)) == OK
    assert list(gates.low) == [float(k) for k in range(14)]
    assert list(gates.high) == [k + 0.5 for k in range(14)]
