"""A run directory with an untrained student and its true reference logits: seconds, not minutes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from qdr_edge.checkpoint import save_checkpoint
from qdr_edge.preprocess import load_image
from qdr_edge.samples import read_csv, write_csv
from qdr_export.canonical import build_canonical
from qdr_export.reference import Reference
from qdr_train.synth import generate
from tests.networks import checkpoint

SIZE = 64


def small_run(root: Path) -> Path:
    """A run of one fundus student, with validation and test images drawn by the generator."""
    samples = read_csv(generate(root / "eyes", 8, 3, 96, workers=1))
    folder = root / "run"
    folder.mkdir()
    write_csv(folder / "data.csv", samples)
    (folder / "run.json").write_text(json.dumps({"format": "qdr-run", "name": "tiny"}))
    made = checkpoint("student", size=SIZE, labels=samples.labels)
    rows = [s for split in ("val", "test") for s in samples.select("fundus", split)]
    pixels = np.stack([load_image(s.file, made.preprocess) for s in rows])
    logits = Reference(build_canonical(made)).infer(pixels)
    made = replace(
        made,
        probe={"reference_logits": logits, "qat_logits": logits + np.float32(0.01)},
        provenance={**made.provenance, "data_sha256": samples.sha256},
    )
    save_checkpoint(folder / "student-fundus", made)
    return folder
