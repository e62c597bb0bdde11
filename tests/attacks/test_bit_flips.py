"""Single flipped bits: all of them in manifest and signature, and everywhere else at random."""

from __future__ import annotations

import numpy as np
import pytest

from qdr_edge.bundle import read_bundle, seal
from qdr_edge.container import read_container
from qdr_edge.errors import BundleError, SignatureError
from tests.attacks.evil import GOOD, KEY, TRUST, working


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_every_bit_of_manifest_and_signature(name: str) -> None:
    entry = read_container(GOOD)[name]
    bits = range(8 * entry.offset, 8 * (entry.offset + entry.size))
    assert len(bits) == 8 * entry.size > 500
    for bit in bits:
        with pytest.raises(SignatureError, match=r"tampered|unknown key"):
            read_bundle(_flipped(GOOD, bit), trust=TRUST)


def test_a_bit_of_every_byte() -> None:
    for place in range(len(GOOD)):
        with pytest.raises(BundleError):
            read_bundle(_flipped(GOOD, 8 * place + place % 8), trust=TRUST)


@pytest.mark.parametrize("count", [500, pytest.param(30_000, marks=pytest.mark.full)])
def test_random_bits_elsewhere_in_a_bundle_that_works(count: int) -> None:
    data = seal(*working(), KEY)
    table = read_container(data)
    first = table["manifest.sig"].offset + table["manifest.sig"].size
    random = np.random.default_rng(count)
    for bit in random.choice(np.arange(8 * first, 8 * len(data)), count, replace=False):
        with pytest.raises(BundleError):
            read_bundle(_flipped(data, int(bit)), trust=TRUST)
