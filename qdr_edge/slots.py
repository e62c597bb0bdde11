"""The two slots of a device: which bundle is active, and how old a bundle may be.

    ROOT/state.json       the active slot, its bundle's SHA-256, the rollback counter
    ROOT/a/bundle.qdr     one bundle
    ROOT/b/bundle.qdr     the one before it, or the next
    ROOT/.lock            held by whoever installs

Pointer and counter stand in one file, so that one rename changes both: there is no instant at
which a device runs a bundle that its counter forbids, or forbids the one that it runs.
Nothing here writes; `install.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from qdr_edge.bundle import read_whole
from qdr_edge.errors import BundleError, SignatureError
from qdr_edge.files import canonical_json, sha256_bytes

SLOTS: Final = ("a", "b")
BUNDLE_FILE: Final = "bundle.qdr"
STATE_FILE: Final = "state.json"
LOCK_FILE: Final = ".lock"
MAX_STATE_BYTES: Final = 4096

Slot = Literal["a", "b"]


class State(BaseModel):
    """What `state.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["qdr-slots"] = "qdr-slots"
    version: Literal[1] = 1
    active: Slot
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    security_version: int = Field(ge=0, le=2**31 - 1)

    @property
    def spare(self) -> Slot:
        """The slot that is not active."""
        return "b" if self.active == "a" else "a"

    def to_bytes(self) -> bytes:
        """The file's content."""
        return canonical_json(self.model_dump()) + b"\n"


@dataclass(frozen=True)
class Active:
    """The active bundle's bytes, which are those that were installed, and the state they fit."""

    state: State
    path: Path
    content: bytes


def slot_file(root: Path, slot: Slot) -> Path:
    """Where a slot's bundle lies."""
    return root / slot / BUNDLE_FILE


def read_state(root: Path) -> State | None:
    """The device's state; None before the first installation.

    Raises:
        BundleError: it is there and cannot be read. It is never guessed: a guessed counter would
            let an old bundle in.
    """
    path = root / STATE_FILE
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"cannot read: {error.strerror}") from error
    if len(raw) > MAX_STATE_BYTES:
        raise _damaged(path, f"larger than {MAX_STATE_BYTES} bytes")
    try:
        state = State.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()) from None
    if state.to_bytes() != raw:
        raise _damaged(path, "not in the one form that is written")
    return state


def read_active(root: Path) -> Active:
    """Read the active bundle, once; it is what was installed, but nobody verified it yet.

    Raises:
        BundleError: nothing is installed, or a file cannot be read.
        SignatureError: the slot holds another file than was installed.
    """
    state = read_state(root)
    while True:
        if state is None:
            raise nothing_installed(root)
        path = slot_file(root, state.active)
        content = read_whole(path)
        if sha256_bytes(content) == state.sha256:
            return Active(state, path, content)
        # An installation may have taken this slot between the two reads: then the state moved on.
        before, state = state, read_state(root)
        if state == before:
            raise SignatureError(
                "not the bundle that was installed",
                where=str(path),
                expected=f"SHA-256 {before.sha256[:16]}…",
                fix="run `qdr-edge install` with a bundle of the maker, or with --rollback",
            )


def nothing_installed(root: Path) -> BundleError:
    """The error of a folder without an active bundle."""
    return BundleError(
        "no bundle is installed here",
        where=str(root),
        expected=f"a folder with {STATE_FILE}",
        fix=f"run `qdr-edge install BUNDLE --root {root}`",
    )


def _damaged(path: Path, problem: str) -> BundleError:
    return BundleError(
        f"the device's state cannot be used: {problem}",
        where=str(path),
        expected="the file that `qdr-edge install` wrote",
        fix="restore it; removing it and installing again also forgets the rollback counter",
    )
