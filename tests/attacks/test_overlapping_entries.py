"""Entries that share, skip or swallow bytes: quines, hidden payloads, better zip bombs."""

from __future__ import annotations

import pytest

from tests.attacks.evil import GOOD, Entry, build, good_entries, refused


def test_two_entries_on_the_same_bytes() -> None:
    entries = good_entries()
    first = entries[0]
    refused(build([*entries, Entry(b"z", first.content, at=0)]), "gap or overlap")


def test_an_entry_inside_another() -> None:
    inner = build([Entry(b"z", b"evil")])
    inner = inner[: inner.index(b"PK\1\2")]
    outer = Entry(b"y", inner)
    body = build([*good_entries(), outer])
    place = body.index(inner)
    refused(build([*good_entries(), outer, Entry(b"z", b"evil", at=place)]), "gap or overlap")


@pytest.mark.parametrize("by", [-1, 1, 30])
def test_an_offset_that_is_off(by: int) -> None:
    entries = good_entries()
    at = GOOD.index(entries[2].name) - 30
    entries[2] = Entry(entries[2].name, entries[2].content, central={"offset": at + by})
    refused(build(entries), "gap or overlap")


@pytest.mark.parametrize("offset", [0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_an_offset_outside_the_file(offset: int) -> None:
    refused(build([*good_entries(), Entry(b"z", b"x", central={"offset": offset})]), "overlap")


def test_bytes_between_entries() -> None:
    refused(build([*good_entries(), Entry(b"z", b"x", before=b"hidden")]), "gap or overlap")


def test_a_data_descriptor() -> None:
    descriptor = b"PK\7\x08" + bytes(12)
    flags = {"flags": 8}
    entries = good_entries()
    entries.insert(3, Entry(b"O", b"x", after=descriptor))
    refused(build(entries), "gap or overlap")
    described = Entry(b"z", b"x", after=descriptor, local=flags, central=flags)
    refused(build([*good_entries(), described]), "must be zero")


def test_bytes_around_the_entry_table() -> None:
    refused(build(good_entries(), before_table=b"gap"), "gap before the entry table")
    refused(build(good_entries(), after_table=b"gap"), "does not end where")


def test_a_table_that_starts_inside_the_entries() -> None:
    size = len(GOOD) - 22 - GOOD.index(b"PK\1\2")
    start = GOOD.index(b"PK\1\2") - 4
    refused(build(good_entries(), end={"offset": start, "size": size + 4}), "malformed")
