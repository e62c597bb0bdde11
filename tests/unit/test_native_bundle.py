"""The C bundle reader against the Python one: the same bundles are taken, and the same refused."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from qdr_edge.bundle import seal
from qdr_edge.container import read_container, write_container
from qdr_edge.errors import BundleError
from qdr_edge.files import canonical_json
from qdr_edge.keys import PublicKey, SigningKey, TrustStore
from tests.attacks import (
    evil,
    test_duplicate_names,
    test_header_lies,
    test_links,
    test_manifest_tricks,
    test_overlapping_entries,
    test_path_traversal,
    test_rollback,
    test_swapped_artefact,
    test_wrong_key,
    test_zip_bombs,
)
from tests.bundles import manifest, sealed
from tests.native_bundles import (
    BAD_BUNDLE,
    BAD_SIGNATURE,
    FIRMWARE,
    KEY,
    OK,
    ROLLBACK,
    SANITIZERS,
    TRUST,
    UNSUPPORTED,
    CBundle,
    Error,
    assert_alike,
    build_c,
    c_keys,
    c_open,
    c_view,
    compiled,
    f64,
    float_bytes,
    need_sanitizers,
    own_sources,
    rich_manifest,
    run_c,
    size_t,
    u32,
)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return compiled()


@pytest.mark.full
def test_the_corpus_and_changes_of_it_under_sanitizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of the corpus, then 20,000 changed ones, behind a signature that always holds."""
    need_sanitizers(tmp_path)
    tests = FIRMWARE / "tests" / "bundle"
    sources = [path for path in own_sources() if path.name != "signature.c"]
    sources += [tests / "fuzz_bundle.c", tests / "fuzz_main.c"]
    program = build_c(tmp_path, options=SANITIZERS, sources=sources, name="fuzz_bundle")
    corpus = {data for data, _ in _collected(monkeypatch)} | {evil.GOOD, sealed(KEY)}
    raw = {canonical_json(rich_manifest()), manifest().to_bytes()}
    for mode, contents in ((b"b", corpus), (b"m", raw), (b"c", {evil.GOOD})):
        for data in contents:
            name = mode.decode() + hashlib.sha256(data).hexdigest()
            (tmp_path / name).write_bytes(mode + data)
    files = sorted(path for path in tmp_path.iterdir() if len(path.name) == 65)
    assert len(files) > 1000
    out = run_c(program, 20_000, 1, *files)
    assert out.startswith(f"{len(files)} files, 20000 changed inputs"), out


def test_the_sample_is_what_its_script_makes() -> None:
    path = FIRMWARE / "tests" / "bundle" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.header(module.sample(), module.KEY.public.raw)
    assert text == (path.parent / "sample.h").read_text()


def test_the_vendors_files_are_the_ones_its_readme_names() -> None:
    folder = FIRMWARE / "vendor" / "monocypher"
    readme = (folder / "README.md").read_text()
    for name in ("monocypher.c", "monocypher.h", "LICENCE.txt"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert f"| `{name}` | `{digest}` |" in readme


def test_hashes_and_checksum_of_any_bytes(lib: ctypes.CDLL) -> None:
    random = Random(1)
    digest = (ctypes.c_uint8 * 32)()
    for size in [*range(300), 1000, 4096, 100_003]:
        data = random.randbytes(size)
        lib.qdr_sha256(data, size_t(size), digest)
        assert bytes(digest) == hashlib.sha256(data).digest()
        assert lib.qdr_crc32(data, size_t(size)) == zlib.crc32(data)
        state, long = ctypes.create_string_buffer(8 * 9 + 128), (ctypes.c_uint8 * 64)()
        lib.qdr_sha512_start(state)
        cut = random.randint(0, size)
        for part in (data[:cut], data[cut:]):
            lib.qdr_sha512_add(state, part, size_t(len(part)))
        lib.qdr_sha512_finish(state, long)
        assert bytes(long) == hashlib.sha512(data).digest()


def test_signatures_of_many_keys_and_lengths(lib: ctypes.CDLL) -> None:
    random = Random(2)
    for size in range(150):
        key, message = SigningKey.generate(), random.randbytes(size)
        signature = bytearray(key.sign(message))
        for _ in range(3):
            args = (bytes(signature), key.public.raw, c_view(message))
            assert lib.qdr_signature_holds(*args) == key.public.verifies(args[0], message)
            signature[random.randrange(64)] ^= 1 << random.randrange(8)


def _interesting_floats(random: Random, count: int) -> list[float]:
    found = [0.0, -0.0, math.inf, -math.inf, 5e-324, 2.2250738585072014e-308, 1e22, 1e23, 9.5e22]
    for exponent in range(-1074, 1024):
        power = math.ldexp(1.0, exponent)
        found += [power, math.nextafter(power, 0), math.nextafter(power, math.inf)]
    found += [float(f"1e{exponent}") for exponent in range(-323, 309)]
    # Ties of the last digit: quarters and halves of large whole numbers.
    found += [(2**50 + n) + q / 4 for n in range(200) for q in (1, 2, 3)]
    for _ in range(count):
        found.append(struct.unpack("<d", random.randbytes(8))[0])
        found.append(float(np.float32(random.gauss(0, 5))))
        found.append(round(random.uniform(-100, 100), random.randrange(17)))
        found.append(float(random.randrange(10**17)) * 10.0 ** random.randrange(-30, 30))
    return [value for value in found if not math.isnan(value)]


def test_a_float_has_one_text(lib: ctypes.CDLL) -> None:
    random = Random(3)
    out, value = ctypes.create_string_buffer(24), f64()
    for number in _interesting_floats(random, 8000):
        size = lib.qdr_decimal_write(f64(number), out)
        assert out.raw[:size].decode() == repr(number)
        assert lib.qdr_decimal_read(c_view(repr(number)), ctypes.byref(value))
        assert float_bytes(value.value) == float_bytes(number)


def test_text_that_is_nearly_a_float(lib: ctypes.CDLL) -> None:
    from qdr_edge.manifest import _check_number

    random, value, accepted = Random(4), f64(), 0
    pool = [repr(number) for number in _interesting_floats(random, 500)]
    texts = ["", "nan", "-nan", "1", "1.50", "1e3", " 1.0", "1_0.0", "\u0661.0", "0x1p3", "1.0\0"]
    for _ in range(20_000):
        text = list(random.choice(pool))
        for _ in range(random.randint(0, 2)):
            text[random.randrange(len(text))] = random.choice("0123456789.e+-inf _")
        if random.random() < 0.2:
            text.insert(random.randrange(len(text) + 1), random.choice("0123456789.e+-"))
        texts.append("".join(text))
    for text in texts:
        try:
            expected = _check_number(text) == text and len(text) <= 40
        except ValueError:
            expected = False
        assert lib.qdr_decimal_read(c_view(text), ctypes.byref(value)) == expected, text
        if expected:
            accepted += 1
            assert float_bytes(value.value) == float_bytes(float(text))
    assert 2000 < accepted < len(texts) - 2000


def _collected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, dict[str, Any]]]:
    """Every bundle that the attack corpus would have refused, with its options."""
    found: list[tuple[bytes, dict[str, Any]]] = []
    original = evil.refused

    def refused(data: bytes, message: str = "", **options: Any) -> BundleError:
        kept = {name: value for name, value in options.items() if name != "kind"}
        if not kept.get("allow_unsigned"):
            found.append((data, kept))
        return original(data, message, **options)

    modules = (
        test_duplicate_names, test_header_lies, test_links, test_manifest_tricks,
        test_overlapping_entries, test_path_traversal, test_rollback, test_swapped_artefact,
        test_wrong_key, test_zip_bombs,
    )  # fmt: skip
    for module in modules:
        monkeypatch.setattr(module, "refused", refused)
    for module in modules:
        for name, function in sorted(vars(module).items()):
            if name.startswith("test_") and callable(function):
                _call(function)
    return found


def _call(function: Callable[..., None]) -> None:
    """Run a test with each of its parameters; one that wants a fixture of its own is left out."""
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[:2]
            names = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
            rows = [(v,) if len(names) == 1 else v for v in values]
            sets = [{**old, **dict(zip(names, row, strict=True))} for old in sets for row in rows]
    wanted = set(function.__code__.co_varnames[: function.__code__.co_argcount])
    for chosen in sets:
        if wanted <= set(chosen):
            function(**chosen)


def test_the_attack_corpus_is_refused_for_the_same_reasons(
    lib: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _collected(monkeypatch)
    assert len(corpus) > 2500, "the corpus was not found"
    statuses = set()
    for data, options in corpus:
        trust = options.get("trust", TRUST)
        minimum = options.get("minimum_security_version", 0)
        status = assert_alike(lib, data, trust, minimum)
        assert status != OK
        statuses.add(status)
    assert statuses == {BAD_BUNDLE, BAD_SIGNATURE, ROLLBACK, UNSUPPORTED}


def test_a_bundle_over_the_cap(lib: ctypes.CDLL) -> None:
    status = lib.qdr_bundle_open(
        ctypes.byref(CBundle()), b"PK\3\4", size_t((512 << 20) + 1), ctypes.byref(c_keys(TRUST)),
        u32(0), None,
    )  # fmt: skip
    assert status == BAD_BUNDLE


def test_good_bundles_are_read_alike(lib: ctypes.CDLL) -> None:
    assert assert_alike(lib, evil.GOOD) == OK
    assert assert_alike(lib, sealed(KEY, security_version=5), minimum=5) == OK
    assert assert_alike(lib, sealed(KEY, security_version=5), minimum=6) == ROLLBACK
    many = TrustStore.of(*(SigningKey.generate().public for _ in range(5)), KEY.public)
    assert assert_alike(lib, evil.GOOD, many) == OK
    assert assert_alike(lib, seal(*evil.working(), KEY)) == OK
    older = json.loads(evil.contents()["manifest.json"]) | {"schema_version": 1}
    older["labels"] = {k: v for k, v in older["labels"].items() if k != "exclusive"}
    assert assert_alike(lib, evil.signed(older)) == OK


@pytest.mark.parametrize("count", [500, pytest.param(30_000, marks=pytest.mark.full)])
def test_random_bits_of_a_bundle_that_works(lib: ctypes.CDLL, count: int) -> None:
    """Bits behind the signature; the C test flips every bit of a smaller bundle."""
    data = seal(*evil.working(), KEY)
    table = read_container(data)
    first = table["manifest.sig"].offset + table["manifest.sig"].size
    random = np.random.default_rng(5)
    buffer = ctypes.create_string_buffer(data, len(data))
    bundle, keys = CBundle(), c_keys(TRUST)
    for bit in random.choice(np.arange(8 * first, 8 * len(data)), count, replace=False).tolist():
        old = buffer[bit // 8]
        buffer[bit // 8] = bytes([old[0] ^ 1 << bit % 8])
        status = lib.qdr_bundle_open(
            ctypes.byref(bundle), buffer, size_t(len(data)), ctypes.byref(keys), u32(0), None
        )
        buffer[bit // 8] = old
        assert status in (BAD_BUNDLE, BAD_SIGNATURE), bit
    assert c_open(lib, buffer.raw)[0] == OK


SMALL_ORDER = [
    "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "00" * 32, "00" * 31 + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]  # fmt: skip


def test_signatures_under_keys_of_small_order(lib: ctypes.CDLL) -> None:
    """A trusted key decides: nobody else can make a signature on which the two would part.

    Monocypher multiplies by the cofactor and OpenSSL does not, so that under a key of small order
    C takes more than Python. Whoever trusts such a key accepts forgeries by either.
    """
    parted = 0
    for key in SMALL_ORDER:
        for point in SMALL_ORDER:
            signature = bytes.fromhex(point) + bytes(32)
            args = (signature, bytes.fromhex(key), c_view(b"message"))
            mine = lib.qdr_signature_holds(*args)
            theirs = PublicKey(bytes.fromhex(key)).verifies(signature, b"message")
            assert mine or not theirs
            parted += mine != theirs
    assert parted > 0


def _container_status(lib: ctypes.CDLL, data: bytes) -> int:
    where, space = Error(), ctypes.create_string_buffer(64)
    status: int = lib.qdr_container_check(space, data, size_t(len(data)), ctypes.byref(where))
    return status


def test_containers_without_a_signature_in_the_way(
    lib: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus, and names of every kind, by the container's rules alone."""
    random, accepted = Random(11), 0
    samples = [data for data, _ in _collected(monkeypatch)]
    names = [*test_path_traversal.NAMES, b"n" * 128, b"n" * 129, b"_", b"a/b/c", b"a/-b", b"a/_b"]
    for _ in range(3000):
        names.append(
            bytes(random.choice(b"aZ09_.-/ \\\x00\xe9~") for _ in range(random.randint(0, 6)))
        )
    for name in names:
        samples.append(evil.build([evil.Entry(b"manifest.json", b"{}"), evil.Entry(name, b"x")]))
    for _ in range(500):
        order = [evil.Entry(bytes(random.choice(b"ab.-_Z") for _ in range(2))) for _ in range(3)]
        samples.append(evil.build(sorted(order, key=lambda entry: entry.name)))
        samples.append(evil.build(order))
    for data in samples:
        try:
            read_container(data)
            expected = OK
        except BundleError:
            expected = BAD_BUNDLE
        assert _container_status(lib, data) == expected, data[-200:]
        accepted += expected == OK
    assert 500 < accepted < len(samples) - 500


def test_containers_changed_at_random_are_read_alike(lib: ctypes.CDLL) -> None:
    random = Random(9)
    good = evil.GOOD
    end = len(good) - 22
    table = good.index(b"PK\1\2")
    for _ in range(6000):
        changed = bytearray(good)
        for _ in range(random.randint(1, 3)):
            place = random.choice([random.randrange(len(good)), random.randrange(table, len(good))])
            place = random.randrange(end, len(good)) if random.random() < 0.2 else place
            changed[place] = random.choice([0, 1, 255, random.randrange(256)])
        assert_alike(lib, bytes(changed))


def test_entries_put_together_at_random(lib: ctypes.CDLL) -> None:
    """Valid containers under a valid signature whose lists, sizes and hashes may be wrong."""
    random = Random(10)
    seen = set()
    for _ in range(400):
        value, files = evil.manifest_of(), dict(evil.contents())
        for name in ("manifest.json", "manifest.sig"):
            del files[name]
        for _ in range(random.randint(0, 2)):
            name = random.choice([*files, "a", "zz/y", "Z"])
            change = random.randrange(5)
            if change == 4 and name in value["entries"]:
                value["entries"][name]["size"] += 1
            elif change == 0:
                files[name] = random.randbytes(random.randrange(5))
            elif change == 1 and len(files) > 1:
                files.pop(name, None)
            elif change == 2:
                value["entries"].pop(name, None)
            else:
                value["entries"][name] = evil.listing({name: files.get(name, b"?")})[name]
        seen.add(assert_alike(lib, evil.signed(value, files)))
    assert seen == {OK, BAD_BUNDLE, BAD_SIGNATURE}


def test_an_unsigned_bundle_is_never_opened(lib: ctypes.CDLL) -> None:
    assert assert_alike(lib, sealed(None)) == BAD_SIGNATURE
    entries = {n: c for n, c in evil.contents().items() if n != "manifest.sig"}
    assert assert_alike(lib, write_container(entries)) == BAD_SIGNATURE
