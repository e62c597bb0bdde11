"""Hostile bundles: each is refused with its own clear line, and no model byte is ever returned."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest

from qdr_edge import container
from qdr_edge.bundle import read_bundle
from qdr_edge.container import read_container, write_container
from qdr_edge.errors import BundleError, CompatibilityError, QdrError, SignatureError
from qdr_edge.files import canonical_json
from qdr_edge.keys import SigningKey, TrustStore
from tests.bundles import ORT, sealed

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)
GOOD = sealed(KEY)
END = struct.Struct("<4s4H2IH")


def _refused(data: bytes) -> QdrError:
    with pytest.raises(BundleError) as caught:
        read_bundle(data, trust=TRUST)
    assert "\n" not in str(caught.value)
    return caught.value


def _entries(data: bytes = GOOD) -> dict[str, bytes]:
    return {n: container.extract(data, e) for n, e in read_container(data).items()}


def test_the_untouched_bundle_opens() -> None:
    assert read_bundle(GOOD, trust=TRUST).key_id == KEY.key_id


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(GOOD)):
        data = bytearray(GOOD)
        data[position] ^= 1 << (position % 8)
        _refused(bytes(data))


def test_every_truncation_is_noticed_and_named() -> None:
    for length in range(4, len(GOOD)):
        assert "truncated" in str(_refused(GOOD[:length]))
    for length in range(4):
        assert "not a bundle" in str(_refused(GOOD[:length]))


def test_a_flipped_bit_of_the_manifest_or_signature_is_tampering() -> None:
    table = read_container(GOOD)
    for name, message in (("manifest.json", "tampered"), ("manifest.sig", "unknown key|tampered")):
        entry = table[name]
        for position in (entry.offset, entry.offset + 20, entry.offset + entry.size - 1):
            data = bytearray(GOOD)
            data[position] ^= 1
            with pytest.raises(SignatureError, match=message):
                read_bundle(bytes(data), trust=TRUST)


def test_a_changed_entry_in_a_well_made_container_is_tampering() -> None:
    entries = _entries()
    entries[ORT] = b"evil!" * 20
    with pytest.raises(SignatureError, match=f"tampered or damaged: entry {ORT}"):
        read_bundle(write_container(entries), trust=TRUST)


def test_a_changed_manifest_in_a_well_made_container_is_tampering() -> None:
    entries = _entries()
    value = json.loads(entries["manifest.json"])
    value["decision"]["thresholds"][1]["logit"] = "100.0"
    entries["manifest.json"] = canonical_json(value)
    with pytest.raises(SignatureError, match="tampered: the manifest"):
        read_bundle(write_container(entries), trust=TRUST)


def test_another_bundles_signature_does_not_fit() -> None:
    entries = _entries()
    entries["manifest.sig"] = _entries(sealed(KEY, model_version="2.0.0"))["manifest.sig"]
    with pytest.raises(SignatureError, match="tampered: the manifest"):
        read_bundle(write_container(entries), trust=TRUST)


def test_a_strangers_signature_under_a_trusted_keys_name() -> None:
    entries = _entries()
    stranger = SigningKey.generate()
    entries["manifest.sig"] = bytes.fromhex(KEY.key_id) + stranger.sign(entries["manifest.json"])
    with pytest.raises(SignatureError, match="tampered: the manifest"):
        read_bundle(write_container(entries), trust=TRUST)


def test_a_removed_signature_is_noticed_even_when_unsigned_is_allowed() -> None:
    entries = _entries()
    del entries["manifest.sig"]
    data = write_container(entries)
    with pytest.raises(SignatureError, match="unsigned"):
        read_bundle(data, trust=TRUST)
    with pytest.raises(SignatureError, match="names key"):
        read_bundle(data, trust=TRUST, allow_unsigned=True)


@pytest.mark.parametrize("size", [0, 64, 71, 73])
def test_a_signature_of_another_length(size: int) -> None:
    entries = {**_entries(), "manifest.sig": b"\0" * size}
    with pytest.raises(SignatureError, match=f"signature of {size} bytes"):
        read_bundle(write_container(entries), trust=TRUST)


def test_surplus_and_missing_entries() -> None:
    assert "not listed" in str(_refused(write_container({**_entries(), "extra": b""})))
    entries = _entries()
    del entries["NOTICE"]
    assert "missing, but listed" in str(_refused(write_container(entries)))
    del entries["manifest.json"]
    assert "no manifest.json" in str(_refused(write_container(entries)))


def _zip(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        change(archive)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "a\\b", ".hidden", "a//b"])
def test_traversal(name: str) -> None:
    assert "not allowed" in str(_refused(_zip(lambda archive: archive.writestr(name, b"x"))))


def test_a_compressed_entry() -> None:
    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("manifest.json", b"\0" * 1_000_000, zipfile.ZIP_DEFLATED)

    assert "compressed" in str(_refused(_zip(bomb)))


def test_an_ordinary_zip_of_the_same_entries() -> None:
    def repack(archive: zipfile.ZipFile) -> None:
        for name, content in _entries().items():
            archive.writestr(name, content)

    assert "must be zero" in str(_refused(_zip(repack)))


def _record(name: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Local header with content, and the table's header without its offset."""
    crc, size = zlib.crc32(content), len(content)
    fields = (20, 0, 0, 0, 0x21, crc, size, size, len(name))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", *fields, 0) + name + content
    return local, struct.pack("<4s6H3I5HI", b"PK\1\2", 20, *fields, 0, 0, 0, 0, 0)


def _assemble(records: list[tuple[bytes, bytes]], *, gap: bytes = b"", tail: bytes = b"") -> bytes:
    body, table = b"", b""
    for name, content in records:
        local, central = _record(name, content)
        body += gap if body else b""
        table += central + struct.pack("<I", len(body)) + name
        body += local
    end = END.pack(b"PK\5\6", 0, 0, len(records), len(records), len(table), len(body), 0)
    return body + table + end + tail


RECORDS = [(b"manifest.json", b"{}"), (b"x", b"1")]


def test_the_assembler_makes_what_the_writer_makes() -> None:
    assert _assemble(RECORDS) == write_container({"manifest.json": b"{}", "x": b"1"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_assemble([*RECORDS, RECORDS[1]]), "appears twice"),
        (_assemble(RECORDS[::-1]), "not in order"),
        (_assemble(RECORDS, gap=b"hidden"), "gap or overlap"),
        (_assemble(RECORDS, tail=b"!"), "1 bytes after the end record"),
        (b"#!/bin/sh\n" + _assemble(RECORDS), "wrong first bytes"),
        (_assemble([(b"caf\xc3\xa9", b"")]), "outside ASCII"),
        (_assemble([(b"n" * 200, b"")]), "entry name of 200 bytes"),
    ],
    ids=["duplicate", "order", "gap", "tail", "prefix", "ascii", "long-name"],
)
def test_containers_with_more_than_one_reading(data: bytes, message: str) -> None:
    assert message in str(_refused(data))


def test_headers_that_disagree() -> None:
    data = bytearray(_assemble(RECORDS))
    data[30:43] = b"manifest.jsoN"
    assert "disagree" in str(_refused(bytes(data)))


def test_a_gap_between_the_entries_and_the_table() -> None:
    good = _assemble(RECORDS)
    end = END.unpack(good[-22:])
    body, table = good[: end[6]], good[end[6] : -22]
    moved = END.pack(*end[:6], end[6] + 3, 0)
    assert "gap before the entry table" in str(_refused(body + b"gap" + table + moved))
    assert "does not end where" in str(_refused(body + table + b"gap" + good[-22:]))


def test_sizes_that_lie_never_allocate() -> None:
    good = bytearray(_assemble(RECORDS))
    table = END.unpack(bytes(good[-22:]))[6]
    for size in (3, 1 << 20, 0xFFFFFFFF):
        data = bytearray(good)
        struct.pack_into("<II", data, table + 20, size, size)
        _refused(bytes(data))
    for field, value in ((8, 0xFFFF), (10, 0xFFFF), (12, 0xFFFFFFFF), (16, 0xFFFFFFFF)):
        data = bytearray(good)
        struct.pack_into("<I" if field > 10 else "<H", data, len(data) - 22 + field, value)
        _refused(bytes(data))


def test_an_oversize_manifest_is_refused_by_its_header() -> None:
    raw = b"x" * (container.MAX_MANIFEST_BYTES + 1)
    assert "too large" in str(_refused(_assemble([(b"manifest.json", raw)])))


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_ENTRIES", 4)
    assert "5 entries" in str(_refused(GOOD))


def test_a_newer_schema_is_named_only_after_its_signature_held() -> None:
    entries = _entries()
    value = json.loads(entries["manifest.json"])
    value["schema_version"] = 3
    raw = canonical_json(value)
    entries["manifest.json"] = raw
    with pytest.raises(SignatureError, match="tampered"):
        read_bundle(write_container(entries), trust=TRUST)
    entries["manifest.sig"] = bytes.fromhex(KEY.key_id) + KEY.sign(raw)
    with pytest.raises(CompatibilityError, match="schema 3"):
        read_bundle(write_container(entries), trust=TRUST)


def test_exit_codes_tell_the_families_apart() -> None:
    assert _refused(GOOD[:-1]).exit_code == 7
    with pytest.raises(SignatureError) as caught:
        read_bundle(sealed(None), trust=TRUST)
    assert caught.value.exit_code == 8
