"""The container accepts exactly what it writes."""

from __future__ import annotations

import io
import zipfile

import pytest

from qdr_edge import container
from qdr_edge.container import (
    check_name,
    entry_order,
    read_container,
    write_container,
)
from qdr_edge.errors import BundleError

ENTRIES = {"b/z.bin": b"zz", "manifest.json": b"{}", "a.txt": b"", "manifest.sig": b"s" * 72}


def test_manifest_and_signature_come_first() -> None:
    assert list(read_container(write_container(ENTRIES))) == entry_order(ENTRIES)
    assert entry_order(ENTRIES) == ["manifest.json", "manifest.sig", "a.txt", "b/z.bin"]


def test_other_zip_tools_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(write_container(ENTRIES))) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == ENTRIES
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../b", "a//b", "a/", "", ".x", "a/.x", "a\\b", "a b", "ä", "C:x", "x" * 129],
)
def test_names_that_could_leave_the_bundle_are_refused(name: str) -> None:
    with pytest.raises(BundleError, match="not allowed"):
        check_name(name)
    with pytest.raises(BundleError, match="not allowed"):
        write_container({name: b""})


def test_caps_are_checked_when_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_ENTRY_BYTES", 4)
    with pytest.raises(BundleError, match="too large"):
        write_container({"x": b"12345"})
    monkeypatch.setattr(container, "MAX_ENTRIES", 1)
    with pytest.raises(BundleError, match="2 entries"):
        write_container({"x": b"", "y": b""})
    monkeypatch.setattr(container, "MAX_BUNDLE_BYTES", 60)
    with pytest.raises(BundleError, match="would be"):
        write_container({"x": b"1"})


def test_the_cap_on_the_whole_file_is_checked_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write_container(ENTRIES)
    monkeypatch.setattr(container, "MAX_BUNDLE_BYTES", len(data) - 1)
    with pytest.raises(BundleError, match="too large"):
        read_container(data)


def test_no_entries_is_no_container() -> None:
    with pytest.raises(BundleError, match="0 entries"):
        write_container({})
