"""Writes tests/data: a tiny plan with every kind of operation, images, and the logits that the
reference interpreter gives them; and a bundle of that plan, signed by the key of make_sample.py.
``python export/firmware/tests/make_data.py`` in the repository.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "train")]

from qdr_edge.bundle import read_bundle, seal  # noqa: E402
from qdr_edge.decision import DecisionRule, decide  # noqa: E402
from qdr_edge.files import sha256_bytes  # noqa: E402
from qdr_edge.gate import GateLimits, check, default_limits, measure  # noqa: E402
from qdr_edge.keys import SigningKey, TrustStore  # noqa: E402
from qdr_edge.manifest import Decisions, Manifest, exact_text, without_floats  # noqa: E402
from qdr_edge.preprocess import PreprocessSpec, preprocess  # noqa: E402
from qdr_export.emit.native import emit, steps_of  # noqa: E402
from qdr_export.emit.native.writer import KINDS  # noqa: E402
from qdr_export.graph.canonical import build_canonical  # noqa: E402
from qdr_export.reference import Reference  # noqa: E402
from tests.bundles import fundus  # noqa: E402
from tests.networks import LABELS, from_sketch  # noqa: E402
from tests.sketches import pyramid  # noqa: E402

SIZE, IMAGES = 32, 3
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def raw(picture: np.ndarray) -> bytes:
    """A golden image that needs no decoder: width and height in 16 bits, then RGB."""
    return np.array(picture.shape[1::-1], "<u2").tobytes() + picture.tobytes()


def widened(limits: GateLimits, eyes: list[np.ndarray]) -> GateLimits:
    """Limits that these eyes pass: a picture of 32 px is too coarse for some of the defaults."""
    values = np.array([astuple(measure(eye, "fundus")) for eye in eyes])
    low = np.minimum(limits.low, values.min(axis=0))
    high = np.maximum(limits.high, values.max(axis=0))
    return GateLimits(tuple(map(float, low)), tuple(map(float, high)))


def bundle(plan: bytes, reference: Reference) -> bytes:
    """Two eyes, a black picture and no picture, recorded as the whole path must give them."""
    spec = PreprocessSpec("fundus", SIZE)
    pictures = {"eye-0": fundus(0, 48), "eye-1": fundus(1, 40)}
    pictures["black"] = np.zeros((32, 34, 3), np.uint8)
    inputs = {name: preprocess(picture, spec) for name, picture in pictures.items()}
    limits = widened(default_limits("fundus"), [inputs["eye-0"], inputs["eye-1"]])
    logits = {name: reference.infer(inputs[name][None])[0] for name in ("eye-0", "eye-1")}
    middle = tuple(float(value) for value in sum(logits.values()) / 2)
    rule = DecisionRule(LABELS, 1.0, middle)
    golden = [{"name": "none", "image": "golden/none.raw", "outcome": "INVALID_INPUT"}]
    for name, pixels in inputs.items():
        gate = check(pixels, "fundus", limits)
        vector = {
            "name": name, "image": f"golden/{name}.raw",
            "preprocessed_sha256": sha256_bytes(pixels.tobytes()),
        }  # fmt: skip
        if name in logits:
            assert gate.outcome is None, gate.reason
            decision = decide(logits[name].astype(np.float32), rule, "fundus")
            vector["logits"] = {"native": [exact_text(float(v)) for v in logits[name]]}
            vector["outcome"] = decision.outcome.value
            vector["positives"] = [label.code for label in decision.findings]
        else:
            assert gate.outcome is not None
            vector["outcome"] = gate.outcome.value
        golden.append(vector)
    gates = without_floats(limits.to_dict())
    decisions = Decisions.of(rule, gates, fitted_for="test", split="val")
    manifest = {
        "bundle_id": "tiny", "model_version": "1.0.0", "created": "2025-01-01T00:00:00Z",
        "modality": "fundus", "synthetic": True, "input": {"size": SIZE},
        "labels": {"name": LABELS.name, "codes": LABELS.codes, "names": LABELS.names},
        "preprocess": {"spec": spec.to_dict(), "sha256": spec.sha256},
        "decision": json.loads(decisions.model_dump_json()),
        "scheme": {"name": "exact"},
        "artefacts": {
            "native": {"entry": "artefacts/native.plan", "backend": "native", "opset": 19}
        },
        "golden": golden, "licence": "Apache-2.0", "proven": False,
    }  # fmt: skip
    entries = {f"golden/{name}.raw": raw(picture) for name, picture in pictures.items()}
    entries |= {"golden/none.raw": b"no picture", "artefacts/native.plan": plan}
    made = seal(Manifest.model_validate_json(json.dumps(manifest)), entries, KEY)
    read_bundle(made, trust=TrustStore.of(KEY.public))
    return made


def main() -> None:
    """Write the four files."""
    canonical = build_canonical(from_sketch(pyramid(), size=SIZE))
    missing = set(KINDS) - {step.kind for step in steps_of(canonical).steps} - {"add"}
    assert not missing, f"no operation of kind {missing}"
    pixels = np.random.default_rng(7).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    (HERE / "data").mkdir(exist_ok=True)
    plan = emit(canonical)
    (HERE / "data" / "tiny.plan").write_bytes(plan)
    (HERE / "data" / "tiny.qdr").write_bytes(bundle(plan, Reference(canonical)))
    (HERE / "data" / "tiny.pixels").write_bytes(pixels.tobytes())
    (HERE / "data" / "tiny.logits").write_bytes(
        Reference(canonical).infer(pixels).astype("<f4").tobytes()
    )


if __name__ == "__main__":
    main()
