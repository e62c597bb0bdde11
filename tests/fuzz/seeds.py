"""Seeds of the fuzz target: small bundles, manifests and models, made here, of every mode."""

from __future__ import annotations

import json
from pathlib import Path

from qdr_edge.bundle import seal
from qdr_edge.container import write_container
from qdr_edge.files import canonical_json
from tests.attacks.evil import KEY, contents
from tests.attacks.models import model, tensor, with_initializer
from tests.bundles import ORT, manifest, onnx_model

MODES = ("container", "unsigned", "model", "manifest", "signed", "inspected")


def write_seeds(folder: Path) -> int:
    """Write one file a seed, each with the byte of its mode in front; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    small = model()
    networks = [small, onnx_model(8), with_initializer(tensor([2, 2], raw=bytes(16)))]
    described = manifest()
    raw = described.to_bytes()
    older = json.loads(raw) | {"schema_version": 1}
    unsigned, sealed = (seal(described, {ORT: small}, key) for key in (None, KEY))
    seeds = [
        *(("model", network) for network in networks),
        *(("manifest", text) for text in (raw, canonical_json(older), contents()["manifest.json"])),
        ("signed", raw),
        ("container", write_container({"manifest.json": b"{}", "x": b"1"})),
        *(
            (mode, data)
            for mode in ("container", "unsigned", "inspected")
            for data in (unsigned, sealed)
        ),
    ]
    for number, (mode, data) in enumerate(seeds):
        (folder / f"seed-{number:02}").write_bytes(bytes([MODES.index(mode)]) + data)
    return len(seeds)
