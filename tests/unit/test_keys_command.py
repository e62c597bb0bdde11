"""`qdr-edge keys`: a key is made once, shown without its secret, trusted by its public half."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdr_edge.bundle import read_bundle
from qdr_edge.commands.keys import app
from qdr_edge.errors import OutputError, QdrError, SignatureError
from qdr_edge.keys import PublicKey, SigningKey, TrustStore
from tests.bundles import sealed

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, QdrError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_made_key_signs_and_is_trusted_by_its_public_half(run: Run, tmp_path: Path) -> None:
    out = run("new", "maker.pem")
    key = SigningKey.load(tmp_path / "maker.pem")
    assert key.key_id in out
    assert "maker.pub.pem" in out
    assert stat.S_IMODE((tmp_path / "maker.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "maker.pub.pem").stat().st_mode) == 0o644
    assert PublicKey.load(tmp_path / "maker.pub.pem") == key.public
    data = sealed(key)
    with pytest.raises(SignatureError, match="unknown key"):
        read_bundle(data)
    assert key.key_id in run("trust", "maker.pub.pem")
    assert read_bundle(data).key_id == key.key_id
    assert TrustStore.local().keys.keys() == {key.key_id}


@pytest.mark.parametrize("name", ["maker.pem", "maker.pub.pem"])
def test_nothing_is_ever_overwritten(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists here already"):
        run("new", "maker.pem")
    assert (tmp_path / name).read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_show_tells_whose_and_never_the_secret(run: Run, tmp_path: Path) -> None:
    run("new", "maker.pem")
    key = SigningKey.load(tmp_path / "maker.pem")
    (tmp_path / "x.qdr").write_bytes(sealed(key))
    for name in ("maker.pem", "maker.pub.pem", "x.qdr"):
        out = run("show", name)
        assert key.key_id in out
        assert "trusted    no" in out
        assert "PRIVATE" not in out
    assert "NOT ACCEPTED" in run("show", "x.qdr")
    run("trust", "maker.pub.pem")
    assert "trusted    yes" in run("show", "maker.pem")
    out = run("show", "x.qdr", "--out", "signer.pem")
    assert f"valid, key {key.key_id}" in out
    assert PublicKey.load(tmp_path / "signer.pem") == key.public
    with pytest.raises(OutputError, match="exists here already"):
        run("show", "maker.pem", "--out", "signer.pem")


def test_show_of_what_holds_no_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.qdr").write_bytes(sealed(None))
    assert "unsigned" in run("show", "x.qdr")
    with pytest.raises(SignatureError, match="is not known here"):
        run("show", "x.qdr", "--out", "signer.pem")
    (tmp_path / "text").write_text("hello")
    for name in ("text", "missing"):
        with pytest.raises(SignatureError):
            run("show", name)


def test_only_a_public_key_is_trusted(run: Run) -> None:
    run("new", "maker.pem")
    with pytest.raises(SignatureError, match="not an Ed25519 public key"):
        run("trust", "maker.pem")
    assert TrustStore.local().keys == {}


def test_a_private_key_that_others_read_is_not_shown(run: Run, tmp_path: Path) -> None:
    run("new", "maker.pem")
    (tmp_path / "maker.pem").chmod(0o640)
    with pytest.raises(SignatureError, match="chmod 600"):
        run("show", "maker.pem")
