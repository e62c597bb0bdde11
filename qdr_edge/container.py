"""The bundle's container: a ZIP archive reduced to one valid form.

Any unzip tool reads it, but this reader accepts exactly the bytes this writer makes: entries stored
uncompressed, fixed times, no extra fields, no comments, no gaps, nothing after the end record.
Two readers can therefore never see two different contents in one file. CRCs are only compared
between the two headers here; content is proven by the manifest's hashes, then by `check_crc`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from qdr_edge.errors import BundleError

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"

MAX_BUNDLE_BYTES: Final = 512 * 1024 * 1024
MAX_ENTRY_BYTES: Final = 256 * 1024 * 1024
MAX_ENTRIES: Final = 512
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_NAME_BYTES: Final = 128

# PKWARE APPNOTE 4.3.7, 4.3.12 and 4.3.16.
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC: Final = b"PK\x03\x04"
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END_MAGIC: Final = b"PK\x05\x06"

_VERSION: Final = 20
_STORED: Final = 0
_TIME: Final = 0
_DATE: Final = 0x21  # 1980-01-01, the earliest date the format can say
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """Where one entry's bytes lie in the container."""

    name: str
    offset: int
    size: int
    crc32: int


def check_name(name: str, *, where: str = "") -> None:
    """Refuse an entry name that is not a short relative path over the fixed alphabet.

    Raises:
        BundleError: `..`, an absolute path, a backslash, a hidden or empty part, other characters.
    """
    if len(name) > MAX_NAME_BYTES or not _NAME.fullmatch(name):
        raise BundleError(
            f"entry name {name[:MAX_NAME_BYTES]!r} is not allowed",
            where=where,
            expected=f"a relative path of at most {MAX_NAME_BYTES} characters out of "
            "A-Z a-z 0-9 _ . - /, no part starting with a dot",
            fix="obtain the bundle again from its maker",
        )


def entry_order(names: Iterable[str]) -> list[str]:
    """Return names in the only order a container holds them: manifest, signature, then sorted."""
    rank = {MANIFEST_NAME: 0, SIGNATURE_NAME: 1}
    return sorted(names, key=lambda name: (rank.get(name, 2), name))


def write_container(entries: Mapping[str, bytes]) -> bytes:
    """Return the container's bytes; the same entries always give the same bytes.

    Raises:
        BundleError: a name that is not allowed, or a cap that would be passed.
    """
    _check_counts(len(entries), "")
    body: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name in entry_order(entries):
        content = entries[name]
        check_name(name)
        _check_size(name, len(content), "")
        crc = zlib.crc32(content)
        local = _local_header(name, len(content), crc)
        body += [local, content]
        directory.append(_central_header(name, len(content), crc, offset))
        offset += len(local) + len(content)
    central = b"".join(directory)
    total = offset + len(central) + _END.size
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"the bundle would be {total} bytes",
            expected=f"at most {MAX_BUNDLE_BYTES} bytes",
            fix="export fewer targets or a smaller model",
        )
    end = _end_record(len(directory), len(central), offset)
    return b"".join([*body, central, end])


def read_container(data: bytes, *, where: str = "") -> dict[str, ContainerEntry]:
    """Check a container completely and return its entries in order.

    Args:
        data: the whole file.
        where: the file's name, for messages.

    Raises:
        BundleError: anything but the one valid form; truncation is named as such.
    """
    count, directory_size, directory_offset = _read_end(data, where)
    _check_counts(count, where)
    if directory_offset + directory_size != len(data) - _END.size:
        raise _malformed("the entry table does not end where the end record begins", where)

    entries: dict[str, ContainerEntry] = {}
    cursor = directory_offset
    expected_offset = 0
    for _ in range(count):
        entry, cursor = _read_central(data, cursor, len(data) - _END.size, where)
        if entry.name in entries:
            raise _malformed(f"entry {entry.name} appears twice", where)
        header = _local_header(entry.name, entry.size, entry.crc32)
        if entry.offset != expected_offset + len(header):
            raise _malformed(f"gap or overlap before entry {entry.name}", where)
        expected_offset = entry.offset + entry.size
        if expected_offset > directory_offset:
            raise _malformed(f"entry {entry.name} runs into the entry table", where)
        if data[entry.offset - len(header) : entry.offset] != header:
            raise _malformed(f"the two headers of entry {entry.name} disagree", where)
        entries[entry.name] = entry
    if cursor != len(data) - _END.size:
        raise _malformed("bytes left over in the entry table", where)
    if expected_offset != directory_offset:
        raise _malformed("gap before the entry table", where)
    if list(entries) != entry_order(entries):
        raise _malformed("entries are not in order", where)
    return entries


def extract(data: bytes, entry: ContainerEntry) -> bytes:
    """Return one entry's bytes, copied out of the container."""
    return data[entry.offset : entry.offset + entry.size]


def check_crc(entry: ContainerEntry, content: bytes, *, where: str = "") -> None:
    """Compare an entry's content with the CRC in its headers.

    Raises:
        BundleError: they differ, so other ZIP tools would call this file corrupt.
    """
    if zlib.crc32(content) != entry.crc32:
        raise _malformed(f"the checksum of entry {entry.name} does not match its content", where)


def _local_header(name: str, size: int, crc: int) -> bytes:
    raw = name.encode("ascii")
    fixed = _LOCAL.pack(
        _LOCAL_MAGIC, _VERSION, 0, _STORED, _TIME, _DATE, crc, size, size, len(raw), 0
    )
    return fixed + raw


def _central_header(name: str, size: int, crc: int, offset: int) -> bytes:
    raw = name.encode("ascii")
    # made-by and external attributes stay 0: no permissions and no links can be expressed.
    fields = (_VERSION, _VERSION, 0, _STORED, _TIME, _DATE, crc, size, size, len(raw))
    return _CENTRAL.pack(_CENTRAL_MAGIC, *fields, 0, 0, 0, 0, 0, offset) + raw


def _end_record(count: int, directory_size: int, directory_offset: int) -> bytes:
    return _END.pack(_END_MAGIC, 0, 0, count, count, directory_size, directory_offset, 0)


def _read_end(data: bytes, where: str) -> tuple[int, int, int]:
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"bundle of {len(data)} bytes is too large",
            where=where,
            expected=f"at most {MAX_BUNDLE_BYTES} bytes",
            fix="check that this file is a .qdr bundle",
        )
    if data[:4] != _LOCAL_MAGIC:
        raise BundleError(
            "not a bundle: it is empty" if not data else "not a bundle: wrong first bytes",
            where=where,
            expected="a .qdr file made by `qdr-edge export`",
            fix="check the path, or export the model again",
        )
    if len(data) < _END.size or data[-_END.size :][:4] != _END_MAGIC:
        found = data.rfind(_END_MAGIC)
        if found >= 0 and found + _END.size < len(data):
            raise _malformed(f"{len(data) - found - _END.size} bytes after the end record", where)
        raise BundleError(
            f"bundle is truncated: no end record in its {len(data)} bytes",
            where=where,
            expected="a complete .qdr file",
            fix="copy the bundle again and compare its size with the original",
        )
    _, disk, start_disk, here, count, size, offset, comment = _END.unpack(data[-_END.size :])
    if disk or start_disk or here != count or comment:
        raise _malformed("end record with a comment, several disks or two entry counts", where)
    if size + offset + _END.size > len(data):
        raise _malformed("the entry table lies outside the file", where)
    return count, size, offset


def _read_central(data: bytes, cursor: int, limit: int, where: str) -> tuple[ContainerEntry, int]:
    if cursor + _CENTRAL.size > limit:
        raise _malformed("the entry table is cut short", where)
    fields = _CENTRAL.unpack_from(data, cursor)
    crc, size, _, name_length = fields[7:11]
    offset = fields[16]
    stop = cursor + _CENTRAL.size + name_length
    if name_length > MAX_NAME_BYTES or stop > limit:
        raise _malformed(f"an entry name of {name_length} bytes", where)
    try:
        name = data[cursor + _CENTRAL.size : stop].decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("an entry name outside ASCII", where) from None
    check_name(name, where=where)
    if fields[4] != _STORED:
        raise _malformed(f"entry {name} is compressed (method {fields[4]})", where)
    _check_size(name, size, where)
    # Every field with only one allowed value is checked at once by writing the header again.
    if data[cursor:stop] != _central_header(name, size, crc, offset):
        raise _malformed(f"the table's header of entry {name} has a field that must be zero", where)
    start = offset + _LOCAL.size + name_length
    return ContainerEntry(name, start, size, crc), stop


def _check_counts(count: int, where: str) -> None:
    if not 1 <= count <= MAX_ENTRIES:
        raise BundleError(
            f"bundle with {count} entries",
            where=where,
            expected=f"1 to {MAX_ENTRIES} entries",
            fix="obtain the bundle again from its maker",
        )


def _check_size(name: str, size: int, where: str) -> None:
    cap = MAX_MANIFEST_BYTES if name == MANIFEST_NAME else MAX_ENTRY_BYTES
    if size > cap:
        raise BundleError(
            f"entry {name} of {size} bytes is too large",
            where=where,
            expected=f"at most {cap} bytes",
            fix="obtain the bundle again from its maker",
        )


def _malformed(what: str, where: str) -> BundleError:
    return BundleError(
        f"malformed bundle: {what}",
        where=where,
        expected="the strict container of docs/bundle-format.md",
        fix="copy the bundle again; do not repack it with a ZIP tool",
    )
