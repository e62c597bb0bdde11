"""Where a result comes from: seeds, versions, commit."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("qdr-edge", "torch", "numpy", "opencv-python-headless", "pillow", "safetensors")


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed of its own for every purpose, so that adding a draw to one moves no other.

    Each epoch draws from its own seed: what is resumed needs no generator state to continue
    exactly, and no draw of one stage can shift another.

    Args:
        seed: The recipe's.
        names: What it is for, such as stage and epoch.

    Returns:
        0 <= seed < 2**63.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def tool_versions() -> dict[str, str]:
    """Versions of what computes the result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def git_commit() -> str | None:
    """The commit of the source tree, with "+changes" if files differ; None outside git."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
