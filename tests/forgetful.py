"""A disk that forgets what was not synced: every state that a cut may leave of a recorded job.

What POSIX promises and no more: a file's bytes are safe once it is synced, a name once its folder
is. Until then a cut leaves any prefix of a folder's changes, and of unsynced bytes none, half or
all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Tree = Mapping[str, bytes]
SHARES: Final = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Call:
    """One call that changes the disk; paths, not descriptors."""

    name: str
    path: str
    content: bytes = b""
    target: str = ""


@dataclass
class _File:
    safe: bytes = b""
    written: bytes = b""


@dataclass
class ForgetfulDisk:
    """Replays calls and says what may be left at any moment."""

    folders: set[str]
    names: dict[str, _File]
    safe_folders: set[str] = field(init=False)
    safe_names: dict[str, _File] = field(init=False)
    pending: dict[str, list[tuple[str, str, _File | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.safe_folders = set(self.folders)
        self.safe_names = dict(self.names)

    @classmethod
    def of(cls, root: Path) -> ForgetfulDisk:
        """A disk that holds a folder, all of it safe."""
        names, folders = {}, {str(root)}
        for path in root.rglob("*"):
            if path.is_dir():
                folders.add(str(path))
            else:
                content = path.read_bytes()
                names[str(path)] = _File(content, content)
        return cls(folders, names)

    def play(self, call: Call) -> None:
        """Do what a call does to the page cache, and to the disk if it is a sync."""
        if call.name == "open":
            if call.path not in self.names:
                self.names[call.path] = _File()
                self._later("set", call.path, self.names[call.path])
        elif call.name == "mkdir":
            if call.path not in self.folders:
                self.folders.add(call.path)
                self._later("folder", call.path, None)
        elif call.name == "write":
            self.names[call.path].written += call.content
        elif call.name == "fsync" and call.path in self.names:
            self.names[call.path].safe = self.names[call.path].written
        elif call.name == "fsync":
            for change in self.pending.pop(call.path, []):
                _apply(change, self.safe_folders, self.safe_names)
        elif call.name in ("replace", "rename"):
            moved = self.names.pop(call.path)
            self.names[call.target] = moved
            # One change of one folder: a rename is never half done.
            assert Path(call.path).parent == Path(call.target).parent
            self._later(f"move {call.path}", call.target, moved)
        elif call.name == "link":
            self.names[call.target] = self.names[call.path]
            self._later("set", call.target, self.names[call.path])
        elif call.name == "unlink":
            del self.names[call.path]
            self._later("remove", call.path, None)
        elif call.name not in ("fchmod", "chmod"):
            raise AssertionError(f"no model of {call}")

    def _later(self, kind: str, path: str, file: _File | None) -> None:
        self.pending.setdefault(str(Path(path).parent), []).append((kind, path, file))

    def states(self) -> Iterator[Tree]:
        """All that a cut at this moment may leave."""
        prefixes = [range(len(changes) + 1) for changes in self.pending.values()]
        for lengths in itertools.product(*prefixes):
            folders, names = set(self.safe_folders), dict(self.safe_names)
            for changes, length in zip(self.pending.values(), lengths, strict=True):
                for change in changes[:length]:
                    _apply(change, folders, names)
            for share in SHARES:
                yield {
                    path: _left(file, share)
                    for path, file in names.items()
                    if str(Path(path).parent) in folders
                }


def crash_states(root: Path, calls: Iterable[Call]) -> list[Tree]:
    """Every different state that a cut may leave, from before the first call to after the last."""
    disk = ForgetfulDisk.of(root)
    found = {tuple(sorted(state.items())): state for state in disk.states()}
    for call in calls:
        disk.play(call)
        found |= {tuple(sorted(state.items())): state for state in disk.states()}
    return list(found.values())


def _apply(
    change: tuple[str, str, _File | None], folders: set[str], names: dict[str, _File]
) -> None:
    kind, path, file = change
    if kind == "folder":
        folders.add(path)
    elif kind == "remove":
        names.pop(path, None)
    else:
        if kind.startswith("move "):
            names.pop(kind.removeprefix("move "), None)
        assert file is not None
        names[path] = file


def _left(file: _File, share: float) -> bytes:
    unsafe = file.written[len(file.safe) :]
    return file.safe + unsafe[: int(share * len(unsafe))]
