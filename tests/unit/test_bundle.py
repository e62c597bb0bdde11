"""Sealing and opening: the same bytes every time, the same order of checks every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdr_edge.bundle import inspect_bundle, read_bundle, seal, write_bundle
from qdr_edge.errors import BundleError, CompatibilityError, OutputError, SignatureError
from qdr_edge.files import sha256_bytes, sha256_file
from qdr_edge.keys import SigningKey, TrustStore
from tests.bundles import ORT, manifest, sealed

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)


def test_a_bundle_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.qdr"
    digest = write_bundle(path, manifest(), {ORT: b"model", "NOTICE": b"n"}, KEY)
    bundle = read_bundle(path, trust=TRUST)
    assert digest == bundle.sha256 == sha256_file(path)
    assert dict(bundle.entries) == {ORT: b"model", "NOTICE": b"n"}
    assert bundle.key_id == bundle.manifest.key_id == KEY.key_id
    assert bundle.manifest.entries[ORT].sha256 == sha256_bytes(b"model")
    assert bundle.path == path
    assert bundle.artefact("ort-x86").entry == ORT


def test_the_same_input_gives_the_same_bytes() -> None:
    entries = {ORT: b"model", "NOTICE": b"n", "a": b""}
    again = dict(reversed(entries.items()))
    assert seal(manifest(), entries, KEY) == seal(manifest(), again, KEY)


def test_steps_are_reported_in_the_fixed_order() -> None:
    steps: list[str] = []
    read_bundle(sealed(KEY), trust=TRUST, on_step=steps.append)
    assert [step.split(" ")[0].rstrip(":") for step in steps] == [
        "read",
        "container",
        "signature",
        "versions",
        "hashes",
    ]


def test_an_unsigned_bundle_opens_only_on_request() -> None:
    data = sealed(None)
    with pytest.raises(SignatureError, match="unsigned"):
        read_bundle(data, trust=TRUST)
    assert read_bundle(data, trust=TRUST, allow_unsigned=True).key_id is None


def test_an_unknown_signer_is_refused_even_when_unsigned_is_allowed() -> None:
    with pytest.raises(SignatureError, match=f"unknown key {KEY.key_id}"):
        read_bundle(sealed(KEY), trust=TrustStore.of(), allow_unsigned=True)


def test_the_local_trust_store_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdr_edge.keys import trust

    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path))
    with pytest.raises(SignatureError, match="unknown key"):
        read_bundle(sealed(KEY))
    trust(KEY.public)
    assert read_bundle(sealed(KEY)).key_id == KEY.key_id


def test_rolling_back_is_refused() -> None:
    data = sealed(KEY, security_version=3)
    assert read_bundle(data, trust=TRUST, minimum_security_version=3)
    with pytest.raises(CompatibilityError, match="older than this device"):
        read_bundle(data, trust=TRUST, minimum_security_version=4)


def test_a_target_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(CompatibilityError, match="expected one of ort-x86"):
        read_bundle(sealed(KEY), trust=TRUST).artefact("openvino")


def test_sealing_refuses_what_could_not_be_opened() -> None:
    with pytest.raises(BundleError, match="not listed"):
        seal(manifest(), {"NOTICE": b""}, KEY)
    with pytest.raises(BundleError, match="written by the sealer"):
        seal(manifest(), {ORT: b"", "manifest.sig": b""}, KEY)
    with pytest.raises(BundleError, match="not allowed"):
        seal(manifest(), {ORT: b"", "../x": b""}, KEY)


def test_a_failed_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    path = tmp_path / "x.qdr"
    write_bundle(path, manifest(), {ORT: b"old"}, KEY)
    with pytest.raises(BundleError):
        write_bundle(path, manifest(), {"NOTICE": b"new"}, KEY)
    with pytest.raises(OutputError):
        write_bundle(tmp_path / "missing" / "x.qdr", manifest(), {ORT: b"new"}, KEY)
    assert read_bundle(path, trust=TRUST).entries[ORT] == b"old"


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "empty"])
def test_a_path_that_holds_no_bundle(tmp_path: Path, kind: str) -> None:
    import os

    path = tmp_path / "x.qdr"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    with pytest.raises(BundleError, match=r"x\.qdr: ") as caught:
        read_bundle(path, trust=TRUST)
    assert type(caught.value) is BundleError


def test_inspection_shows_what_it_does_not_trust() -> None:
    assert inspect_bundle(sealed(KEY), trust=TRUST).signature == f"valid, key {KEY.key_id}"
    assert "unknown key" in inspect_bundle(sealed(KEY), trust=TrustStore.of()).signature
    inspection = inspect_bundle(sealed(None), trust=TRUST)
    assert "unsigned" in inspection.signature
    assert inspection.manifest.bundle_id == "test-fundus"
    assert inspection.sizes[ORT] == 100
