"""Two slots: what is active, what may come back, and what a device says of itself."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import qdr_edge
from qdr_edge.bundle import write_bundle
from qdr_edge.commands.install import install as install_command
from qdr_edge.errors import BundleError, CompatibilityError, OutputError, SignatureError
from qdr_edge.install import Installed, install, roll_back, status
from qdr_edge.keys import SigningKey, TrustStore, trust
from qdr_edge.manifest import Manifest
from qdr_edge.slots import read_state, slot_file
from tests.bundles import fundus, working_entries

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)
Put = Callable[..., Installed]


@pytest.fixture(scope="module")
def parts() -> tuple[Manifest, dict[str, bytes]]:
    return working_entries()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "device"


@pytest.fixture
def put(parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path, device: Path) -> Put:
    def put(name: str, security_version: int = 0) -> Installed:
        changes = {"model_version": name, "security_version": security_version}
        path = tmp_path / f"{name}.qdr"
        write_bundle(path, parts[0].model_copy(update=changes), parts[1], KEY)
        return install(path, device, trust=TRUST, target="ort-x86", threads=1)

    return put


def _active(device: Path) -> str:
    with qdr_edge.load(device, trust=TRUST, target="ort-x86", threads=1) as screener:
        assert screener.screen(fundus()).outcome in ("POSITIVE", "NEGATIVE")
        return screener.bundle.manifest.model_version


def test_slots_take_turns_and_the_counter_only_rises(put: Put, device: Path) -> None:
    seen = []
    for name, version in (("1", 0), ("2", 4), ("3", 4)):
        state = put(name, version).state
        assert _active(device) == name
        seen.append((state.active, state.security_version))
    assert seen == [("a", 0), ("b", 4), ("a", 4)]
    assert read_state(device) == state


def test_going_back_and_forth_under_one_security_version(put: Put, device: Path) -> None:
    put("1", 2)
    put("2", 2)
    for expected in ("1", "2", "1"):
        roll_back(device, trust=TRUST, target="ort-x86", threads=1)
        assert _active(device) == expected
    put("3", 3)
    with pytest.raises(CompatibilityError, match="older than this device"):
        roll_back(device, trust=TRUST)
    assert _active(device) == "3"


def test_going_back_needs_something_to_go_back_to(put: Put, device: Path) -> None:
    with pytest.raises(BundleError, match="no bundle is installed"):
        roll_back(device, trust=TRUST)
    put("1")
    with pytest.raises(BundleError, match="no bundle to go back to"):
        roll_back(device, trust=TRUST)


def test_installing_the_active_bundle_again_keeps_the_other_slot(put: Put, device: Path) -> None:
    put("1")
    state = put("2").state
    assert put("2").state == state
    roll_back(device, trust=TRUST, target="ort-x86", threads=1)
    assert _active(device) == "1"


def test_a_damaged_active_slot_is_healed_by_installing_or_going_back(
    put: Put, device: Path
) -> None:
    put("1")
    active = put("2").state.active
    slot_file(device, active).write_bytes(b"damaged")
    with pytest.raises(SignatureError, match="not the bundle that was installed"):
        qdr_edge.load(device, trust=TRUST)
    put("2")
    assert _active(device) == "2"
    slot_file(device, "a" if active == "b" else "b").unlink()
    with pytest.raises(BundleError, match="cannot read bundle"):
        qdr_edge.load(device, trust=TRUST)


def test_a_refused_bundle_changes_nothing(put: Put, device: Path, tmp_path: Path) -> None:
    put("1")
    before = {p: p.read_bytes() for p in device.rglob("*") if p.is_file()}
    (tmp_path / "bad.qdr").write_bytes((tmp_path / "1.qdr").read_bytes()[:-1])
    for trusted in (TRUST, TrustStore.of()):
        with pytest.raises(BundleError):
            install(tmp_path / "bad.qdr", device, trust=trusted)
    with pytest.raises(SignatureError, match="unknown key"):
        install(tmp_path / "1.qdr", device, trust=TrustStore.of())
    assert {p: p.read_bytes() for p in device.rglob("*") if p.is_file()} == before


def test_one_installation_at_a_time(put: Put, device: Path) -> None:
    put("1")
    descriptor = os.open(device / ".lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another installation is at work"):
            put("2")
        assert _active(device) == "1"
    finally:
        os.close(descriptor)
    put("2")


def test_a_folder_that_cannot_be_used(put: Put, device: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(b"")
    with pytest.raises(OutputError, match="--root"):
        put("1")


def test_the_state_of_an_empty_device(device: Path) -> None:
    report = status(device, trust=TRUST)
    assert (report.active, report.security_version) == (None, 0)
    assert [slot.problem for slot in report.slots] == ["empty", "empty"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    trust(KEY.public)
    app = typer.Typer()
    app.command()(install_command)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return run


def test_the_command_installs_goes_back_and_reports(
    run: Callable[..., tuple[int, str]],
    put: Put,
    device: Path,
    tmp_path: Path,
) -> None:
    put("1")
    put("2")
    code, out = run(tmp_path / "1.qdr", "--root", device, "--target", "ort-x86", "--threads", 1)
    assert code == 0
    for step in ("signature:", "hashes:", "self-test:", "written: slot a", "active: slot a"):
        assert step in out
    assert "SYNTHETIC" in out
    code, out = run("--root", device, "--rollback", "--target", "ort-x86", "--threads", 1)
    assert (code, _active(device)) == (0, "2")
    assert "active: slot b" in out
    code, out = run("--root", device, "--status")
    assert code == 0
    assert "slot b" in out
    assert f"valid, key {KEY.key_id}" in out
    code, out = run("--root", device, "--status", "--json")
    document = json.loads(out)
    assert document["active"] == "b"
    assert [slot["model_version"] for slot in document["slots"]] == ["1", "2"]


def test_the_status_names_what_is_wrong_with_a_slot(
    run: Callable[..., tuple[int, str]], put: Put, device: Path
) -> None:
    put("1")
    put("2")
    slot_file(device, "b").write_bytes(slot_file(device, "a").read_bytes())
    slot_file(device, "a").write_bytes(b"rubbish")
    _, out = run("--root", device, "--status")
    assert "not the bundle that was installed" in out
    assert "not a bundle" in out


@pytest.mark.parametrize("arguments", [[], ["x.qdr", "--rollback"], ["--rollback", "--status"]])
def test_exactly_one_thing_is_asked_for(
    run: Callable[..., tuple[int, str]], device: Path, arguments: list[str]
) -> None:
    code, out = run(*arguments, "--root", device)
    assert code == 2
    assert "--rollback" in out
    assert not device.exists()
