"""Signatures that are missing, foreign, moved, cut, or made with the wrong key."""

from __future__ import annotations

import pytest

from qdr_edge.bundle import read_bundle
from qdr_edge.container import write_container
from qdr_edge.errors import SignatureError
from qdr_edge.keys import PublicKey, SigningKey, TrustStore
from tests.attacks.evil import GOOD, KEY, contents, manifest_of, refused, signed
from tests.bundles import sealed

STRANGER = SigningKey.generate()
# The order of Ed25519's group: S + L is the other form of S that a lax verifier accepts.
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def _refused(data: bytes, message: str, **options: object) -> None:
    assert refused(data, message, kind=SignatureError, **options).exit_code == 8


def _with_signature(signature: bytes) -> bytes:
    return write_container({**contents(), "manifest.sig": signature})


def test_a_strangers_bundle() -> None:
    _refused(sealed(STRANGER), f"unknown key {STRANGER.key_id}")
    _refused(sealed(STRANGER), "unknown key", allow_unsigned=True)
    _refused(GOOD, "unknown key", trust=TrustStore.of(STRANGER.public))
    _refused(GOOD, "unknown key", trust=TrustStore.of())


def test_a_strangers_signature_under_a_trusted_keys_name() -> None:
    raw = contents()["manifest.json"]
    _refused(_with_signature(bytes.fromhex(KEY.key_id) + STRANGER.sign(raw)), "tampered")


def test_a_manifest_that_names_another_key_than_the_signature() -> None:
    for key_id in (STRANGER.key_id, ""):
        _refused(signed({**manifest_of(), "key_id": key_id}), "the manifest names key")


def test_a_removed_signature() -> None:
    entries = contents()
    del entries["manifest.sig"]
    _refused(write_container(entries), "unsigned")
    _refused(write_container(entries), "names key", allow_unsigned=True)


def test_an_unsigned_bundle_without_the_word() -> None:
    _refused(sealed(None), "unsigned")


@pytest.mark.parametrize("size", [0, 1, 8, 64, 71, 73, 144])
def test_a_signature_of_another_length(size: int) -> None:
    good = contents()["manifest.sig"]
    _refused(_with_signature((good * 2)[:size]), f"signature of {size} bytes")


def test_another_bundles_signature() -> None:
    other = contents(sealed(KEY, model_version="2.0.0"))["manifest.sig"]
    _refused(_with_signature(other), "tampered: the manifest")


def test_signatures_that_lax_verifiers_accept() -> None:
    key_id, signature = contents()["manifest.sig"][:8], contents()["manifest.sig"][8:]
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    _refused(_with_signature(key_id + signature[:32] + s.to_bytes(32, "little")), "tampered")
    neutral = b"\1" + bytes(31)
    for forged in (bytes(64), neutral + bytes(32), b"\xff" * 64):
        _refused(_with_signature(key_id + forged), "tampered")


def test_a_key_of_low_order_vouches_for_nothing_of_ours() -> None:
    """Whoever trusts such a key accepts forgeries; a bundle of another signer stays foreign."""
    weak = PublicKey(b"\1" + bytes(31))
    _refused(GOOD, "unknown key", trust=TrustStore.of(weak))


def test_the_right_key_among_many() -> None:
    many = TrustStore.of(*(SigningKey.generate().public for _ in range(20)), KEY.public)
    assert read_bundle(GOOD, trust=many).key_id == KEY.key_id
