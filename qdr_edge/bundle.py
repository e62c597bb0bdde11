"""Seal a bundle, and open one in the only safe order.

The order of work never changes: read all bytes once, check the container, verify the signature over
the manifest's exact bytes, check versions, verify hashes. No runtime and no ONNX parser sees
a byte before that, and what they are given is the very object that was hashed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from qdr_edge.container import (
    MANIFEST_NAME,
    MAX_BUNDLE_BYTES,
    SIGNATURE_NAME,
    ContainerEntry,
    check_crc,
    check_name,
    extract,
    read_container,
    write_container,
)
from qdr_edge.errors import BundleError, CompatibilityError, SignatureError
from qdr_edge.files import atomic_write, sha256_bytes
from qdr_edge.keys import KEY_ID_DIGITS, SIGNATURE_BYTES, SigningKey, TrustStore
from qdr_edge.manifest import Artefact, EntryRecord, Manifest

_KEY_ID_BYTES: Final = KEY_ID_DIGITS // 2
SIGNATURE_ENTRY_BYTES: Final = _KEY_ID_BYTES + SIGNATURE_BYTES

OnStep = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose manifest and entries were verified.

    Args:
        manifest: what was signed.
        entries: by name; only those that `read_bundle` was asked for, each one hashed.
        key_id: who signed it; None if it was opened unsigned.
        content: the whole file.
        path: where it came from.
    """

    manifest: Manifest
    entries: Mapping[str, bytes]
    key_id: str | None
    content: bytes
    path: Path | None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return sha256_bytes(self.content)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return str(self.path) if self.path else self.manifest.bundle_id

    def artefact(self, target: str) -> Artefact:
        """The artefact of a target.

        Raises:
            CompatibilityError: the bundle has none for it.
        """
        artefact = self.manifest.artefacts.get(target)
        if artefact is None:
            raise CompatibilityError(
                f"no artefact for target {target!r}",
                where=self.name,
                expected=f"one of {', '.join(sorted(self.manifest.artefacts))}",
                fix=f"export again with `--target {target}`",
            )
        return artefact


@dataclass(frozen=True)
class Inspection:
    """A manifest that was read but not trusted: for people to look at, never to act upon."""

    manifest: Manifest
    signature: str
    sizes: Mapping[str, int]
    sha256: str


def write_bundle(
    path: Path, manifest: Manifest, entries: Mapping[str, bytes], key: SigningKey | None
) -> str:
    """Seal entries under a manifest and write the bundle atomically.

    Args:
        path: the `.qdr` file.
        manifest: its `key_id` and `entries` are filled in here.
        entries: by name, everything but the manifest and the signature.
        key: signs the manifest; None makes an unsigned bundle.

    Returns:
        SHA-256 of the file; the same input always gives the same bytes.

    Raises:
        BundleError: a name that is not allowed, a missing entry, a cap that would be passed.
        OutputError: the file cannot be written.
    """
    data = seal(manifest, entries, key)
    atomic_write(path, data)
    return sha256_bytes(data)


def seal(manifest: Manifest, entries: Mapping[str, bytes], key: SigningKey | None) -> bytes:
    """Return a sealed bundle's bytes; see `write_bundle`."""
    if not entries:
        raise BundleError("nothing to seal", expected="an entry for every artefact")
    for name in entries:
        check_name(name)
        if name in (MANIFEST_NAME, SIGNATURE_NAME):
            raise BundleError(f"entry {name} is written by the sealer", fix="choose another name")
    records = {
        name: EntryRecord(size=len(content), sha256=sha256_bytes(content))
        for name, content in entries.items()
    }
    # Through bytes and back: what is sealed has passed exactly the checks a reader makes.
    filled = manifest.model_copy(update={"key_id": key.key_id if key else "", "entries": records})
    raw = filled.to_bytes()
    Manifest.from_bytes(raw, where="manifest to be sealed")
    files = {MANIFEST_NAME: raw, **entries}
    if key:
        files[SIGNATURE_NAME] = bytes.fromhex(key.key_id) + key.sign(raw)
    return write_container(files)


def read_bundle(
    source: Path | bytes,
    *,
    trust: TrustStore | None = None,
    allow_unsigned: bool = False,
    minimum_security_version: int = 0,
    on_step: OnStep | None = None,
    origin: Path | None = None,
    only: Callable[[Bundle], Collection[str]] | None = None,
) -> Bundle:
    """Read and verify a bundle; nothing in it is parsed as a model.

    Args:
        source: a file, or its bytes.
        trust: accepted signers; None means this user's trust store.
        allow_unsigned: open a bundle without a signature. A wrong signature is never accepted.
        minimum_security_version: the device's rollback counter.
        on_step: called with a line for each step that held.
        origin: the file that bytes given as `source` came from, for messages.
        only: names the entries that will be used, told the verified manifest in a bundle without
            entries: those alone are hashed and handed on. None means every entry.

    Raises:
        BundleError: missing, truncated or malformed.
        SignatureError: unsigned, changed after signing, or signed by an unknown key.
        CompatibilityError: unknown schema, or older than the rollback counter.
    """
    report = on_step or (lambda _line: None)
    path = source if isinstance(source, Path) else origin
    where = str(path) if path else "bundle"
    data = read_whole(source) if isinstance(source, Path) else source
    report(f"read {len(data)} bytes")
    table = read_container(data, where=where)
    raw = _manifest_bytes(data, table, where)
    report(f"container: {len(table)} entries, stored, in order, no gaps")

    key_id = _verify_signature(data, table, raw, trust, allow_unsigned, where)
    report(f"signature: made by key {key_id}" if key_id else "signature: NONE, allowed on request")
    manifest = Manifest.from_bytes(raw, where=where)
    if manifest.key_id != (key_id or ""):
        raise SignatureError(
            f"the manifest names key {manifest.key_id or 'none'}, the signature {key_id or 'none'}",
            where=where,
            expected="the same key in both",
            fix="the signature was removed or exchanged: obtain the bundle again from its maker",
        )
    if manifest.security_version < minimum_security_version:
        raise CompatibilityError(
            f"security version {manifest.security_version} is older than this device accepts",
            where=where,
            expected=f"at least {minimum_security_version}",
            fix="install a newer bundle; rolling back is refused",
        )
    report(f"versions: schema {manifest.schema_version}, security {manifest.security_version}")
    _check_listed(table, manifest, where)
    described = Bundle(manifest, MappingProxyType({}), key_id, data, path)
    names = manifest.entries if only is None else only(described)
    entries = _verify_entries(data, table, manifest, names, where)
    number = len(entries) if only is None else f"{len(entries)} of {len(manifest.entries)}"
    report(f"hashes: {number} entries are what the manifest says")
    return replace(described, entries=MappingProxyType(entries))


def inspect_bundle(source: Path | bytes, *, trust: TrustStore | None = None) -> Inspection:
    """Read the manifest for display, whoever signed it; no entry is opened.

    Raises:
        BundleError: missing, truncated or malformed.
    """
    where = str(source) if isinstance(source, Path) else "bundle"
    data = read_whole(source) if isinstance(source, Path) else source
    table = read_container(data, where=where)
    raw = _manifest_bytes(data, table, where)
    try:
        key_id = _verify_signature(data, table, raw, trust, False, where)
        signature = f"valid, key {key_id}"
    except SignatureError as error:
        signature = f"NOT ACCEPTED: {error.what}"
    manifest = Manifest.from_bytes(raw, where=where)
    sizes = {name: entry.size for name, entry in table.items()}
    return Inspection(manifest, signature, sizes, sha256_bytes(data))


def read_whole(path: Path) -> bytes:
    """Read a bundle's file once, into memory; all that follows works on these bytes alone.

    Raises:
        BundleError: not a file, larger than the cap, or changed while it was read.
    """
    where = str(path)
    try:
        # O_NONBLOCK: opening a named pipe must not hang before its type is known.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as handle:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(
                    "not a file", where=where, expected="a .qdr file", fix="check the path"
                )
            if status.st_size > MAX_BUNDLE_BYTES:
                raise BundleError(
                    f"bundle of {status.st_size} bytes is too large",
                    where=where,
                    expected=f"at most {MAX_BUNDLE_BYTES} bytes",
                    fix="check that this file is a .qdr bundle",
                )
            # One byte more than there should be: a file that grows is noticed, never followed.
            data = handle.read(status.st_size + 1)
    except OSError as error:
        raise BundleError(
            f"cannot read bundle: {error.strerror}",
            where=where,
            expected="a .qdr file made by `qdr-edge export`",
            fix="check the path",
        ) from error
    if len(data) != status.st_size:
        raise BundleError(
            "the file changed while it was read",
            where=where,
            expected=f"{status.st_size} bytes",
            fix="wait until it is written completely, then try again",
        )
    return data


def _manifest_bytes(data: bytes, table: Mapping[str, ContainerEntry], where: str) -> bytes:
    if MANIFEST_NAME not in table:
        raise BundleError(
            f"malformed bundle: no {MANIFEST_NAME}",
            where=where,
            expected="a .qdr file made by `qdr-edge export`",
            fix="obtain the bundle again from its maker",
        )
    return extract(data, table[MANIFEST_NAME])


def _verify_signature(
    data: bytes,
    table: Mapping[str, ContainerEntry],
    raw: bytes,
    trust: TrustStore | None,
    allow_unsigned: bool,
    where: str,
) -> str | None:
    if SIGNATURE_NAME not in table:
        if allow_unsigned:
            return None
        raise SignatureError(
            "bundle is unsigned",
            where=where,
            expected=f"{SIGNATURE_NAME} by a trusted key",
            fix="have it signed, or pass --allow-unsigned for a test",
        )
    signature = extract(data, table[SIGNATURE_NAME])
    if len(signature) != SIGNATURE_ENTRY_BYTES:
        raise SignatureError(
            f"signature of {len(signature)} bytes",
            where=where,
            expected=f"{SIGNATURE_ENTRY_BYTES} bytes",
            fix="obtain the bundle again from its maker",
        )
    key_id = signature[:_KEY_ID_BYTES].hex()
    store = TrustStore.local() if trust is None else trust
    key = store.get(key_id)
    if key is None:
        raise SignatureError(
            f"signed by unknown key {key_id}",
            where=where,
            expected=f"one of the {len(store.keys)} keys trusted in {store.origin}",
            fix=f"if you trust the maker, put its public key into {store.origin} as {key_id}.pem",
        )
    if not key.verifies(signature[_KEY_ID_BYTES:], raw):
        raise SignatureError(
            "tampered: the manifest is not what was signed",
            where=where,
            expected=f"the manifest that key {key_id} signed",
            fix="do not use it; obtain the bundle again from its maker",
        )
    return key_id


def _check_listed(table: Mapping[str, ContainerEntry], manifest: Manifest, where: str) -> None:
    names = set(table) - {MANIFEST_NAME, SIGNATURE_NAME}
    for name in sorted(names ^ set(manifest.entries)):
        raise BundleError(
            f"entry {name} is {'not listed in' if name in names else 'missing, but listed in'} "
            "the manifest",
            where=where,
            expected="exactly the listed entries",
            fix="obtain the bundle again from its maker",
        )
    if not names:
        # The manifest's own checks ask only listed entries to be complete.
        raise BundleError(
            "the bundle holds no model",
            where=where,
            expected="an entry for every artefact",
            fix="obtain the bundle again from its maker",
        )


def _verify_entries(
    data: bytes,
    table: Mapping[str, ContainerEntry],
    manifest: Manifest,
    names: Collection[str],
    where: str,
) -> dict[str, bytes]:
    entries: dict[str, bytes] = {}
    for name in names:
        record = manifest.entries[name]
        content = extract(data, table[name])
        if len(content) != record.size or sha256_bytes(content) != record.sha256:
            raise SignatureError(
                f"tampered or damaged: entry {name} is not what the manifest says",
                where=where,
                expected=f"{record.size} bytes with SHA-256 {record.sha256[:16]}…",
                fix="do not use it; obtain the bundle again from its maker",
            )
        entries[name] = content
    for name in {MANIFEST_NAME, SIGNATURE_NAME, *names} & set(table):
        content = entries[name] if name in entries else extract(data, table[name])
        check_crc(table[name], content, where=where)
    return entries
