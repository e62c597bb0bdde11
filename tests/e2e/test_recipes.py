"""Every shipped recipe trains to checkpoints, at toy size and with nothing left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qdr_edge.checkpoint import load_checkpoint
from qdr_train.engine import program
from qdr_train.recipe import Recipe, StudentStage
from qdr_train.recipe.files import load_recipe, shipped_recipes
from tests.eyes import write_eyes

TOY = [
    *(f"{role}.{key}" for role in ("teacher", "student") for key in ("model.width=0.1", "batch=4")),
    "teacher.epochs=1",
    "student.calibration_images=4",
    "data.labels=[NOR, AMD, DR]",
    "data.max_images=8",
]
QAT = ["student.epochs=1", "student.qat_epochs=2", "student.frozen_epochs=1"]


def toy(path: Path) -> Recipe:
    whole = load_recipe(path)
    learns = any(stage.epochs for stage in whole.stages.values())
    return load_recipe(path, overrides=[*TOY, *(QAT if learns else [])], size=32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("eyes"), patients=12)


@pytest.mark.parametrize("name", shipped_recipes())
def test_recipe_trains_at_toy_size(name: str, table: Path, tmp_path: Path) -> None:
    recipe = toy(shipped_recipes()[name])
    out = program.begin(recipe, table, tmp_path / "run", program.Options(threads=1))
    assert json.loads((out / "run.json").read_text())["status"] == "done"
    for stage_name, stage in recipe.stages.items():
        checkpoint = load_checkpoint(out / stage_name)
        quantized = isinstance(stage, StudentStage) and stage.quantize
        assert (checkpoint.scheme is not None) == quantized
        assert ("reference_logits" in checkpoint.probe) == quantized
        assert all(np.isfinite(logits).all() for logits in checkpoint.probe.values())
        taught_by = stage.teachers if isinstance(stage, StudentStage) else ()
        assert set(checkpoint.provenance["teacher_sha256"]) == set(taught_by)
