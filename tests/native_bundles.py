"""The C bundle reader through ctypes, and what must be alike in C and Python."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qdr_edge.bundle import read_bundle, seal
from qdr_edge.container import extract, read_container
from qdr_edge.errors import CompatibilityError, QdrError, SignatureError
from qdr_edge.keys import TrustStore
from qdr_edge.manifest import Manifest
from tests.attacks import evil
from tests.bundles import working_entries

FIRMWARE = Path(__file__).parents[1] / "export" / "firmware"
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


def build_c(folder: Path, *, options: list[str], sources: list[Path], name: str) -> Path:
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


def own_sources() -> list[Path]:
    return [*sorted((FIRMWARE / "src" / "bundle").glob("*.c")), FIRMWARE / "src" / "status.c"]


@cache
def compiled() -> ctypes.CDLL:
    """The bundle reader as a library, compiled once for each process of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="qdr-native-"))
    path = build_c(folder, options=["-fPIC", "-shared"], sources=own_sources(), name="bundle.so")
    library = ctypes.CDLL(str(path))
    library.qdr_decimal_write.restype = size_t
    library.qdr_crc32.restype = u32
    library.qdr_exact_sum.restype = f64
    library.qdr_json_is_canonical.restype = ctypes.c_bool
    library.qdr_signature_holds.restype = ctypes.c_bool
    library.qdr_decimal_read.restype = ctypes.c_bool
    return library


def c_keys(trust: TrustStore) -> Trust:
    raw = b"".join(key.raw for key in trust.keys.values())
    return Trust(raw, len(raw) // 32)


def c_open(
    lib: ctypes.CDLL, data: bytes, trust: TrustStore = TRUST, minimum: int = 0
) -> tuple[int, CBundle, str]:
    bundle, where, keys = CBundle(), Error(), c_keys(trust)
    status = lib.qdr_bundle_open(
        ctypes.byref(bundle), data, size_t(len(data)), ctypes.byref(keys), u32(minimum),
        ctypes.byref(where),
    )  # fmt: skip
    return status, bundle, where.what.decode()


def status_of(error: QdrError) -> int:
    if isinstance(error, SignatureError):
        return BAD_SIGNATURE
    if isinstance(error, CompatibilityError):
        return ROLLBACK if "older than" in error.what else UNSUPPORTED
    return BAD_BUNDLE


def python_status(raw: bytes) -> int:
    try:
        Manifest.from_bytes(raw)
    except QdrError as error:
        return status_of(error)
    return OK


def c_view(text: bytes | str) -> View:
    content = text.encode() if isinstance(text, str) else text
    return View(ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p), len(content))


def c_manifest_status(lib: ctypes.CDLL, raw: bytes) -> int:
    status: int = lib.qdr_manifest_read(ctypes.byref(CManifest()), raw, size_t(len(raw)), None)
    return status


def float_bytes(value: float) -> bytes:
    return struct.pack("<d", value)


def assert_same(lib: ctypes.CDLL, c: CBundle, data: bytes, trust: TrustStore) -> None:
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
    assert [float_bytes(label.threshold) for label in labels] == [float_bytes(v) for v in stated]
    assert float_bytes(m.temperature) == float_bytes(float(p.decision.temperature))
    assert json.loads(m.preprocess.raw()) == p.preprocess.spec
    assert bytes(m.preprocess_sha256).hex() == p.preprocess.sha256
    assert json.loads(m.gates.raw()) == p.decision.gates
    assert [a.target.text() for a in m.artefacts[: m.artefact_count]] == sorted(p.artefacts)
    for a in m.artefacts[: m.artefact_count]:
        q = p.artefacts[a.target.text()]
        assert (a.entry.text(), a.backend.text()) == (q.entry, q.backend)
        assert a.runtime.text() == q.runtime
        assert (a.opset, a.tolerance_steps) == (q.opset, q.tolerance_steps)
        assert float_bytes(a.logit_tolerance) == float_bytes(q.logit_tolerance)
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
                ctypes.byref(g), c_view(target), out, size_t(m.label_count)
            )
            assert answer == OK
            assert bytes(out) == b"".join(float_bytes(float(text)) for text in logits)
    for name, content in python.entries.items():
        view = View()
        assert lib.qdr_bundle_entry(ctypes.byref(c), c_view(name), ctypes.byref(view)) == OK
        assert view.raw() == content


def assert_alike(lib: ctypes.CDLL, data: bytes, trust: TrustStore = TRUST, minimum: int = 0) -> int:
    """C and Python accept the same or refuse for the same kind of reason; returns the status."""
    try:
        read_bundle(data, trust=trust, minimum_security_version=minimum)
        expected = OK
    except QdrError as error:
        expected = status_of(error)
    status, bundle, what = c_open(lib, data, trust, minimum)
    assert status == expected, what
    assert (what == "") == (status == OK)
    if status == OK:
        assert_same(lib, bundle, data, trust)
    else:
        assert bytes(bundle) == bytes(ctypes.sizeof(CBundle))
    return status


def need_sanitizers(folder: Path) -> None:
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = ["cc", *SANITIZERS, str(probe), "-o", str(folder / "probe")]
    if shutil.which("cc") and subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the C compiler has no sanitizers")


def run_c(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def rich_manifest() -> dict[str, Any]:
    """A manifest with something in every field."""
    made, entries = working_entries()
    found: dict[str, Any] = json.loads(
        extract(d := seal(made, entries, KEY), read_container(d)["manifest.json"])
    )
    return found
