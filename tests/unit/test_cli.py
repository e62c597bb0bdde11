"""The command line: one line per error, the family's exit code, every command documented."""

import os
import subprocess
import sys

import pytest
import typer

from qdr_edge import cli
from qdr_edge.errors import ImageError


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qdr_edge.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_lists_every_command_in_the_order_of_the_work():
    result = run_cli("--help")
    assert result.returncode == 0
    places = [result.stdout.index(f"\n  {name} ") for name in cli.ORDER]
    assert places == sorted(places)
    assert "not a medical device" in result.stdout


@pytest.mark.parametrize("name", cli.ORDER)
def test_every_command_has_help(name):
    result = run_cli(name, "--help")
    assert result.returncode == 0
    assert "Usage: qdr-edge" in result.stdout


def test_unknown_command_is_a_usage_error():
    result = run_cli("exprot")
    assert result.returncode == cli.USAGE_ERROR
    assert "exprot" in result.stderr


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_explained_error_is_one_line_unless_debugged(debug, monkeypatch, capsys):
    def broken() -> None:
        raise ImageError("is empty", where="a.jpg")

    monkeypatch.setattr(cli.CommandGroup, "get_command", _single(broken))
    if debug:
        with pytest.raises(ImageError):
            cli.main(["broken", "--debug"])
        return
    with pytest.raises(SystemExit) as stop:
        cli.main(["broken"])
    assert stop.value.code == ImageError.exit_code
    assert capsys.readouterr().err == "error: a.jpg: is empty\n"


def test_missing_extra_names_the_command_that_adds_it(monkeypatch, capsys):
    def needs_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli.CommandGroup, "get_command", _single(needs_torch))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train"])
    assert stop.value.code == 10
    assert "pip install 'qdr-edge[train]'" in capsys.readouterr().err


def _single(function):
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return lambda self, ctx, name: typer.main.get_command(app)
