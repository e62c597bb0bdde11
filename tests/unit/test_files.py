"""Atomic writes leave the old or the new file, and canonical JSON has one form."""

import json
import os

import pytest

from qdr_edge.errors import OutputError
from qdr_edge.files import atomic_write, canonical_json, sha256_bytes, sha256_file


def test_write_replaces_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_failed_write_keeps_old_file_and_leaves_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic_write(path, "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        atomic_write(tmp_path / "missing" / "a.txt", "x")


def test_written_file_is_readable_as_the_umask_says(tmp_path):
    path = tmp_path / "a.txt"
    old = os.umask(0o022)
    try:
        atomic_write(path, "x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def test_hash_of_file_and_bytes_agree(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == sha256_bytes(content)


def test_canonical_json_is_independent_of_key_order_and_refuses_nan():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1})
    assert json.loads(canonical_json({"a": [1, 2]})) == {"a": [1, 2]}
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))
