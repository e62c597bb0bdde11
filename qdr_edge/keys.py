"""Ed25519 keys: who signed a bundle, and whose signatures this machine accepts.

A key's id is the first 16 hexadecimal digits of the SHA-256 of its raw public key. Keys live under
`$QDR_EDGE_HOME` (default `~/.config/qdr-edge`): `keys/` holds private ones, `trust/` public ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qdr_edge.errors import OutputError, SignatureError
from qdr_edge.files import atomic_write, make_folder, sha256_bytes, write_once

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_ID_DIGITS: Final = 16
SIGNATURE_BYTES: Final = 64
MAX_KEY_FILE_BYTES: Final = 16 * 1024
DEVELOPMENT_KEY_FILE: Final = "development.pem"
_OTHER_HOME: Final = "set QDR_EDGE_HOME to a folder you may write to"


def home() -> Path:
    """The folder of this user's keys and settings."""
    configured = os.environ.get("QDR_EDGE_HOME")
    return Path(configured) if configured else Path.home() / ".config" / "qdr-edge"


def key_id_of(raw_public_key: bytes) -> str:
    """Key id of a raw 32-byte public key."""
    return sha256_bytes(raw_public_key)[:KEY_ID_DIGITS]


@dataclass(frozen=True)
class PublicKey:
    """A raw Ed25519 public key, 32 bytes."""

    raw: bytes

    @property
    def key_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the raw key."""
        return key_id_of(self.raw)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` over `message` was made by this key's private part."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def to_pem(self) -> bytes:
        """The key as SubjectPublicKeyInfo PEM."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def save(self, path: Path) -> None:
        """Write a PEM file that everybody may read; an existing file is never replaced.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        write_once(path, self.to_pem(), mode=0o644, what="a key")

    @classmethod
    def load(cls, path: Path) -> PublicKey:
        """Read a PEM file.

        Raises:
            SignatureError: the file is missing or holds no Ed25519 public key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            PublicFormat,
            load_pem_public_key,
        )

        try:
            content, _ = _read_small(path)
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise SignatureError(
                "not an Ed25519 public key",
                where=str(path),
                expected="a PEM file with BEGIN PUBLIC KEY",
                fix="write it with `qdr-edge keys show KEY --out FILE`",
            )
        return cls(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key that seals bundles."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a fresh key from the operating system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read an unencrypted PKCS#8 PEM file.

        Raises:
            SignatureError: missing, not an Ed25519 private key, or readable by other users.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        content, mode = _read_small(path)
        if mode & 0o077:
            raise SignatureError(
                "private key can be read by other users",
                where=str(path),
                expected="file mode 0600",
                fix=f"run `chmod 600 {path}`; replace the key if the machine is shared",
            )
        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SignatureError(
                "not an unencrypted Ed25519 private key",
                where=str(path),
                expected="a PEM file with BEGIN PRIVATE KEY",
                fix="make one with `qdr-edge keys new`",
            )
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a PKCS#8 PEM file with mode 0600; an existing file is never replaced.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)

    def save_pair(self, path: Path, public_path: Path) -> None:
        """Write the private file as `save` does, and the public one beside it.

        Raises:
            OutputError: one of them exists or cannot be written.
        """
        if public_path.exists():
            # Looked at first, so that no private file is left without its public one.
            raise OutputError(
                "a key exists here already",
                where=str(public_path),
                expected="a free name",
                fix="choose another name, or move the old file away first",
            )
        self.save(path)
        self.public.save(public_path)

    @property
    def public(self) -> PublicKey:
        """The public part."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return PublicKey(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def key_id(self) -> str:
        """Key id of the public part."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature; Ed25519 is deterministic, so equal input, equal bytes."""
        return self.private.sign(message)


@dataclass(frozen=True)
class TrustStore:
    """The public keys whose bundles are accepted, by key id."""

    keys: Mapping[str, PublicKey]
    origin: str = "explicit list"

    @classmethod
    def of(cls, *keys: PublicKey) -> TrustStore:
        """A trust store of exactly these keys."""
        return cls({key.key_id: key for key in keys})

    @classmethod
    def from_folder(cls, folder: Path) -> TrustStore:
        """Read every `*.pem` in a folder; a missing folder trusts nobody.

        Raises:
            SignatureError: a file there is no Ed25519 public key.
        """
        paths = sorted(folder.glob("*.pem")) if folder.is_dir() else []
        loaded = [PublicKey.load(path) for path in paths]
        return cls({key.key_id: key for key in loaded}, str(folder))

    @classmethod
    def local(cls) -> TrustStore:
        """This user's trust store."""
        return cls.from_folder(trust_folder())

    def get(self, key_id: str) -> PublicKey | None:
        """The key of that id, or None."""
        return self.keys.get(key_id)


@dataclass(frozen=True)
class DevelopmentKey:
    """This user's own key for bundles that leave no workstation.

    `created` is True when this very call made it: say so to the user.
    """

    key: SigningKey
    path: Path
    created: bool


def trust_folder() -> Path:
    """Where this user's trusted public keys lie."""
    return home() / "trust"


def trust(key: PublicKey) -> Path:
    """Add a public key to this user's trust store and return its file."""
    folder = trust_folder()
    make_folder(folder, mode=0o700, fix=_OTHER_HOME)
    path = folder / f"{key.key_id}.pem"
    atomic_write(path, key.to_pem())
    return path


def development_key() -> DevelopmentKey:
    """Open this user's development key; made on first use and then trusted on this machine.

    Raises:
        SignatureError: the key file exists but is damaged or readable by others.
        OutputError: the key cannot be written.
    """
    path = home() / "keys" / DEVELOPMENT_KEY_FILE
    created = False
    if not path.exists():
        try:
            SigningKey.generate().save(path)
            created = True
        except OutputError:
            # Another process may have made it between the look and the write: then use its key.
            if not path.exists():
                raise
    key = SigningKey.load(path)
    if created or not (trust_folder() / f"{key.key_id}.pem").exists():
        trust(key.public)
    return DevelopmentKey(key, path, created)


def write_private(path: Path, content: bytes) -> None:
    """Write a secret with mode 0600, whole or not at all, never over an existing file.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    make_folder(path.parent, mode=0o700, fix=_OTHER_HOME)
    write_once(path, content, mode=0o600, what="a secret")


def public_key_of(path: Path) -> PublicKey:
    """The public half of a key file, private or public.

    Raises:
        SignatureError: the file holds no Ed25519 key, or is a private one that others can read.
    """
    content, _ = _read_small(path)
    private = b"PRIVATE KEY-----" in content
    return SigningKey.load(path).public if private else PublicKey.load(path)


def _read_small(path: Path) -> tuple[bytes, int]:
    """A key file's content and its mode, both of the very file that was opened."""
    try:
        with path.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            content = handle.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise SignatureError(
            f"cannot read key: {error.strerror}",
            where=str(path),
            expected="a readable PEM file",
            fix="check the path",
        ) from error
    if len(content) > MAX_KEY_FILE_BYTES:
        raise SignatureError(
            "too large for a key",
            where=str(path),
            expected=f"a PEM file of at most {MAX_KEY_FILE_BYTES} bytes",
            fix="check the path",
        )
    return content, mode
