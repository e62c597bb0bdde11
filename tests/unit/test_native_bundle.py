"""The C bundle reader against the Python one: the same bundles, fields, refusals and decisions."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from qdr_edge.bundle import read_bundle, seal
from qdr_edge.container import extract, read_container, write_container
from qdr_edge.decision import DecisionRule, aggregate, decide
from qdr_edge.errors import BundleError, CompatibilityError, QdrError, SignatureError
from qdr_edge.files import canonical_json
from qdr_edge.gate import FEATURES, GateLimits, default_limits
from qdr_edge.intake import Intake
from qdr_edge.keys import PublicKey, SigningKey, TrustStore
from qdr_edge.labels import LabelSet
from qdr_edge.manifest import Manifest
from qdr_edge.preprocess import PreprocessSpec
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
from tests.bundles import manifest, sealed, working_entries
from tests.fuzz.mutate import mutate_json

FIRMWARE = Path(__file__).parents[2] / "export" / "firmware"
KEY, TRUST = evil.KEY, evil.TRUST
OK, BAD_ARGUMENT, BAD_BUNDLE, BAD_SIGNATURE, ROLLBACK, UNSUPPORTED = range(6)
OUTCOMES = ("", "POSITIVE", "NEGATIVE", "UNGRADABLE", "INVALID_INPUT", "FAULT")
STRICT = [
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    *("-Wpedantic", "-Wstrict-prototypes", "-Wcast-qual", "-O2"),
]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
size_t, u32, f64 = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_double


class View(ctypes.Structure):
    """qdr_view and qdr_text."""

    _fields_ = [("bytes", ctypes.c_void_p), ("size", size_t)]

    def raw(self) -> bytes:
        return ctypes.string_at(self.bytes, self.size) if self.size else b""

    def text(self) -> str:
        value: str = json.loads(b'"' + self.raw() + b'"')
        return value


class Error(ctypes.Structure):
    _fields_ = [("what", ctypes.c_char_p), ("offset", size_t)]


class Label(ctypes.Structure):
    _fields_ = [("code", View), ("name", View), ("threshold", f64)]


class Artefact(ctypes.Structure):
    _fields_ = [
        *((name, View) for name in ("target", "entry", "backend", "runtime", "requires")),
        ("options", View), ("opset", u32), ("tolerance_steps", u32), ("logit_tolerance", f64),
    ]  # fmt: skip


class Golden(ctypes.Structure):
    _fields_ = [
        ("name", View), ("image", View), ("outcome", ctypes.c_int), ("has_pixels", ctypes.c_bool),
        ("preprocessed_sha256", ctypes.c_uint8 * 32), ("positives", ctypes.c_uint64),
        ("in_order", ctypes.c_bool), ("logits", View),
    ]  # fmt: skip


class CManifest(ctypes.Structure):
    _fields_ = [
        ("schema_version", u32), ("security_version", u32), ("bundle_id", View),
        ("model_version", View), ("created", View), ("licence", View),
        ("signed_by_key", ctypes.c_bool), ("key_id", ctypes.c_uint8 * 8),
        ("modality", ctypes.c_int), ("synthetic", ctypes.c_bool), ("proven", ctypes.c_bool),
        ("input_size", u32), ("temperature", f64), ("labels_name", View),
        ("exclusive", ctypes.c_bool), ("label_count", u32), ("labels", Label * 64),
        ("artefact_count", u32), ("artefacts", Artefact * 32), ("golden_count", u32),
        ("golden", Golden * 64), ("preprocess", View), ("preprocess_sha256", ctypes.c_uint8 * 32),
        ("gates", View), ("entries", View),
    ]  # fmt: skip


class CBundle(ctypes.Structure):
    _fields_ = [
        ("content", ctypes.c_void_p), ("size", size_t), ("table", size_t), ("count", u32),
        ("key_id", ctypes.c_uint8 * 8), ("manifest", CManifest),
    ]  # fmt: skip


class Trust(ctypes.Structure):
    _fields_ = [("keys", ctypes.c_char_p), ("count", size_t)]


class CSpec(ctypes.Structure):
    _fields_ = [("modality", ctypes.c_int)] + [
        (name, u32)
        for name in ("version", "size", "decode_margin", "window_low", "window_high",
                     "clahe_clip_x100", "clahe_tiles", "median_kernel")
    ]  # fmt: skip


class Gates(ctypes.Structure):
    _fields_ = [("low", f64 * 14), ("high", f64 * 14)]


class Rule(ctypes.Structure):
    _fields_ = [
        ("label_count", u32), ("normal", u32), ("exclusive", ctypes.c_bool), ("temperature", f64),
        ("thresholds", f64 * 64),
    ]  # fmt: skip


class Result(ctypes.Structure):
    _fields_ = [(name, f64) for name in ("logit", "score", "probability", "threshold")] + [
        ("positive", ctypes.c_bool)
    ]


class CDecision(ctypes.Structure):
    _fields_ = [("outcome", ctypes.c_int), ("label_count", u32), ("labels", Result * 64)]


def _build(folder: Path, *, options: list[str], sources: list[Path], name: str) -> Path:
    """Our files under every warning; the vendor's as they are. Skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc`: the native bundle reader is NOT tested")
    vendor = folder / "monocypher.o"
    sanitizers = options if "-g" in options else []
    commands = [
        [compiler, "-O2", "-fPIC", *sanitizers, "-c", FIRMWARE / "vendor/monocypher/monocypher.c",
         "-o", vendor],
        [compiler, *STRICT, *options, "-I", FIRMWARE / "include", *sources, vendor,
         "-lm", "-o", folder / name],
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / name


def _ours() -> list[Path]:
    return [*sorted((FIRMWARE / "src" / "bundle").glob("*.c")), FIRMWARE / "src" / "status.c"]


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("native")
    path = _build(folder, options=["-fPIC", "-shared"], sources=_ours(), name="bundle.so")
    library = ctypes.CDLL(str(path))
    library.qdr_decimal_write.restype = size_t
    library.qdr_crc32.restype = u32
    library.qdr_exact_sum.restype = f64
    library.qdr_json_is_canonical.restype = ctypes.c_bool
    library.qdr_signature_holds.restype = ctypes.c_bool
    library.qdr_decimal_read.restype = ctypes.c_bool
    return library


def _keys(trust: TrustStore) -> Trust:
    raw = b"".join(key.raw for key in trust.keys.values())
    return Trust(raw, len(raw) // 32)


def _open(
    lib: ctypes.CDLL, data: bytes, trust: TrustStore = TRUST, minimum: int = 0
) -> tuple[int, CBundle, str]:
    bundle, where, keys = CBundle(), Error(), _keys(trust)
    status = lib.qdr_bundle_open(
        ctypes.byref(bundle), data, size_t(len(data)), ctypes.byref(keys), u32(minimum),
        ctypes.byref(where),
    )  # fmt: skip
    return status, bundle, where.what.decode()


def _status(error: QdrError) -> int:
    if isinstance(error, SignatureError):
        return BAD_SIGNATURE
    if isinstance(error, CompatibilityError):
        return ROLLBACK if "older than" in error.what else UNSUPPORTED
    return BAD_BUNDLE


def _read(raw: bytes) -> int:
    try:
        Manifest.from_bytes(raw)
    except QdrError as error:
        return _status(error)
    return OK


def _view(text: bytes | str) -> View:
    content = text.encode() if isinstance(text, str) else text
    return View(ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p), len(content))


def _manifest_status(lib: ctypes.CDLL, raw: bytes) -> int:
    status: int = lib.qdr_manifest_read(ctypes.byref(CManifest()), raw, size_t(len(raw)), None)
    return status


def _numbers(value: float) -> bytes:
    return struct.pack("<d", value)


def _assert_same(lib: ctypes.CDLL, c: CBundle, data: bytes, trust: TrustStore) -> None:
    """Every field that C hands out is Python's."""
    python = read_bundle(data, trust=trust)
    m, p = c.manifest, python.manifest
    assert bytes(c.key_id).hex() == python.key_id == bytes(m.key_id).hex()
    assert (m.schema_version, m.security_version) == (p.schema_version, p.security_version)
    for name in ("bundle_id", "model_version", "licence", "created"):
        assert getattr(m, name).text() == getattr(p, name)
    assert ("", "fundus", "oct")[m.modality] == p.modality
    assert (m.synthetic, m.proven) == (p.synthetic, p.proven)
    assert m.input_size == p.input.size
    assert m.labels_name.text() == p.labels.name
    assert m.exclusive == p.labels.exclusive
    assert m.label_count == len(p.labels.codes)
    labels = m.labels[: m.label_count]
    assert tuple(label.code.text() for label in labels) == p.labels.codes
    assert tuple(label.name.text() for label in labels) == p.labels.names
    stated = [float(threshold.logit) for threshold in p.decision.thresholds]
    assert [_numbers(label.threshold) for label in labels] == [_numbers(v) for v in stated]
    assert _numbers(m.temperature) == _numbers(float(p.decision.temperature))
    assert json.loads(m.preprocess.raw()) == p.preprocess.spec
    assert bytes(m.preprocess_sha256).hex() == p.preprocess.sha256
    assert json.loads(m.gates.raw()) == p.decision.gates
    assert [a.target.text() for a in m.artefacts[: m.artefact_count]] == sorted(p.artefacts)
    for a in m.artefacts[: m.artefact_count]:
        q = p.artefacts[a.target.text()]
        assert (a.entry.text(), a.backend.text()) == (q.entry, q.backend)
        assert a.runtime.text() == q.runtime
        assert (a.opset, a.tolerance_steps) == (q.opset, q.tolerance_steps)
        assert _numbers(a.logit_tolerance) == _numbers(q.logit_tolerance)
        assert json.loads(a.requires.raw() or b"[]") == list(q.requires)
        assert json.loads(a.options.raw() or b"{}") == q.options
    assert m.golden_count == len(p.golden)
    for g, v in zip(m.golden, p.golden, strict=False):
        assert (g.name.text(), g.image.text(), OUTCOMES[g.outcome]) == (v.name, v.image, v.outcome)
        assert g.has_pixels == bool(v.preprocessed_sha256)
        if g.has_pixels:
            assert bytes(g.preprocessed_sha256).hex() == v.preprocessed_sha256
        found = tuple(c for k, c in enumerate(p.labels.codes) if g.positives >> k & 1)
        assert g.in_order == (found == v.positives)
        assert set(found) == set(v.positives)
        for target, logits in v.logits.items():
            out = (f64 * m.label_count)()
            answer = lib.qdr_golden_logits(
                ctypes.byref(g), _view(target), out, size_t(m.label_count)
            )
            assert answer == OK
            assert bytes(out) == b"".join(_numbers(float(text)) for text in logits)
    for name, content in python.entries.items():
        view = View()
        assert lib.qdr_bundle_entry(ctypes.byref(c), _view(name), ctypes.byref(view)) == OK
        assert view.raw() == content


def _compare(lib: ctypes.CDLL, data: bytes, trust: TrustStore = TRUST, minimum: int = 0) -> int:
    """C and Python accept the same or refuse for the same kind of reason; returns the status."""
    try:
        read_bundle(data, trust=trust, minimum_security_version=minimum)
        expected = OK
    except QdrError as error:
        expected = _status(error)
    status, bundle, what = _open(lib, data, trust, minimum)
    assert status == expected, what
    assert (what == "") == (status == OK)
    if status == OK:
        _assert_same(lib, bundle, data, trust)
    else:
        assert bytes(bundle) == bytes(ctypes.sizeof(CBundle))
    return status


def _need_sanitizers(folder: Path) -> None:
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = ["cc", *SANITIZERS, str(probe), "-o", str(folder / "probe")]
    if shutil.which("cc") and subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the C compiler has no sanitizers")


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_the_corpus_and_changes_of_it_under_sanitizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of the corpus, then 20,000 changed ones, behind a signature that always holds."""
    _need_sanitizers(tmp_path)
    tests = FIRMWARE / "tests" / "bundle"
    sources = [path for path in _ours() if path.name != "signature.c"]
    sources += [tests / "fuzz_bundle.c", tests / "fuzz_main.c"]
    program = _build(tmp_path, options=SANITIZERS, sources=sources, name="fuzz_bundle")
    corpus = {data for data, _ in _collected(monkeypatch)} | {evil.GOOD, sealed(KEY)}
    raw = {canonical_json(_rich()), manifest().to_bytes()}
    for mode, contents in ((b"b", corpus), (b"m", raw), (b"c", {evil.GOOD})):
        for data in contents:
            name = mode.decode() + hashlib.sha256(data).hexdigest()
            (tmp_path / name).write_bytes(mode + data)
    files = sorted(path for path in tmp_path.iterdir() if len(path.name) == 65)
    assert len(files) > 1000
    out = _run(program, 20_000, 1, *files)
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
            args = (bytes(signature), key.public.raw, _view(message))
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
        assert lib.qdr_decimal_read(_view(repr(number)), ctypes.byref(value))
        assert _numbers(value.value) == _numbers(number)


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
        assert lib.qdr_decimal_read(_view(text), ctypes.byref(value)) == expected, text
        if expected:
            accepted += 1
            assert _numbers(value.value) == _numbers(float(text))
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
        status = _compare(lib, data, trust, minimum)
        assert status != OK
        statuses.add(status)
    assert statuses == {BAD_BUNDLE, BAD_SIGNATURE, ROLLBACK, UNSUPPORTED}


def test_a_bundle_over_the_cap(lib: ctypes.CDLL) -> None:
    status = lib.qdr_bundle_open(
        ctypes.byref(CBundle()), b"PK\3\4", size_t((512 << 20) + 1), ctypes.byref(_keys(TRUST)),
        u32(0), None,
    )  # fmt: skip
    assert status == BAD_BUNDLE


def test_good_bundles_are_read_alike(lib: ctypes.CDLL) -> None:
    assert _compare(lib, evil.GOOD) == OK
    assert _compare(lib, sealed(KEY, security_version=5), minimum=5) == OK
    assert _compare(lib, sealed(KEY, security_version=5), minimum=6) == ROLLBACK
    many = TrustStore.of(*(SigningKey.generate().public for _ in range(5)), KEY.public)
    assert _compare(lib, evil.GOOD, many) == OK
    assert _compare(lib, seal(*evil.working(), KEY)) == OK
    older = json.loads(evil.contents()["manifest.json"]) | {"schema_version": 1}
    older["labels"] = {k: v for k, v in older["labels"].items() if k != "exclusive"}
    assert _compare(lib, evil.signed(older)) == OK


@pytest.mark.parametrize("count", [500, pytest.param(30_000, marks=pytest.mark.full)])
def test_random_bits_of_a_bundle_that_works(lib: ctypes.CDLL, count: int) -> None:
    """Bits behind the signature; the C test flips every bit of a smaller bundle."""
    data = seal(*evil.working(), KEY)
    table = read_container(data)
    first = table["manifest.sig"].offset + table["manifest.sig"].size
    random = np.random.default_rng(5)
    buffer = ctypes.create_string_buffer(data, len(data))
    bundle, keys = CBundle(), _keys(TRUST)
    for bit in random.choice(np.arange(8 * first, 8 * len(data)), count, replace=False).tolist():
        old = buffer[bit // 8]
        buffer[bit // 8] = bytes([old[0] ^ 1 << bit % 8])
        status = lib.qdr_bundle_open(
            ctypes.byref(bundle), buffer, size_t(len(data)), ctypes.byref(keys), u32(0), None
        )
        buffer[bit // 8] = old
        assert status in (BAD_BUNDLE, BAD_SIGNATURE), bit
    assert _open(lib, buffer.raw)[0] == OK


def _drawn(random: Random) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A valid manifest with other values in every field that C hands out, and its entries."""

    def text(most: int) -> str:
        alphabet = 'aZ9 ._-"\\\n\t\x00\x1f\x7f/é\u2028\U0001f600'
        return "".join(random.choices(alphabet, k=random.randint(0, most)))

    def number() -> str:
        return repr(random.choice([random.gauss(0, 9), 10.0 ** random.randint(-30, 30), -0.0, 3.5]))

    value = evil.manifest_of()
    count = random.choice([1, 2, 5, 64])
    codes = random.sample(["NOR", *(f"L{k}.x+_-" for k in range(80))], count)
    files = {f"f/{k}": random.randbytes(random.randint(0, 80)) for k in range(random.randint(1, 9))}
    targets = [f"t{k}" for k in range(random.randint(1, 32))]
    value |= {
        "bundle_id": "b" * random.randint(1, 128), "model_version": "1.0+" + codes[0],
        "security_version": random.choice([0, 2**31 - 1]), "licence": text(4096),
        "synthetic": random.random() < 0.5, "proven": random.random() < 0.5,
        "modality": random.choice(["oct", "fundus"]), "input": {"size": random.randint(8, 4096)},
        "labels": {"name": text(9), "codes": codes, "names": [text(30) for _ in codes],
                   "exclusive": count > 1 and random.random() < 0.5},
        "decision": {
            "temperature": number(), "gates": {text(3): [None, {text(2): 1}]},
            "thresholds": [
                {"code": code, "logit": random.choice([number(), "inf", "-inf"]), "split": text(5),
                 "fitted_for": text(5), "reached": random.choice([None, True]), "patients": 7}
                for code in codes
            ],
        },
        "artefacts": {
            target: {"entry": random.choice(list(files)), "backend": "b" + target, "opset": 64,
                     "runtime": text(5), "requires": random.sample(codes, min(count, 3)),
                     "options": {"o" + target: text(9)}, "logit_step": number(),
                     "tolerance_steps": random.choice([0, 1, 255])}
            for target in targets
        },
        "golden": [
            {"name": f"g{k}", "image": random.choice(list(files)),
             "outcome": random.choice(OUTCOMES[1:5]),
             "preprocessed_sha256": random.choice(["", random.randbytes(32).hex()]),
             "positives": random.choices(codes, k=random.randint(0, 3)),
             "logits": {target: [number() for _ in codes]
                        for target in random.sample(targets, min(len(targets), 2))}}
            for k in range(random.choice([0, 1, 8, 64]))
        ],
        "entries": evil.listing(files),
    }  # fmt: skip
    return value, files


def test_every_field_is_read_alike(lib: ctypes.CDLL) -> None:
    random, seen = Random(12), set()
    for _ in range(80):
        value, files = _drawn(random)
        assert _compare(lib, evil.signed(value, files)) == OK
        for vector in value["golden"]:
            order = [value["labels"]["codes"].index(code) for code in vector["positives"]]
            seen.add(order == sorted(set(order)))
    assert seen == {True, False}


def _rich() -> dict[str, Any]:
    """A manifest with something in every field."""
    made, entries = working_entries()
    return json.loads(extract(d := seal(made, entries, KEY), read_container(d)["manifest.json"]))


def test_manifests_changed_at_random_are_read_alike(lib: ctypes.CDLL) -> None:
    """One value somewhere is replaced, removed or changed, and the whole written canonically."""
    random = Random(6)
    seeds = [canonical_json(_rich()), manifest().to_bytes()]
    counts = {OK: 0, BAD_BUNDLE: 0, UNSUPPORTED: 0}

    def change(content: bytes) -> bytes:
        text = bytearray(content or b"x")
        text[random.randrange(len(text))] = random.choice(b'0123456789azAZ._-+"\\\x00\n\xc3 ')
        return bytes(text)

    for _ in range(12_000):
        raw = mutate_json(random.choice(seeds), random, change)
        if random.random() < 0.2:
            raw = change(raw)
        status = _manifest_status(lib, raw)
        assert status == _read(raw), raw
        counts[status] += 1
    assert min(counts.values()) > 20


def _trees(depth: int, leaf: Any, kind: str) -> Any:
    for _ in range(depth):
        leaf = {"a": leaf} if kind == "object" else [leaf]
    return leaf


@pytest.mark.parametrize("depth", [30, 31, 32, 33, 40, 300])
@pytest.mark.parametrize("kind", ["object", "array"])
def test_the_depth_of_a_tree(lib: ctypes.CDLL, depth: int, kind: str) -> None:
    base = json.loads(manifest().to_bytes())
    for leaf in (1, "x", {}, [], None):
        inner = _trees(depth, leaf, kind)
        value = {"x": inner} if kind == "array" else inner
        for field in ("evidence", "scheme"):
            raw = canonical_json({**base, field: value})
            assert _manifest_status(lib, raw) == _read(raw)
        spec = canonical_json({**base, "preprocess": {**base["preprocess"], "spec": value}})
        assert _manifest_status(lib, spec) == _read(spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", ...), ("schema_version", ...), ("created", ...), ("key_id", ...),
        ("golden", ...), ("evidence", ...), ("entries", ...), ("proven", ...), ("scheme", ...),
        ("licence", "\U0001f600" * 4096), ("licence", "\U0001f600" * 4097), ("licence", "\x7f\0"),
        ("licence", "\ufffe\uffff\u2028"), ("evidence", {"n": 10**4299}),
        ("evidence", {"n": -(10**4299)}), ("evidence", {"\n": 1, " ": 2, '"': 3, "\\": 4, "é": 5}),
        ("security_version", 2**31 - 1), ("security_version", 2**32), ("input", {"size": 64}),
        ("input", {"size": True}), ("input", {"size": 8, "channels": True}), ("key_id", "A" * 16),
    ],
)  # fmt: skip
def test_edges_of_a_field(lib: ctypes.CDLL, field: str, value: Any) -> None:
    changed = json.loads(manifest().to_bytes())
    changed.pop(field, None)
    if value is not ...:
        changed[field] = value
    raw = canonical_json(changed)
    assert _manifest_status(lib, raw) == _read(raw)


def test_numbers_with_more_digits_than_python_reads(lib: ctypes.CDLL) -> None:
    raw = manifest().to_bytes()
    for digits in (4300, 4301):
        for old in (b'"evidence":{', b'"positives":null'):
            number = b"9" * digits
            new = old + b'"a":' + number if old.endswith(b"{") else b'"positives":' + number
            changed = raw.replace(old, new, 1)
            assert changed != raw
            assert _manifest_status(lib, changed) == _read(changed)


def test_what_c_refuses_although_python_takes_it(lib: ctypes.CDLL) -> None:
    """The stated exceptions: no maker's tool writes either."""
    base = json.loads(manifest().to_bytes())
    digits = canonical_json({**base, "created": "\u0662025-01-01T00:00:00Z"})
    unnamed = {k: v for k, v in base.items() if k != "format"}
    true = canonical_json({**unnamed, "schema_version": True})
    for raw in (digits, true):
        assert (_read(raw), _manifest_status(lib, raw)) == (OK, BAD_BUNDLE)


def _intake(changes: dict[str, Any]) -> tuple[int, bytes]:
    raw = {**evil.manifest_of(), **changes}
    data = evil.signed(raw)
    try:
        Intake(read_bundle(data, trust=TRUST))
    except QdrError as error:
        return _status(error), data
    return OK, data


def _contract(**changes: Any) -> dict[str, Any]:
    spec = PreprocessSpec(**{"modality": "fundus", "size": 64, **changes})
    return {"spec": spec.to_dict(), "sha256": spec.sha256}


SPECS: list[dict[str, Any]] = [
    _contract(), _contract(clahe_clip_x100=10_000, clahe_tiles=16, median_kernel=5),
    _contract(window_low=65534), _contract(size=128), _contract(modality="oct"),
    {**_contract(), "sha256": "0" * 64}, {**_contract(), "spec": {}},
    {**_contract(), "spec": {"modality": "fundus", "size": 64, "version": 1}},
    *(
        {**_contract(), "spec": {**_contract()["spec"], **wrong}}
        for wrong in (
            {"version": 2}, {"size": 65}, {"size": True}, {"size": "64"}, {"size": -64},
            {"size": 10**30}, {"clahe_tiles": 0}, {"clahe_tiles": 33}, {"decode_margin": 9},
            {"window_low": 65535}, {"window_high": 65536}, {"clahe_clip_x100": 0},
            {"median_kernel": 4}, {"modality": "xray"}, {"modality": 1}, {"extra": 1},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(SPECS)))
def test_the_preprocessing_contract(lib: ctypes.CDLL, index: int) -> None:
    limits = {name: list(ends) for name, ends in default_limits("fundus").to_dict().items()}
    base = evil.manifest_of()
    changes = {"preprocess": SPECS[index], "decision": {**base["decision"], "gates": limits}}
    expected, data = _intake(changes)
    status, bundle, _ = _open(lib, data)
    spec = CSpec()
    assert status == OK
    assert (
        lib.qdr_manifest_preprocess(ctypes.byref(bundle.manifest), ctypes.byref(spec)) == expected
    )
    if expected == OK:
        python = PreprocessSpec.from_dict(dict(SPECS[index]["spec"]))
        assert ("", "fundus", "oct")[spec.modality] == python.modality
        for name, _ in CSpec._fields_[1:]:
            assert getattr(spec, name) == getattr(python, name)


def _gates(**changes: Any) -> dict[str, Any]:
    limits = {name: list(ends) for name, ends in default_limits("fundus").to_dict().items()}
    limits |= changes
    return {name: ends for name, ends in limits.items() if ends is not None}


GATES: list[dict[str, Any]] = [
    _gates(), _gates(grain=["-inf", "inf"]), _gates(flat=["0.5", "0.5"]), {}, {"version": ["2"]},
    _gates(version=None), _gates(version=["1"]), _gates(version=["3"]), _gates(version=["2", "2"]),
    _gates(flat=None), _gates(extra=["0.0", "1.0"]), _gates(flat=["1.0", "0.5"]), _gates(flat=[]),
    _gates(flat=["0.0"]), _gates(flat=["x", "1.0"]), {"structure": ["0.0", "1.0"]},
    _gates(flat=["nan", "1.0"]), {"grain": ["0.0", "1.0"]},
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(GATES)))
def test_the_gates(lib: ctypes.CDLL, index: int) -> None:
    decision = {**evil.manifest_of()["decision"], "gates": GATES[index]}
    expected, data = _intake({"decision": decision})
    status, bundle, _ = _open(lib, data)
    gates = Gates()
    assert status == OK
    assert lib.qdr_manifest_gates(ctypes.byref(bundle.manifest), ctypes.byref(gates)) == expected
    if expected == OK:
        python = GateLimits.from_dict(GATES[index])
        assert len(FEATURES) == 14
        assert tuple(gates.low) == python.low
        assert tuple(gates.high) == python.high


def test_every_feature_of_the_gate_has_its_place(lib: ctypes.CDLL) -> None:
    ends = {name: [f"{k}.0", f"{k}.5"] for k, name in enumerate(FEATURES)}
    decision = {**evil.manifest_of()["decision"], "gates": {"version": ["2"], **ends}}
    _, bundle, _ = _open(lib, evil.signed({**evil.manifest_of(), "decision": decision}))
    gates = Gates()
    assert lib.qdr_manifest_gates(ctypes.byref(bundle.manifest), ctypes.byref(gates)) == OK
    assert list(gates.low) == [float(k) for k in range(14)]
    assert list(gates.high) == [k + 0.5 for k in range(14)]


@pytest.mark.parametrize("temperature", ["1.0", "0.0", "-1.0", "inf", "5e-324", "-0.0"])
def test_the_rule(lib: ctypes.CDLL, temperature: str) -> None:
    decision = {**evil.manifest_of()["decision"], "temperature": temperature}
    data = evil.signed({**evil.manifest_of(), "decision": decision})
    described = read_bundle(data, trust=TRUST).manifest
    _, bundle, _ = _open(lib, data)
    rule = Rule()
    status = lib.qdr_manifest_rule(ctypes.byref(bundle.manifest), ctypes.byref(rule))
    try:
        python = described.decision.rule(described.labels.label_set())
    except BundleError:
        assert status == BAD_BUNDLE
        return
    assert status == OK
    assert rule.label_count == len(python.labels)
    assert rule.normal == python.labels.normal
    assert tuple(rule.thresholds[: rule.label_count]) == python.logit_thresholds


def _c_rule(rule: DecisionRule) -> Rule:
    count = len(rule.labels)
    normal = count if rule.labels.normal is None else rule.labels.normal
    thresholds = (f64 * 64)(*rule.logit_thresholds)
    return Rule(count, normal, rule.labels.exclusive, rule.temperature, thresholds)


def _same_decision(c: CDecision, python: Any) -> None:
    assert OUTCOMES[c.outcome] == python.outcome.value
    assert c.label_count == len(python.labels)
    for mine, theirs in zip(c.labels, python.labels, strict=False):
        assert mine.positive == theirs.positive
        for name in ("logit", "score", "probability", "threshold"):
            assert _numbers(getattr(mine, name)) == _numbers(getattr(theirs, name)), name


def _rules_and_logits(random: np.random.Generator, exclusive: bool, count: int) -> Any:
    from qdr_edge.decision import label_scores

    for _ in range(count):
        k = int(random.integers(2 if exclusive else 1, 65 if random.random() < 0.1 else 12))
        codes = (
            ["NOR", *(f"L{i}" for i in range(1, k))]
            if random.random() < 0.8
            else [f"L{i}" for i in range(k)]
        )
        random.shuffle(codes)
        labels = LabelSet.custom(codes, exclusive=exclusive)
        spread = 10.0 ** random.integers(-3, 38 if random.random() < 0.1 else 3)
        logits = (random.normal(0, spread, k)).astype(np.float32)
        if random.random() < 0.1:
            logits = np.round(logits).astype(np.float32)
        # Thresholds at a score, one float beside it, and elsewhere: where answers could part.
        scores = label_scores(logits[None], labels)[0]
        chosen = [
            random.choice([s, np.nextafter(s, np.inf), np.nextafter(s, -np.inf), s + 1, np.inf])
            for s in scores
        ]
        temperature = float(10.0 ** random.uniform(-1, 1))
        if random.random() < 0.05:
            temperature = float(random.choice([5e-324, 1e-300, 1e300]))
        yield DecisionRule(labels, temperature, tuple(float(v) for v in chosen)), logits


def test_a_sum_is_rounded_once(lib: ctypes.CDLL) -> None:
    """Ties that a much smaller term breaks among them."""
    random, corrected = Random(13), 0
    for _ in range(20_000):
        terms = [random.random() * 2.0 ** -random.choice([0, 0, 1, 50, 53, 54, 60, 107, 900])]
        for _ in range(random.randint(0, 8)):
            terms.append(2.0 ** -random.choice([0, 1, 2, 52, 53, 53, 54, 105, 106, 107, 160, 1074]))
        if random.random() < 0.1:
            terms += [random.random() for _ in range(64 - len(terms))]
        terms = [term * random.choice([1, 1, -1]) for term in terms]
        total = lib.qdr_exact_sum((f64 * len(terms))(*terms), u32(len(terms)))
        assert _numbers(total + 0.0) == _numbers(math.fsum(terms) + 0.0)
        corrected += total != sum(sorted(terms, key=abs))
    assert corrected > 100


@pytest.mark.parametrize("exclusive", [False, True], ids=["together", "exclusive"])
def test_decisions_are_the_same_bit_for_bit(lib: ctypes.CDLL, exclusive: bool) -> None:
    random = np.random.default_rng(7)
    seen = set()
    for rule, logits in _rules_and_logits(random, exclusive, 6000):
        if random.random() < 0.02:
            logits[random.integers(len(logits))] = random.choice([np.nan, np.inf, -np.inf])
        out, c_rule = CDecision(), _c_rule(rule)
        pointer = logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        status = lib.qdr_decide(
            ctypes.byref(c_rule), pointer, size_t(len(logits)), ctypes.byref(out)
        )
        assert status == OK
        _same_decision(out, decide(logits, rule, "fundus"))
        seen.add(OUTCOMES[out.outcome])
    assert seen == {"POSITIVE", "NEGATIVE", "FAULT"}


@pytest.mark.parametrize("exclusive", [False, True], ids=["together", "exclusive"])
def test_an_eye_is_decided_alike(lib: ctypes.CDLL, exclusive: bool) -> None:
    random = np.random.default_rng(8)
    for rule, logits in _rules_and_logits(random, exclusive, 500):
        images = [logits, *(random.permutation(logits) for _ in range(random.integers(0, 4)))]
        eye, image, c_rule = CDecision(), CDecision(), _c_rule(rule)
        lib.qdr_eye_start(ctypes.byref(eye))
        for one in images:
            pointer = one.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            lib.qdr_decide(ctypes.byref(c_rule), pointer, size_t(len(one)), ctypes.byref(image))
            added = lib.qdr_eye_add(ctypes.byref(c_rule), ctypes.byref(eye), ctypes.byref(image))
            assert added == OK
        _same_decision(eye, aggregate(images, rule, "fundus"))


# The torsion points of edwards25519 that have more than one encoding, or a small order.
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
            args = (signature, bytes.fromhex(key), _view(b"message"))
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
        _compare(lib, bytes(changed))


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
        seen.add(_compare(lib, evil.signed(value, files)))
    assert seen == {OK, BAD_BUNDLE, BAD_SIGNATURE}


def test_an_unsigned_bundle_is_never_opened(lib: ctypes.CDLL) -> None:
    assert _compare(lib, sealed(None)) == BAD_SIGNATURE
    entries = {n: c for n, c in evil.contents().items() if n != "manifest.sig"}
    assert _compare(lib, write_container(entries)) == BAD_SIGNATURE
