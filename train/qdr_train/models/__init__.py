"""The networks: teachers, students, and the two they are compared with."""

from qdr_train.models.blocks import Classifier
from qdr_train.models.registry import MODELS, build

__all__ = ["MODELS", "Classifier", "build"]
