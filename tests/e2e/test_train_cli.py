"""`qdr-edge train` as a user types it: Ctrl-C, resume, one-line errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.cli import main
from tests.eyes import write_eyes, write_recipe


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "qdr_edge.cli", "train", *map(str, arguments)]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, arguments)])
    return int(caught.value.code or 0), capsys.readouterr().err


def test_ctrl_c_loses_one_epoch_at_most_and_says_how_to_continue(tmp_path: Path) -> None:
    table, out = write_eyes(tmp_path / "eyes"), tmp_path / "run"
    arguments = [write_recipe(tmp_path), "--data", table, "--out", out, "--threads", 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Long enough that the signal comes while it trains.
    process = subprocess.Popen(
        command(*arguments, "--set", "teacher.epochs=500"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    state = out / "teacher-fundus" / "state.json"
    deadline = time.monotonic() + 120
    while not state.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.strip().splitlines()[-1]
    assert f"qdr-edge train --resume --out {out}" in last
    assert "Traceback" not in errors
    assert state.is_file()


def test_begin_resume_and_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = write_eyes(tmp_path / "eyes"), tmp_path / "run"
    recipe = write_recipe(tmp_path)
    begin = [recipe, "--data", table, "--out", out, "--threads", 1, "--epochs-scale", 0.5]
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, begin)])
    assert not caught.value.code
    shown = capsys.readouterr()
    assert f"qdr-edge export {out}" in shown.out
    assert "student-oct: reference validation mAP" in shown.err
    assert load_checkpoint(out / "student-oct").scheme is not None
    code, error = fails(capsys, *begin)
    assert code == 15
    assert "--resume" in error
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", "--out", str(out)])
    assert not caught.value.code
    assert "done before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["demoo", "--data", "x.csv", "--out", "run"], 5, "did you mean demo?"),
        (["demo", "--data", "x.csv", "--out", "run"], 4, "x.csv"),
        (["demo", "--size", "100", "--data", "x.csv", "--out", "run"], 5, "multiple of 32"),
        (["demo", "--set", "sise=64", "--data", "x.csv", "--out", "run"], 5, "did you mean 'size'"),
        (["demo", "--data", "x.csv"], 2, "--out"),
        (["demo", "--out", "run"], 2, "--data"),
        (["--data", "x.csv", "--out", "run"], 2, "RECIPE"),
        (["--resume", "--out", "run"], 6, "no training run"),
        (["--resume", "--out", "run", "--seed", "3"], 2, "keeps its recipe"),
    ],
)
def test_errors_are_one_line_with_their_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, error = fails(capsys, *arguments)
    assert found == code
    assert part in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_list_explains_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--list"])
    shown = capsys.readouterr().out
    for name in ("demo", "paper", "real-fundus", "mobilenetv3", "resnet50-latency"):
        assert name in shown
