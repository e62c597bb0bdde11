"""Headers that contradict each other or the file: every field of every header, one at a time."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from qdr_edge.errors import BundleError
from tests.attacks.evil import GOOD, Entry, build, contents, good_entries, refused

CHANGES = {
    "version": 45, "flags": 1, "time": 1, "date": 0x22, "crc": 0, "packed": 2, "size": 2,
    "extra_length": 1, "name_length": 2,
}  # fmt: skip


@pytest.mark.parametrize("field", ["magic", *CHANGES])
@pytest.mark.parametrize("header", ["local", "central"])
def test_a_field_that_one_header_has_otherwise(header: str, field: str) -> None:
    value = b"PK\3\3" if field == "magic" else CHANGES[field]
    refused(build([*good_entries(), Entry(b"zz", b"x", **{header: {field: value}})]))


@pytest.mark.parametrize("field", ["version", "flags", "time", "date"])
def test_a_field_that_both_headers_have_otherwise(field: str) -> None:
    change = {field: CHANGES[field]}
    entry = Entry(b"zz", b"x", local=change, central=change)
    refused(build([*good_entries(), entry]), "must be zero")


@pytest.mark.parametrize("field", ["made_by", "comment_length", "disk", "internal", "external"])
def test_a_field_of_the_table_that_must_be_zero(field: str) -> None:
    refused(build([*good_entries(), Entry(b"zz", b"x", central={field: 1})]))


def test_encryption_flags() -> None:
    for flags in (1, 1 << 6, 1 << 11, 1 << 13):
        change = {"flags": flags}
        entry = Entry(b"zz", b"x", local=change, central=change)
        refused(build([*good_entries(), entry]), "must be zero")


def test_another_name_in_the_local_header() -> None:
    refused(GOOD.replace(b"model_card.md# card", b"model_card.mX# card"), "disagree")


def test_zip64() -> None:
    extra = struct.pack("<HHQQ", 1, 16, 1, 1)
    wide = {"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF}
    refused(build([*good_entries(), Entry(b"zz", b"x", extra=extra)]))
    refused(build([*good_entries(), Entry(b"zz", b"x", extra=extra, local=wide, central=wide)]))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    refused(build(good_entries(), after_table=locator), "does not end where")
    refused(build(good_entries(), end={"count": 0xFFFF, "here": 0xFFFF, "offset": 0xFFFFFFFF}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magic", b"PK\5\5"), ("disk", 1), ("start_disk", 1), ("here", 1), ("count", 1),
        ("count", 0xFFFF), ("size", 0), ("size", 0xFFFFFFFF), ("offset", 0), ("offset", 0xFFFFFFFF),
        ("comment_length", 1), ("comment_length", 0xFFFF),
    ],
)  # fmt: skip
def test_an_end_record_that_lies(field: str, value: int | bytes) -> None:
    refused(build(good_entries(), end={field: value}))


def test_fewer_entries_than_there_are() -> None:
    for count in range(len(contents())):
        refused(build(good_entries(), end={"here": count, "count": count}))


def test_bytes_before_and_after() -> None:
    refused(b"#!/bin/sh\n" + GOOD, "wrong first bytes")
    for tail in (b"\0", b"!", b"PK\5\6", GOOD[-22:], GOOD):
        refused(GOOD + tail)
    refused(build(good_entries(), end={"comment_length": 4}, tail=b"evil"))


def test_every_truncation_is_named() -> None:
    for length in range(len(GOOD)):
        error = refused(GOOD[:length], "truncated" if length >= 4 else "not a bundle")
        assert type(error) is BundleError


def test_a_checksum_that_only_other_tools_would_compare() -> None:
    """Both headers agree, the hash holds, but the CRC is wrong: unzip would call it corrupt."""
    wrong = {"crc": 1}
    entries = good_entries()
    last = entries[-1]
    entries[-1] = Entry(last.name, last.content, local=wrong, central=wrong)
    refused(build(entries), "checksum")


def test_an_ordinary_zip_of_the_same_entries() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents().items():
            archive.writestr(name, content)
    refused(buffer.getvalue(), "must be zero")
