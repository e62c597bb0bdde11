"""Small files that unpack to large ones, and counts and sizes that ask for memory."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
import zlib

import pytest

from qdr_edge import container
from tests.attacks.evil import GOOD, Entry, build, contents, good_entries, refused


@pytest.mark.parametrize("method", [8, 9, 12, 14, 93, 95, 99])
def test_a_compressed_entry(method: int) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(10_000_000)) + packer.flush()
    header = {"method": method, "packed": len(packed), "size": 10_000_000}
    bomb = Entry(b"z", packed, local=header, central=header)
    refused(build([*good_entries(), bomb]), f"compressed (method {method})")


def test_a_compressed_manifest_of_an_ordinary_tool() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(1_000_000))
    refused(buffer.getvalue(), "compressed")


def test_a_method_in_one_header_only() -> None:
    refused(build([*good_entries(), Entry(b"z", b"x", local={"method": 8})]), "disagree")
    refused(build([*good_entries(), Entry(b"z", b"x", central={"method": 8})]), "compressed")


@pytest.mark.parametrize("size", [container.MAX_ENTRY_BYTES + 1, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_size_over_the_cap_is_refused_before_anything_is_allocated(size: int) -> None:
    header = {"packed": size, "size": size}
    data = build([*good_entries(), Entry(b"z", b"x", local=header, central=header)])
    tracemalloc.start()
    refused(data, "too large")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_size_within_the_cap_that_the_file_does_not_hold() -> None:
    header = {"packed": 100_000_000, "size": 100_000_000}
    data = build([*good_entries(), Entry(b"z", b"x", local=header, central=header)])
    tracemalloc.start()
    refused(data, "runs into the entry table")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_manifest_over_its_own_cap() -> None:
    large = Entry(b"manifest.json", bytes(container.MAX_MANIFEST_BYTES + 1))
    refused(build([large]), "too large")


def test_more_entries_than_the_cap() -> None:
    many = [Entry(f"z{n:04}".encode()) for n in range(container.MAX_ENTRIES)]
    refused(build([*good_entries(), *many]), f"{len(many) + len(contents())} entries")
    refused(build(good_entries(), end={"here": 65535, "count": 65535}), "65535 entries")


def test_a_bundle_over_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_BUNDLE_BYTES", 100)
    refused(GOOD, "too large")
