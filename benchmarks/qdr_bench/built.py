"""Bundles that benchmarks need: trained, exported and kept by the project's own commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from qdr_edge.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]


def prepare(folder: Path) -> Path:
    """Make a cache folder with a key of its own and synthetic images; return their table."""
    folder.mkdir(parents=True, exist_ok=True)
    # The cached bundles and the key that signed them live and die together.
    os.environ["QDR_EDGE_HOME"] = str(folder / "keys")
    data = folder / "data" / "synthetic.csv"
    if not data.is_file():
        qdr_edge("data", "synth", str(data.parent), "--patients", "12", "--seed", "1",
                 "--size", "512")  # fmt: skip
    return data


def build(name: str, folder: Path, data: Path) -> Path:
    """Train for nought epochs, calibrate and export a recipe; return the bundle.

    A bundle of the same recipe and the same source code is used again.
    """
    recipe = ROOT / "train" / "recipes" / f"{name}.yaml"
    run = folder / name
    bundle = run / "export" / f"{name}-fundus.qdr"
    stamp = run / "source.sha256"
    source = _fingerprint(recipe)
    if bundle.is_file() and stamp.is_file() and stamp.read_text() == source:
        return bundle
    if run.exists():
        shutil.rmtree(run)
    qdr_edge("train", str(recipe), "--data", str(data), "--out", str(run))
    # Random weights decide at random: a flip there says nothing, and must not stop the timing.
    qdr_edge("export", str(run), "--force")
    atomic_write(stamp, source)
    return bundle


def qdr_edge(*arguments: str) -> None:
    """Run a command of the project; its own output says what went wrong."""
    print("$ qdr-edge", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "qdr_edge.cli", *arguments], check=True)


def _fingerprint(recipe: Path) -> str:
    digest = hashlib.sha256(recipe.read_bytes())
    for package in ("qdr_edge", "train/qdr_train", "export/qdr_export"):
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
