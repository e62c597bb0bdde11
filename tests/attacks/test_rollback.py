"""Going back to an older bundle whose hole is known: by file, by slot, by the counter itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import qdr_edge
from qdr_edge.bundle import seal
from qdr_edge.errors import BundleError, CompatibilityError, SignatureError
from qdr_edge.install import install, roll_back
from qdr_edge.slots import State, read_state, slot_file
from tests.attacks.evil import GOOD, KEY, TRUST, refused, working
from tests.bundles import sealed


@pytest.fixture(scope="module")
def releases() -> dict[int, bytes]:
    """Bundles by security version; the network is the same."""
    manifest, entries = working()
    made = {}
    for version in (0, 1, 2):
        changes = {"security_version": version, "model_version": f"{version}.0"}
        made[version] = seal(manifest.model_copy(update=changes), entries, KEY)
    return made


@pytest.fixture
def device(tmp_path: Path, releases: dict[int, bytes]) -> Path:
    """A device on which security version 1 was installed over 0."""
    for version in (0, 1):
        _install(tmp_path, releases[version])
    return tmp_path / "device"


def _install(folder: Path, data: bytes) -> None:
    (folder / "x.qdr").write_bytes(data)
    install(folder / "x.qdr", folder / "device", trust=TRUST, target="ort-x86", threads=1)


def _version(device: Path) -> int:
    with qdr_edge.load(device, trust=TRUST, target="ort-x86", threads=1) as screener:
        return screener.bundle.manifest.security_version


def test_a_bundle_below_a_given_counter() -> None:
    refused(GOOD, "older than this device accepts", minimum_security_version=1)
    data = sealed(KEY, security_version=3)
    refused(data, "older", minimum_security_version=4, kind=CompatibilityError)


def test_installing_an_older_bundle(device: Path, releases: dict[int, bytes]) -> None:
    with pytest.raises(CompatibilityError, match="older than this device"):
        _install(device.parent, releases[0])
    assert _version(device) == 1


def test_the_other_slot_holds_an_older_bundle(device: Path) -> None:
    with pytest.raises(CompatibilityError, match="older than this device"):
        roll_back(device, trust=TRUST)
    assert _version(device) == 1


def test_the_old_bundle_copied_over_the_active_one(device: Path) -> None:
    slot_file(device, "b").write_bytes(slot_file(device, "a").read_bytes())
    with pytest.raises(SignatureError, match="not the bundle that was installed"):
        qdr_edge.load(device, trust=TRUST)


def test_a_pointer_moved_to_the_old_slot(device: Path, releases: dict[int, bytes]) -> None:
    """Whoever can write the state can point back, but not below the counter in the same file."""
    state = read_state(device)
    assert state is not None
    from qdr_edge.files import sha256_bytes

    moved = State(active="a", sha256=sha256_bytes(releases[0]), security_version=1)
    (device / "state.json").write_bytes(moved.to_bytes())
    with pytest.raises(CompatibilityError, match="older than this device"):
        qdr_edge.load(device, trust=TRUST)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"null", b"\0" * 200, b"x" * 10_000, b"[" * 5000,
     b'{"active":"c","format":"qdr-slots","security_version":1,"sha256":"","version":1}\n'],
)  # fmt: skip
def test_a_damaged_state_is_never_taken_for_a_counter_of_zero(
    device: Path, releases: dict[int, bytes], content: bytes
) -> None:
    (device / "state.json").write_bytes(content)
    for action in (
        lambda: qdr_edge.load(device, trust=TRUST),
        lambda: _install(device.parent, releases[0]),
        lambda: roll_back(device, trust=TRUST),
    ):
        with pytest.raises(BundleError, match="state cannot be used"):
            action()
    assert (device / "state.json").read_bytes() == content


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"security_version":1', b'"security_version":1.0'),
        (b'"security_version":1', b'"security_version":-1'),
        (b'"security_version":1', b'"security_version":true'),
        (b'"security_version":1', b'"security_version":0,"security_version":1'),
        (b'"security_version":1', b'"security_version":99999999999'),
        (b'"version":1', b'"version":true'),
        (b'"version":1', b'"version":2'),
        (b'"active":"b"', b'"active":"../b"'),
        (b'"active":"b"', b'"active": "b"'),
        (b"{", b'{"a":1,'),
    ],
)
def test_a_state_in_any_other_form(device: Path, old: bytes, new: bytes) -> None:
    raw = (device / "state.json").read_bytes()
    assert old in raw
    (device / "state.json").write_bytes(raw.replace(old, new, 1))
    with pytest.raises(BundleError, match="state cannot be used"):
        qdr_edge.load(device, trust=TRUST)


def test_an_unsigned_bundle_never_moves_the_counter(device: Path) -> None:
    manifest, entries = working()
    future = manifest.model_copy(update={"security_version": 2**31 - 1})
    with pytest.raises(SignatureError, match="unsigned"):
        _install(device.parent, seal(future, entries, None))
    assert _version(device) == 1


def test_a_bundle_that_fails_its_self_test_never_moves_the_counter(device: Path) -> None:
    manifest, entries = working()
    other = working(seed=3)[1]
    bad = manifest.model_copy(update={"security_version": 9})
    with pytest.raises(qdr_edge.SelfTestError):
        _install(
            device.parent,
            seal(bad, {**entries, **{k: other[k] for k in other if "onnx" in k}}, KEY),
        )
    state = read_state(device)
    assert state is not None
    assert state.security_version == 1
    assert _version(device) == 1
