"""One name twice, so that one reader verifies the first and another unpacks the last."""

from __future__ import annotations

import pytest

from tests.attacks.evil import Entry, build, contents, good_entries, refused
from tests.bundles import ORT


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", ORT])
@pytest.mark.parametrize("same", [True, False], ids=["same-bytes", "other-bytes"])
def test_an_entry_twice(name: str, same: bool) -> None:
    double = Entry(name.encode(), contents()[name] if same else b"evil")
    entries = good_entries()
    for place in range(len(entries) + 1):
        refused(build([*entries[:place], double, *entries[place:]]), "appears twice")


def test_two_table_rows_of_one_entry() -> None:
    entries = good_entries()
    second = Entry(b"manifest.json", contents()["manifest.json"], at=0)
    refused(build([*entries, second]), "appears twice")


def test_a_second_copy_that_only_the_table_leaves_out() -> None:
    """A reader that scans local headers would find it; ours sees a gap."""
    entries = good_entries()
    hidden = build([Entry(b"manifest.json", b"{}")])
    entries[2] = Entry(entries[2].name, entries[2].content, before=hidden[: hidden.index(b"PK\1")])
    refused(build(entries), "gap or overlap")


def test_names_that_differ_only_in_case_are_two_names_of_which_one_is_unlisted() -> None:
    entries = [*good_entries()[:2], Entry(b"NOTICE", b"notice"), Entry(b"Notice", b"evil")]
    refused(build([*entries, *good_entries()[3:]]), "not listed")


def test_entries_in_another_order() -> None:
    refused(build(good_entries()[::-1]), "not in order")
