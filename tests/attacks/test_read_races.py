"""Files that change between the check and the use: what was verified is what is opened."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import qdr_edge
from qdr_edge import bundle as bundle_module
from qdr_edge import runtime, slots
from qdr_edge.bundle import read_bundle, seal, write_bundle
from qdr_edge.errors import BundleError, QdrError
from qdr_edge.install import install
from qdr_edge.slots import slot_file
from tests.attacks.evil import GOOD, KEY, TRUST, working
from tests.bundles import ORT


def _at_step(name: str, action: Any) -> Any:
    """A reporter that acts once, right after the step of that name."""
    done: list[str] = []

    def report(line: str) -> None:
        if line.startswith(name) and not done:
            done.append(line)
            action()

    return report


@pytest.mark.parametrize("step", ["read", "container", "signature", "versions", "hashes"])
@pytest.mark.parametrize("change", ["replace", "overwrite", "truncate", "delete"])
def test_a_file_changed_after_any_step(tmp_path: Path, step: str, change: str) -> None:
    path = tmp_path / "x.qdr"
    digest = write_bundle(path, *working(), KEY)

    def act() -> None:
        if change == "replace":
            (tmp_path / "evil").write_bytes(b"evil")
            (tmp_path / "evil").replace(path)
        elif change == "overwrite":
            path.write_bytes(b"evil" * 100)
        elif change == "truncate":
            os.truncate(path, 10)
        else:
            path.unlink()

    with qdr_edge.load(
        path, trust=TRUST, target="ort-x86", threads=1, on_step=_at_step(step, act)
    ) as screener:
        assert screener.bundle.sha256 == digest


def test_the_runtime_gets_the_very_object_that_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: set[int] = set()
    given: list[int] = []
    sha256 = bundle_module.sha256_bytes
    open_model = runtime.open_model

    def hash_and_note(content: bytes) -> str:
        hashed.add(id(content))
        return sha256(content)

    def note_and_open(backend: str, model: bytes, **options: Any) -> Any:
        given.append(id(model))
        return open_model(backend, model, **options)

    write_bundle(tmp_path / "x.qdr", *working(), KEY)
    monkeypatch.setattr(bundle_module, "sha256_bytes", hash_and_note)
    monkeypatch.setattr(runtime, "open_model", note_and_open)
    with qdr_edge.load(tmp_path / "x.qdr", trust=TRUST, target="ort-x86", threads=1) as screener:
        assert given == [id(screener.bundle.entries[ORT])]
        assert set(given) <= hashed


def test_the_bundle_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = os.open
    path = tmp_path / "x.qdr"
    write_bundle(path, *working(), KEY)

    def watch(name: Any, *arguments: Any, **options: Any) -> int:
        opened.append(os.fspath(name))
        return original(name, *arguments, **options)

    monkeypatch.setattr(os, "open", watch)
    qdr_edge.load(path, trust=TRUST, target="ort-x86", threads=1).close()
    assert opened.count(str(path)) == 1


@pytest.mark.parametrize("change", ["grow", "shrink"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "x.qdr"
    path.write_bytes(GOOD)
    original = os.fstat

    def stat_then_change(descriptor: int) -> os.stat_result:
        status = original(descriptor)
        if change == "grow":
            with path.open("ab") as handle:
                handle.write(b"more")
        else:
            os.truncate(path, 100)
        return status

    monkeypatch.setattr(os, "fstat", stat_then_change)
    with pytest.raises(BundleError, match="changed while it was read"):
        read_bundle(path, trust=TRUST)


def test_a_writer_without_end_is_refused_or_seen_whole(tmp_path: Path) -> None:
    """A hostile process swaps two signed bundles and rubbish as fast as it can."""
    path = tmp_path / "x.qdr"
    manifest, entries = working()
    whole = [seal(manifest.model_copy(update={"model_version": v}), entries, KEY) for v in "12"]
    digests = {hashlib.sha256(data).hexdigest() for data in whole}
    stop = threading.Event()
    path.write_bytes(whole[0])

    def swap() -> None:
        while not stop.is_set():
            path.write_bytes(whole[0])
            path.write_bytes(whole[1][: len(whole[1]) // 2] + whole[0][len(whole[1]) // 2 :])
            path.write_bytes(b"rubbish")
            path.write_bytes(whole[1])

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(200):
            try:
                opened = read_bundle(path, trust=TRUST)
            except QdrError:
                continue
            assert opened.sha256 in digests
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("step", ["read", "hashes", "self-test"])
def test_the_source_of_an_installation_changed_after_any_step(tmp_path: Path, step: str) -> None:
    path = tmp_path / "x.qdr"
    digest = write_bundle(path, *working(), KEY)
    install(
        path,
        tmp_path / "device",
        trust=TRUST,
        target="ort-x86",
        threads=1,
        on_step=_at_step(step, lambda: path.write_bytes(b"evil")),
    )
    assert hashlib.sha256(slot_file(tmp_path / "device", "a").read_bytes()).hexdigest() == digest


def test_an_installation_between_a_readers_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state named slot a; by the time the slot is read, it holds a later bundle."""
    manifest, entries = working()
    device = tmp_path / "device"

    def put(version: str) -> None:
        changed = manifest.model_copy(update={"model_version": version})
        write_bundle(tmp_path / "x.qdr", changed, entries, KEY)
        install(tmp_path / "x.qdr", device, trust=TRUST, target="ort-x86", threads=1)

    put("1")
    original = slots.read_whole
    pending = ["2", "3"]

    def install_then_read(path: Path) -> bytes:
        while pending:
            put(pending.pop(0))
        return original(path)

    monkeypatch.setattr(slots, "read_whole", install_then_read)
    with qdr_edge.load(device, trust=TRUST, target="ort-x86", threads=1) as screener:
        assert screener.bundle.manifest.model_version == "3"
