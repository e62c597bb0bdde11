"""A run whose bundle `qdr-edge bench` measures in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qdr_edge.bundle import write_bundle
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import development_key
from tests.bundles import fundus, onnx_model, png, working_entries

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 24


def make_run(folder: Path) -> Path:
    """A run as export leaves it: bundle, float twin, parity file, labelled images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QDR_EDGE_HOME", str(folder / "home"))
        export = folder / "run" / "export"
        export.mkdir(parents=True)
        described, entries = working_entries()
        # Another network than the artefact's: flips and differences are real.
        twin = onnx_model(seed=7)
        described = described.model_copy(
            update={"provenance": {"float_twin_sha256": sha256_bytes(twin)}}
        )
        write_bundle(export / "tiny.qdr", described, entries, development_key().key)
    (export / "tiny.float.onnx").write_bytes(twin)
    rung = {"name": "openvino", "runtime": "openvino 1", "role": "gates", "status": "ran",
            "exact": 7, "images": 8, "largest": 0.25, "reason": "",
            "flips": [{"image": "<b>a.png", "label": "DR", "logit": 0.1}]}  # fmt: skip
    (export / "tiny.parity.json").write_text(json.dumps({"rungs": [rung]}))
    rows = ["file,modality,labels,patient,eye,split"]
    for index in range(IMAGES):
        (folder / "run" / f"{index}.png").write_bytes(png(fundus(index, side=160)))
        labels = ("NOR", "AMD", "DR", "AMD;DR")[index * 7 % 4]
        split = "test" if index < 20 else "val"
        rows.append(f"{index}.png,fundus,{labels},p{index // 2},R,{split}")
    (folder / "run" / "data.csv").write_text("\n".join(rows) + "\n")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "qdr_edge.cli", "bench", *arguments]


def environment(folder: Path) -> dict[str, str]:
    packages = os.pathsep.join(str(ROOT / name) for name in (".", "train", "export", "benchmarks"))
    return {**os.environ, "QDR_EDGE_HOME": str(folder / "home"), "PYTHONPATH": packages}


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def load(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    return content
