"""Files that are whole or absent: atomic writes, hashes, canonical JSON."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from qdr_edge.errors import OutputError

_CHUNK_BYTES = 1 << 20


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` so that at every instant the old or the new file is there.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(path)
    temporary = None
    try:
        # The temporary file must be in the same folder: rename is atomic within a file system only.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp makes files private; a result is as readable as any file the user writes.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            expected="a writable folder with free space",
            fix="choose another output folder; what stood there before is untouched",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def make_folder(
    folder: Path, *, mode: int = 0o777, fix: str = "name another folder with --out"
) -> None:
    """Make a folder and its parents, before any work is done for nothing.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise OutputError(
            f"cannot make this folder: {error.strerror or error}",
            where=str(folder),
            expected="a place you may write to",
            fix=fix,
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(content: bytes) -> str:
    """SHA-256 of `content`, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: object) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
