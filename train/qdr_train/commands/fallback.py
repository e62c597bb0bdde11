"""A recipe that repeats a run's quantization with its costliest layers in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qdr_edge.errors import RecipeError
from qdr_edge.files import atomic_write
from qdr_train.engine.networks import BEST_FLOAT
from qdr_train.engine.run_folder import Run
from qdr_train.engine.state import state_sha256
from qdr_train.recipe import Init, Recipe, Stage, StudentStage
from qdr_train.recipe.files import dump_recipe

FILE = "fallback.yaml"


def require_budget(budget: float) -> None:
    """Check a share of the multiply-accumulates.

    Raises:
        RecipeError: It is none.
    """
    if not 0 < budget < 1:
        raise RecipeError(f"budget {budget}", where="--budget", expected="a share, such as 0.02")


def write_fallback(run: Run, chosen: Mapping[str, Sequence[str]]) -> Path:
    """Write the recipe into the run directory.

    Every stage begins with the float weights that the run selected and trains none in float, so
    that only quantization is repeated.

    Args:
        run: A finished run.
        chosen: For each scanned stage the layers to keep in float.

    Returns:
        The recipe's file.
    """
    recipe, labels = run.recipe, run.samples.labels
    stages = {name: _repeated(run, name, chosen.get(name, ())) for name in recipe.stages}
    data = recipe.data.model_copy(
        update={
            "labels": recipe.data.labels or tuple(labels.codes),
            "exclusive": labels.exclusive,
        }
    )
    name = f"{recipe.name}-fallback"
    repeated = recipe.model_copy(update={"name": name, "data": data, "stages": stages})
    # Read back as a whole: a copy is not checked.
    text = dump_recipe(Recipe.model_validate(repeated.model_dump()))
    path = run.folder / FILE
    atomic_write(path, text)
    return path


def _repeated(run: Run, name: str, in_float: Sequence[str]) -> Stage:
    stage = run.recipe.stages[name]
    folder = (run.folder / name).resolve()
    init = Init(file=str(folder), sha256=state_sha256(folder, BEST_FLOAT), layout="qdr")
    model = stage.model.model_copy(update={"init": init})
    changes: dict[str, object] = {"model": model, "epochs": 0}
    if isinstance(stage, StudentStage):
        exclude = tuple(dict.fromkeys((*stage.quantization.exclude, *in_float)))
        changes["quantization"] = stage.quantization.model_copy(update={"exclude": exclude})
    return stage.model_copy(update=changes)
