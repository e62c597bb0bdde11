"""Files that are whole or absent: atomic writes, hashes, canonical JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from qdr_edge.errors import OutputError, QdrError

_CHUNK_BYTES = 1 << 20


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` so that at every instant the old or the new file is there.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(path)
    temporary = None
    replaced = False
    try:
        # A result is as readable as any file the user writes; a temporary file is private.
        temporary = _write_beside(path, data, 0o666 & ~_umask())
        temporary.replace(path)
        temporary, replaced = None, True
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"written, but a power cut could still undo it: {error.strerror or error}"
            if replaced
            else f"cannot write: {error.strerror or error}",
            where=str(path),
            expected="a writable folder with free space",
            fix="write it again"
            if replaced
            else "choose another output folder; what stood there before is untouched",
        ) from error
    finally:
        _discard(temporary)


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file that other programs add to as well.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=str(path),
            expected="a file you may add to",
            fix="name another one",
        ) from error


def write_once(path: Path, content: bytes, *, mode: int, what: str = "a file") -> None:
    """Write a file whole or not at all, never over an existing one.

    Args:
        path: the file.
        content: its bytes.
        mode: its permissions, from the first instant on.
        what: what to call an existing file in the error.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    temporary = None
    try:
        temporary = _write_beside(path, content, mode)
        # A hard link fails if the name exists; a rename would silently replace it.
        os.link(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        exists = isinstance(error, FileExistsError)
        raise OutputError(
            f"{what} exists here already" if exists else f"cannot write: {error.strerror or error}",
            where=str(path),
            expected="a free name in a writable folder",
            fix="choose another name, or move the old file away first",
        ) from error
    finally:
        _discard(temporary)


def read_input(path: Path, problem: type[QdrError], *, expected: str, fix: str = "") -> bytes:
    """The content of a file that a user named.

    Raises:
        QdrError: It cannot be read; of the class `problem`.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise problem(
            f"cannot read: {error.strerror or error}",
            where=str(path),
            expected=expected,
            fix=fix or "check the path",
        ) from error


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


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    """Write and sync a temporary file in `path`'s own folder: a rename is atomic only there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left[:_CHUNK_BYTES]) :]
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _discard(temporary)
        raise
    return temporary


def _discard(temporary: Path | None) -> None:
    """Remove a temporary file, if any; a disk that refuses must not hide the first error."""
    if temporary is not None:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
