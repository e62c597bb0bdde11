"""What attackers write: containers byte by byte, each header field at will, signed or not."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import pytest

from qdr_edge.bundle import read_bundle
from qdr_edge.container import extract, read_container, write_container
from qdr_edge.errors import BundleError
from qdr_edge.files import canonical_json, sha256_bytes
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.manifest import Manifest
from tests.bundles import sealed, working_entries

KEY: Final = SigningKey.generate()
TRUST: Final = TrustStore.of(KEY.public)
GOOD: Final = sealed(KEY)

_LOCAL: Final = ("magic", "version", "flags", "method", "time", "date", "crc", "packed", "size")
_LENGTHS: Final = ("name_length", "extra_length")
_CENTRAL: Final = (
    *("magic", "made_by", "version", "flags", "method", "time", "date", "crc", "packed", "size"),
    *("name_length", "extra_length", "comment_length", "disk", "internal", "external", "offset"),
)
_END: Final = ("magic", "disk", "start_disk", "here", "count", "size", "offset", "comment_length")


@dataclass(frozen=True)
class Entry:
    """One entry; `local` and `central` override header fields by name.

    Args:
        name: Raw bytes, whatever the alphabet.
        content: What stands after the local header.
        before: Bytes in front of the local header.
        after: Bytes behind the content: a data descriptor, say.
        extra: The extra field of both headers.
        at: The local header written already that this entry shares; None writes its own.
    """

    name: bytes
    content: bytes = b""
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    before: bytes = b""
    after: bytes = b""
    extra: bytes = b""
    at: int | None = None


def build(
    entries: Iterable[Entry],
    *,
    end: Mapping[str, Any] | None = None,
    before_table: bytes = b"",
    after_table: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """A container of these entries, in this order, right in all that is not overridden."""
    body, table, count = b"", b"", 0
    for entry in entries:
        body += entry.before if entry.at is None else b""
        facts = {
            "version": 20, "made_by": 20, "flags": 0, "method": 0, "time": 0, "date": 0x21,
            "crc": zlib.crc32(entry.content), "packed": len(entry.content),
            "size": len(entry.content), "name_length": len(entry.name),
            "extra_length": len(entry.extra), "comment_length": 0, "disk": 0, "internal": 0,
            "external": 0, "offset": len(body) if entry.at is None else entry.at,
        }  # fmt: skip
        if entry.at is None:
            values = {**facts, "magic": b"PK\3\4", **entry.local}
            header = [values[name] for name in (*_LOCAL, *_LENGTHS)]
            body += struct.pack("<4s5H3I2H", *header) + entry.name + entry.extra
            body += entry.content + entry.after
        values = {**facts, "magic": b"PK\1\2", **entry.central}
        header = [values[name] for name in _CENTRAL]
        table += struct.pack("<4s6H3I5H2I", *header) + entry.name + entry.extra
        count += 1
    offset = len(body) + len(before_table)
    values = {"magic": b"PK\5\6", "disk": 0, "start_disk": 0, "here": count, "count": count}
    values |= {"size": len(table), "offset": offset, "comment_length": 0, **(end or {})}
    record = struct.pack("<4s4H2IH", *(values[name] for name in _END))
    return body + before_table + table + after_table + record + tail


def working(seed: int = 0) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest and entries that really run and pass their self-test; made once a seed."""
    manifest, entries = _working(seed)
    return manifest, dict(entries)


@cache
def _working(seed: int) -> tuple[Manifest, dict[str, bytes]]:
    return working_entries(seed)


def contents(data: bytes = GOOD) -> dict[str, bytes]:
    """A good bundle's entries, in order."""
    return {name: extract(data, entry) for name, entry in read_container(data).items()}


def good_entries(**changes: Entry) -> list[Entry]:
    """The good bundle's entries to build from; `changes` replaces some, dots written as `_`."""
    entries = []
    for name, content in contents().items():
        entries.append(changes.get(name.replace(".", "_"), Entry(name.encode(), content)))
    return entries


def manifest_of(data: bytes = GOOD) -> dict[str, Any]:
    """A good bundle's manifest as a JSON object, to be changed."""
    value: dict[str, Any] = json.loads(contents(data)["manifest.json"])
    return value


def signed(
    manifest: Mapping[str, Any] | bytes, files: Mapping[str, bytes] | None = None, key: Any = KEY
) -> bytes:
    """A bundle with a VALID signature over any manifest: a maker who errs, or means harm."""
    if files is None:
        files = {n: c for n, c in contents().items() if not n.startswith("manifest.")}
    raw = manifest if isinstance(manifest, bytes) else canonical_json(manifest)
    signature = bytes.fromhex(key.key_id) + key.sign(raw)
    return write_container({"manifest.json": raw, "manifest.sig": signature, **files})


def listing(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What a manifest's `entries` says of these files."""
    return {n: {"size": len(c), "sha256": sha256_bytes(c)} for n, c in files.items()}


def refused(
    data: bytes, message: str = "", *, kind: type[BundleError] = BundleError, **options: Any
) -> BundleError:
    """Assert that a bundle is refused in one line with `message`, and return the error."""
    with pytest.raises(kind) as caught:
        read_bundle(data, **{"trust": TRUST, **options})
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    return caught.value
