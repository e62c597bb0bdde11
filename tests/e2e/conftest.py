"""One small run of the whole job, shared by the end-to-end tests."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

RECIPE = """
name: tiny
summary: seconds, not accuracy
seed: 3
size: 64
defaults:
  teacher:
    model: {name: qdr-small, width: 0.5}
    batch: 16
    epochs: 1
  student:
    model: {name: qdr-small, width: 0.5}
    batch: 16
    epochs: 1
    qat_epochs: 1
    frozen_epochs: 1
stages:
  teacher-fundus: {modality: fundus}
  teacher-oct: {modality: oct}
  student-oct: {modality: oct, teachers: [teacher-fundus]}
  student-fundus: {modality: fundus, teachers: [teacher-oct]}
"""


@dataclass(frozen=True)
class Pipeline:
    """Where the small run stands."""

    root: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def bundle(self, modality: str) -> Path:
        return self.run / "export" / f"tiny-{modality}.qdr"

    def cli(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `qdr-edge` as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "qdr_edge.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Pipeline:
    root = tmp_path_factory.mktemp("pipeline")
    made = Pipeline(root, {**os.environ, "QDR_EDGE_HOME": str(root / "home")})
    (root / "tiny.yaml").write_text(RECIPE)
    for arguments in (
        ("data", "synth", made.data, "--patients", 16, "--seed", 5, "--size", 96),
        ("train", root / "tiny.yaml", "--data", made.data / "synthetic.csv", "--out", made.run),
        ("export", made.run),
    ):
        result = made.cli(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
    return made
