"""One int8 network as a signed bundle for every engine of libqdr, and the programs that open it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdr_edge.bundle import write_bundle
from qdr_edge.decision import DecisionRule, decide
from qdr_edge.keys import SigningKey
from qdr_edge.manifest import Artefact, Decisions, Manifest, exact_text
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import open_model
from qdr_edge.scheme import EXACT_WIDE
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from tests import bundles
from tests.bundles import working_entries
from tests.networks import checkpoint, images

BACKENDS = {
    "native": ("native", "native"),
    "ort-x86": ("onnxruntime", "onnxruntime-x86"),
    "openvino": ("openvino", "openvino"),
    "openvino-ir": ("openvino", "openvino-ir"),
}


def vendor(package: str, pattern: str) -> Path:
    """A vendor's library inside its Python package."""
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin or "").parent.glob(pattern)) if found is not None else []
    if not files:
        pytest.skip(f"no {pattern} in the Python package {package}: libqdr's engine is NOT tested")
    return files[0]


@dataclass(frozen=True)
class Made:
    """What several tests share: the programs, a bundle's parts, its key, and where runtimes are."""

    build: Path
    manifest: Manifest
    entries: dict[str, bytes]
    key: SigningKey
    pem: Path
    environment: dict[str, str]

    def bundle(
        self, folder: Path, target: str = "", model: bytes | None = None, **changes: Any
    ) -> Path:
        """A bundle; `changes` are laid over one artefact, whose model may be another."""
        artefacts = dict(self.manifest.artefacts)
        entries = dict(self.entries)
        if target:
            artefacts[target] = artefacts[target].model_copy(update=changes)
        if model is not None:
            entries[artefacts[target].entry] = model
        manifest = self.manifest.model_copy(update={"artefacts": artefacts})
        path = folder / "test.qdr"
        write_bundle(path, manifest, entries, self.key)
        return path

    def ask(
        self, path: Path, target: str, pixels: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        command = [self.build / "tests" / "ask", path, self.pem, target, pixels]
        return subprocess.run(
            command, capture_output=True, check=False, cwd=path.parent,
            env={**os.environ, **(self.environment if environment is None else environment)},
        )  # fmt: skip

    def refuses(self, path: Path, target: str, status: int, **environment: str) -> str:
        """What it says of a bundle that it must refuse before it computes anything."""
        pixels = path.with_name("one.pixels")
        pixels.write_bytes(images(1, bundles.SIZE).tobytes())
        done = self.ask(path, target, pixels, {**self.environment, **environment})
        said = done.stderr.decode()
        assert (done.returncode, done.stdout) == (status, b""), said
        return said


def described() -> tuple[Manifest, dict[str, bytes]]:
    """One int8 network for every engine. Its weights are wide: without VNNI only exact kernels
    compute it rightly. Golden logits are those of Python's sessions, with no tolerance."""
    base, entries = working_entries()
    kept = {name: content for name, content in entries.items() if name.startswith("golden/")}
    canonical = build_canonical(
        checkpoint("student", size=bundles.SIZE, labels=bundles.LABELS, scheme=EXACT_WIDE)
    )
    artefacts, logits = {}, {}
    spec = PreprocessSpec("fundus", bundles.SIZE)
    decided = [vector for vector in base.golden if vector.logits]
    pixels = np.stack([load_image(entries[vector.image], spec) for vector in decided])
    for target, (backend, form) in BACKENDS.items():
        name = f"artefacts/{target}"
        kept[name] = emitter(form)(canonical)
        artefacts[target] = Artefact(entry=name, backend=backend, opset=19)
        session = open_model(backend, kept[name], threads=1)
        logits[target] = session.infer(pixels)
        session.close()
    middle = tuple(float(value) for value in logits["native"].mean(axis=0))
    rule = DecisionRule(bundles.LABELS, 1.0, middle)
    golden = []
    for vector in base.golden:
        if vector in decided:
            n = decided.index(vector)
            decision = decide(logits["native"][n], rule, "fundus")
            texts = {t: tuple(exact_text(float(v)) for v in rows[n]) for t, rows in logits.items()}
            vector = vector.model_copy(
                update={
                    "logits": texts,
                    "outcome": decision.outcome.value,
                    "positives": tuple(label.code for label in decision.findings),
                }
            )
        golden.append(vector)
    decisions = Decisions.of(rule, base.decision.gates, fitted_for="test", split="val")
    manifest = base.model_copy(
        update={"decision": decisions, "golden": tuple(golden), "artefacts": artefacts}
    )
    return manifest, kept
