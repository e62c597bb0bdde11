"""Machines as trees of files, planted below a temporary root; see machines/README.md."""

from __future__ import annotations

from pathlib import Path

import yaml

from qdr_bench.machine.tree import ProcTree

MACHINES = Path(__file__).parent / "machines"


def nodes(name: str) -> dict[str, str]:
    """Path below `/` to content."""
    content: dict[str, str] = yaml.safe_load((MACHINES / f"{name}.yaml").read_text())
    return content


def plant(root: Path, files: dict[str, str]) -> ProcTree:
    """Write files below a root and return it as a tree."""
    for path, text in files.items():
        node = root / path.lstrip("/")
        node.parent.mkdir(parents=True, exist_ok=True)
        node.write_text(text)
    return ProcTree(root)
