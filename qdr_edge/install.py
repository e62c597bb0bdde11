"""Install a bundle on a device: two slots, and at every instant the old or the new is active.

The order never changes: take the lock, read the bundle once, do every step of a loader including
the self-test, write those very bytes to the slot that is not active, then change the state. The
state is the only thing a loader follows, and it changes in one rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qdr_edge.bundle import Bundle, OnStep, inspect_bundle, read_bundle, read_whole
from qdr_edge.errors import BundleError, OutputError
from qdr_edge.files import atomic_write, make_folder, sha256_bytes, sync_folder
from qdr_edge.slots import (
    BUNDLE_FILE,
    LOCK_FILE,
    SLOTS,
    STATE_FILE,
    Slot,
    State,
    nothing_installed,
    read_state,
    slot_file,
)

if TYPE_CHECKING:
    from qdr_edge.keys import TrustStore


@dataclass(frozen=True)
class Installed:
    """What an installation came to: the state, and the bundle that is active by it."""

    state: State
    bundle: Bundle


@dataclass(frozen=True)
class SlotReport:
    """One slot, for people: read, not verified. `problem` says why there is nothing to show."""

    slot: Slot
    active: bool
    bundle_id: str = ""
    model_version: str = ""
    security_version: int = 0
    signature: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Status:
    """What a device holds."""

    active: Slot | None
    security_version: int
    slots: tuple[SlotReport, ...]


def install(
    source: Path,
    root: Path,
    *,
    trust: TrustStore | None = None,
    target: str | None = None,
    threads: int = 0,
    on_step: OnStep | None = None,
) -> Installed:
    """Verify, self-test and activate a bundle; whatever fails, the active one stays active.

    An unsigned bundle is never installed: its security version would move the rollback counter.

    Args:
        source: the `.qdr` file.
        root: the device's folder; made if missing.
        trust: accepted signers; None means this user's trust store.
        target: which artefact to self-test; None takes the first that runs here.
        threads: threads of the self-test; 0 takes every core.
        on_step: called with a line for each step that held.

    Raises:
        BundleError, SignatureError, CompatibilityError, BackendError, SelfTestError: as `load`.
        OutputError: the folder cannot be written, or another installation is at work.
    """
    report = on_step or (lambda _line: None)
    with _locked(root):
        state = read_state(root)
        content = read_whole(source)
        bundle = _proven(content, source, state, trust, target, threads, report)
        if state is not None and _is_active(root, state, bundle):
            with _explained(root):
                # Its rename may have been cut off before it was safe.
                sync_folder(root)
            report(f"active already: slot {state.active}, the other slot is left as it is")
            return Installed(state, bundle)
        slot: Slot = state.spare if state else "a"
        path = slot_file(root, slot)
        _prepare(root, slot)
        atomic_write(path, content)
        report(f"written: slot {slot}")
        return _activate(root, state, slot, bundle, report)


def roll_back(
    root: Path,
    *,
    trust: TrustStore | None = None,
    target: str | None = None,
    threads: int = 0,
    on_step: OnStep | None = None,
) -> Installed:
    """Activate the other slot's bundle, after the same steps; the rollback counter stays.

    Raises:
        CompatibilityError: its security version is below the counter.
        BundleError, SignatureError, BackendError, SelfTestError, OutputError: as `install`.
    """
    report = on_step or (lambda _line: None)
    if read_state(root) is None:
        raise nothing_installed(root)
    with _locked(root):
        state = read_state(root)
        if state is None:
            raise nothing_installed(root)
        path = slot_file(root, state.spare)
        if not path.exists():
            raise BundleError(
                "there is no bundle to go back to",
                where=str(path),
                expected="two bundles installed one after the other",
                fix="install the bundle that you want",
            )
        bundle = _proven(read_whole(path), path, state, trust, target, threads, report)
        with _explained(root):
            # An installation may have been cut off before its slot was safe.
            sync_folder(path.parent)
            sync_folder(root)
        return _activate(root, state, state.spare, bundle, report)


def status(root: Path, *, trust: TrustStore | None = None) -> Status:
    """Show what a device holds; nothing is run.

    Raises:
        BundleError: the state cannot be read.
    """
    state = read_state(root)
    return Status(
        active=state.active if state else None,
        security_version=state.security_version if state else 0,
        slots=tuple(_report(root, slot, state, trust) for slot in SLOTS),
    )


def _proven(
    content: bytes,
    origin: Path,
    state: State | None,
    trust: TrustStore | None,
    target: str | None,
    threads: int,
    report: OnStep,
) -> Bundle:
    """Every step of a loader on bytes that are in memory already."""
    from qdr_edge.screener import open_screener

    bundle = read_bundle(
        content,
        trust=trust,
        minimum_security_version=state.security_version if state else 0,
        on_step=report,
        origin=origin,
    )
    open_screener(bundle, target=target, threads=threads, on_step=report).close()
    return bundle


def _is_active(root: Path, state: State, bundle: Bundle) -> bool:
    try:
        content = read_whole(slot_file(root, state.active))
    except BundleError:
        return False
    return bundle.sha256 == state.sha256 == sha256_bytes(content)


def _prepare(root: Path, slot: Slot) -> None:
    """Make the slot's folder last, and clear what a power cut left half-written.

    Only under the lock: nobody else can be writing there. The state is made safe as well: what it
    calls spare must not be overwritten while a cut could still bring back a state that needs it.
    """
    folder = root / slot
    make_folder(folder, fix="name another folder with --root")
    with _explained(folder):
        for litter in (*folder.glob(f".{BUNDLE_FILE}.*"), *root.glob(f".{STATE_FILE}.*")):
            litter.unlink()
        sync_folder(root)


def _activate(
    root: Path, state: State | None, slot: Slot, bundle: Bundle, report: OnStep
) -> Installed:
    counter = max(state.security_version if state else 0, bundle.manifest.security_version)
    changed = State(active=slot, sha256=bundle.sha256, security_version=counter)
    atomic_write(root / STATE_FILE, changed.to_bytes())
    report(f"active: slot {slot}, security version {counter} or newer from here on")
    return Installed(changed, bundle)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the device's lock; the kernel frees it even if this process is killed."""
    make_folder(root, fix="name another folder with --root")
    with _explained(root):
        # A first installation must find its folder again after a power cut.
        sync_folder(root.parent)
        descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                "another installation is at work",
                where=str(root),
                expected="one at a time",
                fix="wait for it to end",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror or error}",
            where=str(folder),
            expected="a folder you may write to, with free space",
            fix="mend it or name another with --root; the active bundle is untouched",
        ) from error


def _report(root: Path, slot: Slot, state: State | None, trust: TrustStore | None) -> SlotReport:
    active = state is not None and state.active == slot
    path = slot_file(root, slot)
    if not path.exists():
        return SlotReport(slot, active, problem="empty")
    try:
        content = read_whole(path)
        inspection = inspect_bundle(content, trust=trust)
    except BundleError as error:
        return SlotReport(slot, active, problem=error.what)
    manifest = inspection.manifest
    swapped = active and state is not None and sha256_bytes(content) != state.sha256
    return SlotReport(
        slot,
        active,
        manifest.bundle_id,
        manifest.model_version,
        manifest.security_version,
        inspection.signature,
        "not the bundle that was installed" if swapped else "",
    )
