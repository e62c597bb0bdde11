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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import qdr_edge
from qdr_edge.bundle import read_bundle, write_bundle
from qdr_edge.errors import BundleError
from qdr_edge.files import sha256_file
from qdr_edge.install import install
from qdr_edge.keys import SigningKey
from qdr_edge.slots import read_state
from tests import faults
from tests.attacks.evil import KEY, TRUST, working
from tests.forgetful import Call, ForgetfulDisk, Tree, crash_states

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


def _calls(root: Path) -> list[Call]:
    """What `_run` recorded; written by this test's own child, a moment ago."""
    calls: list[Call] = pickle.loads((root / "calls").read_bytes())  # noqa: S301
    return calls


def _fresh(root: Path) -> Path:
    """The folder that the calls name, as it was before them."""
    shutil.rmtree(root / "counted")
    return Path(shutil.copytree(root / "template", root / "counted"))


def _materialise(folder: Path, state: Tree) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for path, content in state.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    (folder / "key.pem").chmod(0o600)


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


def test_a_secret_is_whole_or_absent(tmp_path: Path) -> None:
    case = Case(tmp_path, "key", None, "")
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "key.pem").write_bytes(b"")
    for entry in _run(case, faults.WAYS):
        made = tmp_path / entry["folder"] / "made.pem"
        assert entry["status"] in (0, -9, faults.REFUSED), entry
        if made.exists():
            assert made.stat().st_mode & 0o777 == 0o600
            SigningKey.load(made)
        else:
            faults.key_job(made.parent)
    whole = set()
    for state in crash_states(_fresh(tmp_path), _calls(tmp_path)):
        content = state.get(str(tmp_path / "counted" / "made.pem"))
        assert content is None or content.endswith(b"-----END PRIVATE KEY-----\n")
        whole.add(content)
    assert len(whole) == 2


@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_forgets_what_was_not_synced(tmp_path: Path, name: str) -> None:
    case = _case(tmp_path, name)
    _run(case, ())
    calls = _calls(tmp_path)
    states = crash_states(_fresh(tmp_path), calls)
    assert len(states) >= 5
    seen = set()
    for state in states:
        _materialise(tmp_path / "counted", state)
        seen.add(_found(case, tmp_path / "counted"))
    assert seen == {case.old, case.new}


@pytest.mark.parametrize(("names", "job"), [(1, "roll_back"), (2, "install")])
def test_a_cut_before_a_name_is_safe_and_then_another_job(
    tmp_path: Path, names: int, job: str
) -> None:
    """The slot's or the state's new name is seen but not safe: whoever builds on it syncs it."""
    case = _case(tmp_path, "install")
    _run(case, ())
    calls = _calls(tmp_path)
    renames = [at for at, call in enumerate(calls) if call.name == "replace"]
    calls = calls[: renames[names - 1] + 1]
    disk = ForgetfulDisk.of(_fresh(tmp_path))
    for call in calls:
        disk.play(call)
    second = replace(case, root=tmp_path / "second", job=job)
    _materialise(tmp_path / "counted", {path: file.written for path, file in disk.names.items()})
    shutil.copytree(tmp_path / "counted", second.root / "template")
    (second.root / "template" / "oldest").replace(second.root / "template" / "new")
    _run(second, ())
    old, new = str(second.root / "counted"), str(tmp_path / "counted")
    after = [
        replace(call, path=call.path.replace(old, new), target=call.target.replace(old, new))
        for call in _calls(second.root)
    ]
    last = sha256_file(second.root / "template" / "new") if job == "install" else case.new
    seen = set()
    for state in crash_states(_fresh(tmp_path), calls + after):
        _materialise(tmp_path / "counted", state)
        seen.add(_found(case, tmp_path / "counted"))
    assert seen == {case.old, case.new, last}


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
