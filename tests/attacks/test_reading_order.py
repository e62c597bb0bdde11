"""A loader that looks too early: no parser may see a byte that nobody vouched for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qdr_edge
from qdr_edge import runtime, screener
from qdr_edge.bundle import read_bundle, write_bundle
from qdr_edge.container import entry_order, write_container
from qdr_edge.errors import QdrError
from qdr_edge.keys import PublicKey
from qdr_edge.manifest import Manifest
from tests.attacks.evil import (
    GOOD,
    KEY,
    TRUST,
    Entry,
    build,
    contents,
    good_entries,
    refused,
    working,
)
from tests.bundles import ORT


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loader's steps as they are taken."""
    steps: list[str] = []

    def watch(owner: Any, name: str, step: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            steps.append(step)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(PublicKey, "verifies", "signature")
    watch(Manifest, "from_bytes", "manifest")
    watch(runtime, "open_model", "model")
    watch(screener, "compare_golden", "self-test")
    return steps


def test_the_builder_makes_what_the_writer_makes() -> None:
    files = {"manifest.json": b"{}", "x": b"1"}
    assert build(Entry(n.encode(), files[n]) for n in entry_order(files)) == write_container(files)
    assert build(good_entries()) == GOOD
    assert read_bundle(GOOD, trust=TRUST).key_id == KEY.key_id


def test_the_order_of_a_loader(tmp_path: Path, seen: list[str]) -> None:
    write_bundle(tmp_path / "x.qdr", *working(), KEY)
    seen.clear()
    qdr_edge.load(tmp_path / "x.qdr", trust=TRUST, target="ort-x86", threads=1).close()
    assert seen == ["signature", "manifest", "model", "self-test"]


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", ORT])
def test_nothing_after_the_step_that_failed(tmp_path: Path, seen: list[str], name: str) -> None:
    write_bundle(tmp_path / "x.qdr", *working(), KEY)
    entries = contents((tmp_path / "x.qdr").read_bytes())
    entries[name] = entries[name][:-1] + bytes([entries[name][-1] ^ 1])
    (tmp_path / "x.qdr").write_bytes(write_container(entries))
    seen.clear()
    with pytest.raises(QdrError, match="tampered"):
        qdr_edge.load(tmp_path / "x.qdr", trust=TRUST, threads=1)
    assert seen == (["signature", "manifest"] if name == ORT else ["signature"])


def test_a_malformed_container_reaches_no_parser(seen: list[str]) -> None:
    refused(GOOD + b"!", "after the end record")
    refused(GOOD[:-1], "truncated")
    assert seen == []
