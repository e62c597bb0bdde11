"""A cache of built engines, and of kernels' timings, that trusts nothing it did not write.

A TensorRT engine is executable code, so a cached one is used only if its HMAC-SHA256 under this
user's own secret holds; anything else is thrown away and built again. The code covers the cache
key too: an authentic engine of another model cannot be slipped in under this model's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qdr_edge.errors import OutputError
from qdr_edge.files import atomic_write, canonical_json, sha256_bytes
from qdr_edge.keys import home, write_private

MAX_ENGINE_BYTES: Final = 1 << 30
_MAC_BYTES: Final = 32
_SECRET_BYTES: Final = 32


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on; any difference means another engine."""

    model_sha256: str
    device: str
    runtime_version: str
    flags: str

    @property
    def digest(self) -> str:
        """The cache's file name for this engine."""
        parts = [self.model_sha256, self.device, self.runtime_version, self.flags]
        return sha256_bytes(canonical_json(parts))


def cache_folder() -> Path:
    """Where engines are kept: `$QDR_EDGE_CACHE`, else `$XDG_CACHE_HOME/qdr-edge/engines`."""
    configured = os.environ.get("QDR_EDGE_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "qdr-edge" / "engines"


def load_engine(key: EngineKey) -> bytes | None:
    """Return the cached engine, or None if there is none that this user wrote for this key."""
    path = cache_folder() / f"{key.digest}.engine"
    try:
        if path.stat().st_size > MAX_ENGINE_BYTES + _MAC_BYTES:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    mac, engine = content[:_MAC_BYTES], content[_MAC_BYTES:]
    return engine if hmac.compare_digest(mac, _mac(key, engine)) else None


def store_engine(key: EngineKey, engine: bytes) -> bool:
    """Keep an engine; False if it cannot be, which only costs the next start its time."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(cache_folder() / f"{key.digest}.engine", _mac(key, engine) + engine)
    except (OSError, OutputError):
        return False
    return True


def _mac(key: EngineKey, engine: bytes) -> bytes:
    message = key.digest.encode("ascii") + engine
    return hmac.new(_secret(), message, hashlib.sha256).digest()


def _secret() -> bytes:
    path = home() / "keys" / "engine-cache.secret"
    known = _private(path)
    if known is not None:
        return known
    fresh = secrets.token_bytes(_SECRET_BYTES)
    # A secret that others could read, or that cannot be kept, authenticates nothing: with another
    # one every lookup fails, and the engine is built again.
    with contextlib.suppress(OSError, OutputError):
        path.unlink(missing_ok=True)
        write_private(path, fresh)
    return _private(path) or fresh


def _private(path: Path) -> bytes | None:
    """A secret that is whole and this user's alone."""
    try:
        if path.stat().st_mode & 0o077:
            return None
        secret = path.read_bytes()
    except OSError:
        return None
    return secret if len(secret) == _SECRET_BYTES else None
