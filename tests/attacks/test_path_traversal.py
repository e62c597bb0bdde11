"""Entry names that would leave the bundle's folder, or hide in it, once somebody unpacks it."""

from __future__ import annotations

import pytest

from tests.attacks.evil import Entry, build, good_entries, refused

NAMES = [
    b"../evil", b"a/../../evil", b"/etc/passwd", b"//host/share", b"..\\evil", b"a\\b", b"C:evil",
    b"C:/evil", b".hidden", b"a/.hidden", b".", b"..", b"a//b", b"a/", b"", b"-rf", b"a b", b"a\n",
    b"a\0b", b"~/x", b"%2e%2e/x", b"a:stream", b"$HOME",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_is_no_plain_relative_path(name: bytes) -> None:
    refused(build([*good_entries(), Entry(name, b"x")]), "not allowed")


@pytest.mark.parametrize("name", ["é".encode(), "x\u202egnp.exe".encode(), b"\xff\xfe"], ids=repr)
def test_a_name_that_two_encodings_read_differently(name: bytes) -> None:
    refused(build([*good_entries(), Entry(name, b"x")]), "outside ASCII")


def test_a_name_longer_than_the_cap() -> None:
    refused(build([*good_entries(), Entry(b"n" * 129, b"x")]), "entry name of 129 bytes")
    refused(build([*good_entries(), Entry(b"n" * 65535, b"x")]), "entry name of 65535 bytes")
