"""Keys: made once, kept private, found by their id."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from qdr_edge.errors import OutputError, SignatureError
from qdr_edge.keys import PublicKey, SigningKey, TrustStore, development_key, home, key_id_of, trust


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))


def test_a_key_survives_its_file(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "k" / "key.pem")
    again = SigningKey.load(tmp_path / "k" / "key.pem")
    assert again.key_id == key.key_id == key_id_of(key.public.raw)
    assert len(key.key_id) == 16
    assert again.sign(b"m") == key.sign(b"m")
    assert stat.S_IMODE((tmp_path / "k" / "key.pem").stat().st_mode) == 0o600


def test_an_existing_key_is_never_replaced(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "key.pem")
    with pytest.raises(OutputError, match="exists"):
        SigningKey.generate().save(tmp_path / "key.pem")
    assert SigningKey.load(tmp_path / "key.pem").key_id == key.key_id
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_signatures_hold_for_one_message_and_one_key() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"message")
    assert key.public.verifies(signature, b"message")
    assert not key.public.verifies(signature, b"massage")
    assert not other.public.verifies(signature, b"message")
    assert not key.public.verifies(b"\0" * 64, b"message")


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    SigningKey.generate().save(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(SignatureError, match="chmod 600"):
        SigningKey.load(tmp_path / "key.pem")


def test_files_that_are_no_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    foreign = X25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    public = foreign.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = foreign.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"hello", public, private, b"x" * 20_000):
        path.write_bytes(content)
        path.chmod(0o600)
        for load in (PublicKey.load, SigningKey.load):
            with pytest.raises(SignatureError):
                load(path)
    with pytest.raises(SignatureError, match="cannot read key"):
        PublicKey.load(tmp_path / "missing.pem")


def test_the_trust_store_is_a_folder_of_public_keys(tmp_path: Path) -> None:
    assert TrustStore.from_folder(tmp_path / "missing").keys == {}
    key, other = SigningKey.generate().public, SigningKey.generate().public
    path = trust(key)
    assert PublicKey.load(path) == key
    store = TrustStore.local()
    assert store.get(key.key_id) == key
    assert store.get(other.key_id) is None
    assert TrustStore.of(key, other).keys.keys() == {key.key_id, other.key_id}


def test_the_development_key_is_made_once_and_trusted_here() -> None:
    first = development_key()
    assert first.created
    assert first.path.is_relative_to(home())
    assert TrustStore.local().get(first.key.key_id) == first.key.public
    second = development_key()
    assert not second.created
    assert second.key.key_id == first.key.key_id


def test_a_damaged_development_key_is_reported_not_replaced() -> None:
    path = development_key().path
    path.write_bytes(b"damaged")
    with pytest.raises(SignatureError, match="not an unencrypted"):
        development_key()
    assert path.read_bytes() == b"damaged"


def test_a_home_that_cannot_be_made_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match="QDR_EDGE_HOME"):
        development_key()
