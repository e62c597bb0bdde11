"""JSON that two parsers read differently, and values out of range, all under a VALID signature."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qdr_edge.container import MAX_MANIFEST_BYTES, write_container
from qdr_edge.errors import BundleError, CompatibilityError
from qdr_edge.files import canonical_json
from qdr_edge.manifest import MAX_NESTING, Manifest
from tests.attacks.evil import contents, manifest_of, refused, signed

RAW = canonical_json(manifest_of())


def _changed(path: str, value: Any) -> dict[str, Any]:
    """The manifest with the field at a dotted path set to a value."""
    whole = manifest_of()
    *parents, last = path.split(".")
    place: Any = whole
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[int(last) if isinstance(place, list) else last] = value
    return whole


TEXTS = {
    "duplicate key": RAW.replace(b'{"artefacts"', b'{"proven":true,"artefacts"', 1),
    "duplicate key, escaped": RAW.replace(b'"proven":true', b'"prove\\u006e":false,"proven":true'),
    "spaces": json.dumps(manifest_of(), sort_keys=True).encode(),
    "unsorted": json.dumps(dict(reversed(manifest_of().items())), separators=(",", ":")).encode(),
    "escaped letter": RAW.replace(b"fundus", b"\\u0066undus", 1),
    "byte-order mark": b"\xef\xbb\xbf" + RAW,
    "utf-16": RAW.decode().encode("utf-16"),
    "latin-1": RAW.replace(b'"licence":"', b'"licence":"\xe9', 1),
    "lone surrogate": RAW.replace(b'"licence":"', b'"licence":"\\ud800', 1),
    "overlong utf-8": RAW.replace(b'"licence":"', b'"licence":"\xc0\xaf', 1),
    "trailing comma": RAW[:-1] + b",}",
    "comment": RAW + b"//",
    "trailing zero byte": RAW + b"\0",
    "trailing newline": RAW + b"\n",
    "two documents": RAW + RAW,
    "array": b"[" + RAW + b"]",
    "null": b"null",
    "empty": b"",
    "nan": RAW.replace(b'"security_version":0', b'"security_version":NaN'),
    "infinity": RAW.replace(b'"security_version":0', b'"security_version":Infinity'),
    "float": RAW.replace(b'"security_version":0', b'"security_version":0.0'),
    "exponent": RAW.replace(b'"security_version":0', b'"security_version":1e3'),
    "minus zero": RAW.replace(b'"security_version":0', b'"security_version":-0'),
    "leading zero": RAW.replace(b'"security_version":0', b'"security_version":00'),
    "huge integer": RAW.replace(b'"security_version":0', b'"security_version":' + b"9" * 5000),
    "deep nesting": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_not_the_one_form(name: str) -> None:
    raw = TEXTS[name]
    assert raw != RAW
    refused(signed(raw), "manifest")


VALUES: list[tuple[str, Any]] = [
    ("format", "qdr-bundle2"), ("proven", 1), ("proven", "true"), ("synthetic", None),
    ("security_version", -1), ("security_version", 2**31), ("security_version", "0"),
    ("security_version", True), ("bundle_id", "../x"), ("bundle_id", ""), ("bundle_id", "a\n"),
    ("bundle_id", "a" * 129), ("created", "2025-01-01"), ("created", "2025-01-01T00:00:00Z\n"),
    ("modality", "xray"), ("labels.codes", []), ("labels.codes", ["A"] * 3),
    ("labels.codes", ["NOR", "AMD"]), ("labels.codes", [f"L{i}" for i in range(65)]),
    ("labels.exclusive", "no"), ("input.size", 7), ("input.size", 4097), ("input.size", 64.0),
    ("input.channels", 1), ("input.dtype", "float32"), ("preprocess.sha256", "0" * 63),
    ("preprocess.sha256", "A" * 64), ("decision.temperature", "nan"), ("decision.temperature", 1),
    ("decision.temperature", "1"), ("decision.temperature", "1.00"),
    ("decision.temperature", " 1.0"),
    ("decision.temperature", "1_0.0"), ("decision.temperature", "\u0661.0"),
    ("decision.temperature", "0x1p3"), ("decision.thresholds", []),
    ("decision.thresholds.0.code", "AMD"), ("decision.thresholds.0.logit", None),
    ("decision.thresholds.0.positives", -1), ("decision.gates", []), ("artefacts", {}),
    ("artefacts.ort-x86.opset", 0), ("artefacts.ort-x86.opset", 65),
    ("artefacts.ort-x86.tolerance_steps", 256), ("artefacts.ort-x86.logit_step", "inf inf"),
    ("artefacts.ort-x86.entry", 1), ("artefacts.ort-x86.options", {"a b": "c"}),
    ("artefacts.ort-x86.requires", ["x"] * 17), ("licence", "x" * 4097), ("licence", None),
    ("entries.NOTICE.size", -1), ("entries.NOTICE.size", 2**40), ("entries.NOTICE.sha256", "x"),
    ("entries.NOTICE.crc", 1), ("unknown", 1), ("labels.unknown", 1), ("golden", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), VALUES, ids=[f"{p}={v!r:.20}" for p, v in VALUES])
def test_a_value_that_no_reader_may_accept(path: str, value: Any) -> None:
    refused(signed(canonical_json(_changed(path, value))), "manifest")


@pytest.mark.parametrize("field", sorted(set(manifest_of()) - {"schema_version", "key_id"}))
def test_a_field_of_another_type(field: str) -> None:
    original = manifest_of()[field]
    for value in (None, [1], 7, "x", {"x": 1}):
        if type(value) is not type(original):
            refused(signed({**manifest_of(), field: value}))


def test_schemas_that_this_release_does_not_know() -> None:
    for version in (0, 3, "2", None, [2], {}, True):
        error = refused(signed({**manifest_of(), "schema_version": version}), "schema")
        assert isinstance(error, CompatibilityError)


def test_a_newer_schema_is_named_only_after_its_signature_held() -> None:
    raw = canonical_json({**manifest_of(), "schema_version": 3})
    refused(write_container({**contents(), "manifest.json": raw}), "tampered")


def test_trees_nested_deeper_than_the_cap() -> None:
    tree: Any = "leaf"
    for _ in range(MAX_NESTING + 2):
        tree = {"a": tree}
    refused(signed({**manifest_of(), "evidence": tree}), "nested deeper")
    refused(signed({**manifest_of(), "evidence": {"a": [[0.5]]}}), "floating-point")


def test_a_manifest_over_its_cap() -> None:
    with pytest.raises(BundleError, match=f"at most {MAX_MANIFEST_BYTES} bytes"):
        Manifest.from_bytes(b'"' + b"x" * MAX_MANIFEST_BYTES + b'"')
