"""Links and devices: inside the container as Unix attributes, outside it as what the path names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qdr_edge.bundle import read_bundle
from qdr_edge.errors import BundleError
from tests.attacks.evil import GOOD, KEY, TRUST, Entry, build, good_entries, refused

UNIX = 3 << 8


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFREG]
)
def test_an_entry_that_claims_a_kind_of_file(kind: int) -> None:
    central = {"made_by": UNIX | 20, "external": (kind | 0o777) << 16}
    refused(build([*good_entries(), Entry(b"z", b"/etc/passwd", central=central)]), "must be zero")


def test_attributes_alone_are_refused() -> None:
    for field in ("made_by", "external", "internal"):
        refused(build([*good_entries(), Entry(b"z", b"x", central={field: 1})]), "must be zero")


def test_a_folder_entry() -> None:
    refused(build([*good_entries(), Entry(b"z/")]), "not allowed")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "dangling"])
def test_a_path_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.qdr"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"not a file|cannot read"):
        read_bundle(path, trust=TRUST)


def test_a_link_to_a_bundle_is_read_once_and_is_that_bundle(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(GOOD)
    (tmp_path / "x.qdr").symlink_to(tmp_path / "real")
    assert read_bundle(tmp_path / "x.qdr", trust=TRUST).key_id == KEY.key_id
