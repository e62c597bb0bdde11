"""The recipe: what to train, as strict models over the YAML that users edit."""

from qdr_train.recipe.parts import (
    MODALITIES,
    Data,
    Distill,
    Init,
    Loss,
    Modality,
    Model,
    OperatingPoint,
    Optimizer,
    Quantization,
    Views,
)
from qdr_train.recipe.schema import Recipe, Stage, StudentStage, TeacherStage

__all__ = [
    "MODALITIES",
    "Data",
    "Distill",
    "Init",
    "Loss",
    "Modality",
    "Model",
    "OperatingPoint",
    "Optimizer",
    "Quantization",
    "Recipe",
    "Stage",
    "StudentStage",
    "TeacherStage",
    "Views",
]
