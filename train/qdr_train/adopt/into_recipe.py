"""A user's network in a recipe: in place of its students', or alone for calibration only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from qdr_edge.errors import RecipeError
from qdr_train.adopt.convert import Adopted
from qdr_train.recipe import Model, Recipe, StudentStage
from qdr_train.recipe.files import validate
from qdr_train.recipe.parts import OWN


def weight_bytes(adopted: Adopted) -> bytes:
    """The weights as a safetensors file."""
    content: bytes = safetensors.torch.save(dict(adopted.weights))
    return content


def with_own(recipe: Recipe, adopted: Adopted) -> Recipe:
    """The recipe with the network in place of every student's.

    Raises:
        RecipeError: The recipe has no student.
    """
    students = {n: s for n, s in recipe.stages.items() if isinstance(s, StudentStage)}
    if not students:
        raise RecipeError(
            "no student whose network could be replaced",
            where=f"recipe {recipe.name}",
            expected="a recipe with a student stage, such as real-fundus",
        )
    model = Model(name=OWN, own=adopted.own)
    stages = {n: s.model_copy(update={"model": model}) for n, s in students.items()}
    return recipe.model_copy(update={"stages": {**recipe.stages, **stages}})


def calibration_recipe(
    adopted: Adopted,
    *,
    modality: str,
    scheme: str,
    images: int,
    calibration: str,
    exclude: Sequence[str],
    labels: Sequence[str],
    exclusive: bool | None,
    seed: int,
) -> Recipe:
    """A recipe that trains nothing: the network's own weights, calibrated.

    Args:
        adopted: The network.
        modality: "fundus" or "oct".
        scheme: Name of the quantization scheme.
        images: Training images to calibrate on.
        calibration: How ranges are chosen; see `Quantization.calibration`.
        exclude: Globs over layers that stay in float.
        labels: In the order of the network's outputs; empty for the data's order.
        exclusive: Each image has one label; None for what the data declares.
        seed: Of the choice of images.

    Raises:
        RecipeError: A value does not fit.
    """
    source = Path(adopted.own.source)
    name = re.sub(r"[^a-z0-9._-]+", "-", source.stem.lower()).strip("-._") or OWN
    stage = {
        "role": "student",
        "modality": modality,
        "model": {"name": OWN, "own": adopted.own},
        "epochs": 0,
        "qat_epochs": 0,
        "frozen_epochs": 0,
        "calibration_images": images,
        "quantization": {"calibration": calibration, "exclude": list(exclude)},
    }
    known = labels[0] if len(labels) == 1 else list(labels) or None
    raw = {
        "name": name,
        "summary": f"{source.name}, calibrated without training",
        "seed": seed,
        "size": adopted.own.size,
        "scheme": scheme,
        "data": {"labels": known, "exclusive": exclusive},
        "stages": {f"student-{modality}": stage},
    }
    return validate(raw, Path("qdr-edge quantize"))
