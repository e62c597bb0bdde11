"""Engines are kept for exactly their key, and only ours are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qdr_edge.runtime.engine_cache import EngineKey, cache_folder, load_engine, store_engine


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("_cache")
def test_an_engine_is_cached_for_exactly_its_key() -> None:
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    assert load_engine(key) is None
    store_engine(key, b"engine")
    assert load_engine(key) == b"engine"
    for other in (
        replace(key, model_sha256="b" * 64),
        replace(key, device="sm_90"),
        replace(key, runtime_version="10.4.0"),
        replace(key, flags="fp16"),
    ):
        assert load_engine(other) is None
        # An authentic engine under another key's name must not be accepted either.
        path = cache_folder() / f"{key.digest}.engine"
        (cache_folder() / f"{other.digest}.engine").write_bytes(path.read_bytes())
        assert load_engine(other) is None


@pytest.mark.usefixtures("_cache")
def test_a_cached_engine_that_somebody_else_wrote_is_not_used() -> None:
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    store_engine(key, b"engine")
    path = cache_folder() / f"{key.digest}.engine"
    good = path.read_bytes()
    for content in (good[:-1], good + b"x", bytes([good[0] ^ 1]) + good[1:], b"", b"\0" * 32):
        path.write_bytes(content)
        assert load_engine(key) is None
    path.write_bytes(good)
    assert load_engine(key) == b"engine"


@pytest.mark.usefixtures("_cache")
def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QDR_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    key = EngineKey("a" * 64, "sm_87", "10.3.0", "int8")
    store_engine(key, b"engine")
    assert load_engine(key) is None
