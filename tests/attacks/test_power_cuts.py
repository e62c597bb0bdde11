"""Power cuts and failing disks at every call of seal and install: the old or the new is left.

Three models of what a cut leaves: a process killed at each call, which keeps the page cache; calls
refused by a full or failing disk; and a disk that forgets all that was not synced.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import qdr_edge
from qdr_edge.bundle import read_bundle, write_bundle
from qdr_edge.errors import BundleError
from qdr_edge.files import sha256_file
from qdr_edge.install import install
from qdr_edge.slots import read_state
from tests import faults
from tests.attacks.evil import KEY, TRUST, working
from tests.forgetful import Call, ForgetfulDisk, crash_states

ROOT = Path(__file__).parents[2]
JOBS = ["seal", "install", "first", "roll_back"]


@dataclass(frozen=True)
class Case:
    """A job's template and what it may leave: digests of the bundle before and after."""

    root: Path
    job: str
    old: str | None
    new: str


def _case(root: Path, name: str) -> Case:
    manifest, entries = working()
    # Two golden vectors keep what is measured a hundred times small; one runs the network.
    keep = (manifest.golden[0], manifest.golden[-1])
    images = {vector.image for vector in manifest.golden}
    entries = {n: c for n, c in entries.items() if n not in images or n in {v.image for v in keep}}
    template = root / "template"
    template.mkdir(parents=True)
    KEY.save(template / "key.pem")
    digests = {}
    for version in ("oldest", "old", "new"):
        changes = {"model_version": version, "golden": keep}
        digests[version] = write_bundle(
            template / version, manifest.model_copy(update=changes), entries, KEY
        )
    if name == "seal":
        (template / "x.qdr").write_bytes((template / "old").read_bytes())
    elif name != "first":
        for version in ("oldest", "old"):
            options = {"trust": TRUST, "target": "ort-x86", "threads": 1}
            install(template / version, template / "device", **options)
    job = "install" if name == "first" else name
    after = digests["oldest" if name == "roll_back" else "new"]
    return Case(root, job, None if name == "first" else digests["old"], after)


def _run(case: Case, ways: Sequence[str]) -> list[dict[str, Any]]:
    """What `tests.faults` did; in a process of its own, which has no threads to fork."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.faults", case.job, str(case.root), *ways],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    done: list[dict[str, Any]] = json.loads(child.stdout)
    return done


def _found(case: Case, folder: Path) -> str | None:
    """The digest of the bundle that is there, which must be whole and work."""
    if case.job == "seal":
        return read_bundle(folder / "x.qdr", trust=TRUST).sha256
    if case.old is None and read_state(folder / "device") is None:
        with pytest.raises(BundleError, match=r"no bundle is installed|cannot read"):
            qdr_edge.load(folder / "device", trust=TRUST)
        return None
    with qdr_edge.load(folder / "device", trust=TRUST, target="ort-x86", threads=1) as screener:
        return screener.bundle.sha256


def _retry(case: Case, folder: Path, found: str | None) -> None:
    """Once more, undisturbed: the new one stands; going back is done only once."""
    if case.job == "roll_back" and found == case.new:
        return
    faults.JOBS[case.job](folder)
    assert _found(case, folder) == case.new


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("seal", faults.WAYS),
        ("install", ("kill",)),
        pytest.param("install", faults.WAYS[1:], marks=pytest.mark.full),
        pytest.param("first", faults.WAYS, marks=pytest.mark.full),
        pytest.param("roll_back", faults.WAYS, marks=pytest.mark.full),
    ],
)
def test_every_call_cut_or_refused(tmp_path: Path, name: str, ways: tuple[str, ...]) -> None:
    case = _case(tmp_path, name)
    done = _run(case, ways)
    calls = {entry["call"] for entry in done}
    assert {"open", "write", "fsync", "replace"} <= calls
    seen = set()
    for entry in done:
        folder = tmp_path / entry["folder"]
        if entry["way"] in (faults.KILL, faults.TORN):
            assert entry["status"] == -9, entry
        else:
            # Refused with one clear error, or a call whose failure changes nothing.
            assert entry["status"] in (0, faults.REFUSED), entry
        found = _found(case, folder)
        assert found in (case.old, case.new), entry
        if entry["status"] == 0:
            assert found == case.new, entry
        seen.add(found)
        _retry(case, folder, found)
    assert seen == {case.old, case.new}


@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_forgets_what_was_not_synced(tmp_path: Path, name: str) -> None:
    case = _case(tmp_path, name)
    _run(case, ())
    # Written by the child above, a moment ago.
    calls = pickle.loads((tmp_path / "calls").read_bytes())  # noqa: S301
    shutil.rmtree(tmp_path / "counted")
    shutil.copytree(tmp_path / "template", tmp_path / "counted")
    states = crash_states(tmp_path / "counted", calls)
    assert len(states) >= 5
    seen = set()
    for state in states:
        shutil.rmtree(tmp_path / "counted")
        (tmp_path / "counted").mkdir()
        for path, content in state.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)
        (tmp_path / "counted" / "key.pem").chmod(0o600)
        seen.add(_found(case, tmp_path / "counted"))
    assert seen == {case.old, case.new}


@pytest.mark.parametrize("skipped", ["file", "folder"])
def test_the_forgetful_disk_notices_a_sync_that_is_missing(tmp_path: Path, skipped: str) -> None:
    (tmp_path / "x").write_bytes(b"old")
    path, temporary = str(tmp_path / "x"), str(tmp_path / ".x.1")
    sync = Call("fsync", temporary), Call("fsync", str(tmp_path))
    calls = [Call("open", temporary), Call("write", temporary, b"new!"), sync[0]]
    calls += [Call("replace", temporary, target=path), sync[1]]

    def left(calls: list[Call]) -> set[bytes]:
        return {state[path] for state in crash_states(tmp_path, calls)}

    assert left(calls) == {b"old", b"new!"}
    disk = ForgetfulDisk.of(tmp_path)
    for call in calls:
        disk.play(call)
    assert {state[path] for state in disk.states()} == {b"new!"}
    calls.remove(sync[0] if skipped == "file" else sync[1])
    disk = ForgetfulDisk.of(tmp_path)
    for call in calls:
        disk.play(call)
    after = {state[path] for state in disk.states()}
    assert after == ({b"", b"ne", b"new!"} if skipped == "file" else {b"old", b"new!"})


def test_a_retry_clears_what_a_cut_left(tmp_path: Path) -> None:
    case = _case(tmp_path, "install")
    device = tmp_path / "template" / "device"
    for litter in (device / "a" / ".bundle.qdr.x1", device / ".state.json.x2"):
        litter.write_bytes(b"half")
    faults.install_job(tmp_path / "template")
    assert _found(case, tmp_path / "template") == case.new
    names = sorted(path.relative_to(device).as_posix() for path in device.rglob("*"))
    assert names == [".lock", "a", "a/bundle.qdr", "b", "b/bundle.qdr", "state.json"]
    assert sha256_file(device / "a" / "bundle.qdr") == case.new
