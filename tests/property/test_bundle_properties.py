"""Whatever is sealed is read back, and whatever is read back is the only form it could have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdr_edge.bundle import inspect_bundle, read_bundle, seal
from qdr_edge.container import check_crc, extract, read_container, write_container
from qdr_edge.errors import BundleError, QdrError
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.manifest import Manifest, exact_text, without_floats
from qdr_edge.slots import State
from tests.bundles import ORT, manifest

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)
PARTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
ENTRIES = st.dictionaries(NAMES, st.binary(max_size=60), min_size=1, max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | FLOATS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=12,
)


@given(ENTRIES)
def test_a_container_is_read_back_and_has_one_form(entries: dict[str, bytes]) -> None:
    data = write_container(entries)
    assert data == write_container(dict(reversed(entries.items())))
    table = read_container(data)
    assert {name: extract(data, entry) for name, entry in table.items()} == entries
    for name, entry in table.items():
        check_crc(entry, entries[name])


@given(ENTRIES, st.data())
def test_a_changed_container_is_refused_or_is_its_own_only_form(
    entries: dict[str, bytes], data: st.DataObject
) -> None:
    good = bytearray(write_container(entries))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(good)
    try:
        table = read_container(changed)
        found = {name: extract(changed, entry) for name, entry in table.items()}
        for name, entry in table.items():
            check_crc(entry, found[name])
    except BundleError:
        return
    assert write_container(found) == changed


@given(st.binary(max_size=300))
def test_no_bytes_are_more_than_a_clear_error(data: bytes) -> None:
    for read in (read_bundle, inspect_bundle):
        with pytest.raises(QdrError):
            read(data, trust=TRUST)
    with pytest.raises(QdrError):
        Manifest.from_bytes(data)


@given(
    evidence=st.dictionaries(TEXT, TREES, max_size=4),
    licence=TEXT,
    security_version=st.integers(0, 2**31 - 1),
    temperature=FLOATS,
    thresholds=st.lists(FLOATS, min_size=3, max_size=3),
)
def test_a_manifest_is_read_back_bit_for_bit(
    evidence: dict[str, Any],
    licence: str,
    security_version: int,
    temperature: float,
    thresholds: list[float],
) -> None:
    base = manifest()
    decision = base.decision.model_copy(
        update={
            "temperature": exact_text(temperature),
            "thresholds": tuple(
                threshold.model_copy(update={"logit": exact_text(value)})
                for threshold, value in zip(base.decision.thresholds, thresholds, strict=True)
            ),
        }
    )
    made = manifest(
        evidence=without_floats(evidence),
        licence=licence,
        security_version=security_version,
        decision=decision,
    )
    again = Manifest.from_bytes(made.to_bytes())
    assert again == made
    assert again.to_bytes() == made.to_bytes()
    found = [float(threshold.logit) for threshold in again.decision.thresholds]
    assert [value.hex() for value in found] == [value.hex() for value in thresholds]


@settings(max_examples=60)
@given(ENTRIES, st.integers(0, 2**31 - 1), st.booleans())
def test_a_sealed_bundle_is_read_back(
    entries: dict[str, bytes], security_version: int, with_key: bool
) -> None:
    files = {**entries, ORT: b"model"}
    described = manifest(security_version=security_version)
    key = KEY if with_key else None
    if any(name in ("manifest.json", "manifest.sig") for name in files):
        return
    data = seal(described, files, key)
    assert data == seal(described, dict(reversed(files.items())), key)
    bundle = read_bundle(
        data,
        trust=TRUST,
        allow_unsigned=not with_key,
        minimum_security_version=security_version,
    )
    assert dict(bundle.entries) == files
    assert bundle.key_id == (KEY.key_id if with_key else None)
    sealed = bundle.manifest.model_copy(update={"entries": {}, "key_id": ""})
    assert sealed == described


@given(st.sampled_from(["a", "b"]), st.binary(min_size=32, max_size=32), st.integers(0, 2**31 - 1))
def test_a_devices_state_is_read_back(active: Any, digest: bytes, version: int) -> None:
    state = State(active=active, sha256=digest.hex(), security_version=version)
    assert State.model_validate_json(state.to_bytes()) == state
    assert state.spare != active
