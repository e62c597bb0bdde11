"""`qdr-edge data synth`: what the user sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdr_edge.errors import OutputError
from qdr_train.commands.data import app


def test_synth_writes_a_data_set_and_says_it_is_synthetic(tmp_path: Path) -> None:
    out = tmp_path / "eyes"
    arguments = ["synth", str(out), "--patients", "1", "--seed", "3", "--size", "64"]
    result = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert f"SYNTHETIC data set: {out / 'synthetic.csv'}" in result.stdout
    assert (out / "synthetic.csv").is_file()


def test_synth_refuses_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(app, ["synth", str(tmp_path), "--patients", "1", "--size", "64"])
    assert isinstance(result.exception, OutputError)
    assert "fix" not in str(result.exception)
    assert "name another folder" in str(result.exception)


@pytest.mark.parametrize("module", ["numpy", "cv2", "torch", "rich.progress"])
def test_the_command_module_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, qdr_train.commands.data; sys.exit({module!r} in sys.modules)"
    paths = [str(Path(__file__).parents[2] / part) for part in ("", "train")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"], check=False
    )
    assert done.returncode == 0
