"""Bundles that benchmarks need: trained, exported and kept by the project's own commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from qdr_edge.errors import QdrError
from qdr_edge.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
# What runs on an x86 workstation; a bundle that two benchmarks build for the same is built once.
RUN_HERE = ("ort-x86", "openvino", "native")


def prepare(folder: Path, *, patients: int = 12, size: int = 512) -> Path:
    """Make a cache folder with a key of its own and synthetic images; return their table."""
    folder.mkdir(parents=True, exist_ok=True)
    # The cached bundles and the key that signed them live and die together.
    os.environ["QDR_EDGE_HOME"] = str(folder / "keys")
    data = folder / f"eyes-{patients}-{size}" / "synthetic.csv"
    if not data.is_file():
        qdr_edge("data", "synth", str(data.parent), "--patients", str(patients), "--seed", "1",
                 "--size", str(size))  # fmt: skip
    return data


def build(
    recipe: str,
    folder: Path,
    data: Path,
    *,
    name: str = "",
    settings: Sequence[str] = (),
    targets: Sequence[str] = (),
) -> Path:
    """Train a recipe whose network learns nothing, export it and return the bundle.

    A bundle of the same recipe, settings and source code is used again.

    Args:
        recipe: One that ships.
        folder: Cache.
        data: Table of images to calibrate and prove on.
        name: Of the run and the bundle; the recipe's own if empty.
        settings: KEY=VALUE, laid over the recipe.
        targets: What to export for; empty for the default ones.
    """
    name = name or recipe
    run = folder / name
    bundle = run / "export" / f"{name}-fundus.qdr"
    stamp = run / "source.sha256"
    source = _fingerprint(ROOT / "train" / "recipes" / f"{recipe}.yaml", (*settings, *targets))
    if bundle.is_file() and stamp.is_file() and stamp.read_text() == source:
        return bundle
    if run.exists():
        shutil.rmtree(run)
    changes = [word for setting in settings for word in ("--set", setting)]
    chosen = [word for target in targets for word in ("--target", target)]
    qdr_edge("train", recipe, "--data", str(data), "--out", str(run), *changes)
    # Random weights decide at random: a flip there says nothing, and must not stop the timing.
    qdr_edge("export", str(run), "--name", name, "--force", *chosen)
    atomic_write(stamp, source)
    return bundle


def qdr_edge(*arguments: str) -> None:
    """Run a command of the project; its own output says what went wrong."""
    print("$ qdr-edge", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "qdr_edge.cli", *arguments], check=True)


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark as a script; what goes wrong is one line, and the exit code says which."""
    try:
        sys.exit(main())
    except QdrError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)  # the command has said why


def _fingerprint(recipe: Path, words: Sequence[str]) -> str:
    digest = hashlib.sha256(recipe.read_bytes())
    digest.update(repr(list(words)).encode())
    for package in ("qdr_edge", "train/qdr_train", "export/qdr_export"):
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
