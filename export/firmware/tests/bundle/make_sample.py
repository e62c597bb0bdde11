"""Write sample.h: a small signed bundle as C, with the public key that signed it.

    python export/firmware/tests/bundle/make_sample.py > export/firmware/tests/bundle/sample.h

The key is no secret: it signs nothing but this.
"""

from __future__ import annotations

import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qdr_edge.bundle import read_bundle, seal
from qdr_edge.gate import default_limits
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.manifest import Manifest, without_floats
from qdr_edge.preprocess import PreprocessSpec

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CODES = ("NOR", "AMD", "DR")


def sample() -> bytes:
    """A bundle with every field that the C reader hands out."""
    spec = PreprocessSpec(modality="fundus", size=64)
    model, image = "artefacts/native.bin", "golden/0.png"
    manifest = {
        "bundle_id": "sample",
        "model_version": "1.2.3",
        "security_version": 7,
        "created": "2025-01-01T00:00:00Z",
        "modality": "fundus",
        "synthetic": True,
        "labels": {"name": "test", "codes": CODES, "names": ["normal", "\u201cAMD\u201d", "D\n"]},
        "input": {"size": 64},
        "preprocess": {"spec": spec.to_dict(), "sha256": spec.sha256},
        "decision": {
            "temperature": "1.5",
            "thresholds": [
                {"code": code, "logit": logit, "fitted_for": "test", "split": "val"}
                for code, logit in zip(CODES, ("0.1", "-2.5e-07", "inf"), strict=True)
            ],
            "gates": without_floats(default_limits("fundus").to_dict()),
        },
        "scheme": {"name": "exact"},
        "artefacts": {
            "native": {
                "entry": model, "backend": "native", "opset": 19, "tolerance_steps": 3,
                "logit_step": "0.5", "options": {"lanes": "4"}, "requires": ["armv7e-m"],
            }
        },
        "golden": [
            {
                "name": "first", "image": image, "preprocessed_sha256": "ab" * 32,
                "logits": {"native": ["0.25", "-1.5", "3.0"]}, "outcome": "NEGATIVE",
                "positives": ["NOR"],
            },
            {"name": "second", "image": "golden/text", "outcome": "INVALID_INPUT"},
        ],
        "licence": "Apache-2.0",
        "proven": False,
    }  # fmt: skip
    entries = {model: bytes(range(200)), image: b"image", "golden/text": b"", "NOTICE": b"notice"}
    return seal(Manifest.model_validate_json(json.dumps(manifest)), entries, KEY)


def header(data: bytes, key: bytes) -> str:
    """C text of the bundle and the key."""

    def array(content: bytes) -> str:
        rows = (content[i : i + 16] for i in range(0, len(content), 16))
        return "\n".join("    " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)

    return (
        "/* Written by make_sample.py: a small signed bundle and its signer's public key. */\n"
        "#include <stdint.h>\n\n"
        f"static const uint8_t SAMPLE[{len(data)}] = {{\n{array(data)}\n}};\n\n"
        f"static const uint8_t SAMPLE_KEY[1][32] = {{{{\n{array(key)}\n}}}};\n"
    )


if __name__ == "__main__":
    made = sample()
    read_bundle(made, trust=TrustStore.of(KEY.public))
    sys.stdout.write(header(made, KEY.public.raw))
