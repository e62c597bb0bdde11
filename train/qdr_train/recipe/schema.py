"""Stages and the whole recipe.

A recipe names stages in the order they run. `defaults.teacher` and `defaults.student` hold what
stages of a role share; a stage overrides them key by key. docs/training.md explains every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from qdr_edge.scheme import QuantScheme
from qdr_train.recipe.parts import (
    MODALITIES,
    Count,
    Data,
    Distill,
    Loss,
    Modality,
    Model,
    OperatingPoint,
    Optimizer,
    Quantization,
    Views,
)
from qdr_train.recipe.strict import Positive, Strict

STRIDE = 32
MIN_SIZE, MAX_SIZE = STRIDE, 1024
STAGE_NAME = re.compile(r"(teacher|student)-[a-z0-9][a-z0-9-]*")


class Stage(Strict):
    """What teachers and students share.

    Args:
        modality: What the network sees.
        model: Architecture.
        batch: Images whose gradients one step of the optimizer adds up, over all processes.
        accumulate: Parts a batch is worked through in, where memory is short; each part has its
            own class prototypes.
        sampler: "shuffle": every image once an epoch; "balanced": as many draws, each label as
            often as any other.
        epochs: Passes over the training images in float; 0 keeps the initial weights.
        optimizer: Of the float epochs.
        loss: Of the labels.
        ema: Decay for each step of a moving average of the weights, which is what is validated
            and kept; 0 for none. Float epochs only: quantization-aware ones end frozen instead.
        patience: A phase ends after so many epochs without a better validation; 0 never.
        precision: "float32", or "bfloat16" or "float16" for mixed precision in float epochs.
        views: Augmentation.
    """

    modality: Modality
    model: Model
    batch: Positive = 32
    accumulate: Positive = 1
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    epochs: Count = 20
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Count = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    views: Views = Views()

    @model_validator(mode="after")
    def _batch_divides(self) -> Stage:
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch is {self.batch} and accumulate {self.accumulate}; "
                "expected a batch that divides into so many equal parts"
            )
        return self


class TeacherStage(Stage):
    """A float network that later guides students."""

    role: Literal["teacher"]


class StudentStage(Stage):
    """A quantized network: float epochs, then quantization-aware ones (QAT).

    Args:
        teachers: Names of earlier stages; none trains on labels alone.
        distill: How they guide; the same for each of them.
        quantize: False trains the float comparison (FDDM, ODDM) and stops after `epochs`.
        quantization: Layers and scales.
        qat_epochs: Epochs with fake quantization, after `epochs` in float.
        frozen_epochs: How many of them, at the end, run with observers and BatchNorm frozen;
            only these may become the checkpoint.
        qat_optimizer: Of the QAT epochs.
        calibration_images: Training images that set the first activation ranges.
    """

    role: Literal["student"]
    teachers: tuple[str, ...] = ()
    distill: Distill = Distill()
    quantize: bool = True
    quantization: Quantization = Quantization()
    qat_epochs: Count = 8
    frozen_epochs: Count = 3
    qat_optimizer: Optimizer = Optimizer(lr=2e-4, warmup_epochs=0.0)
    calibration_images: Positive = 64

    @field_validator("teachers", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _freeze_fits(self) -> StudentStage:
        least = 1 if self.qat_epochs else 0
        if self.quantize and not least <= self.frozen_epochs <= self.qat_epochs:
            raise ValueError(
                f"frozen_epochs is {self.frozen_epochs} and qat_epochs {self.qat_epochs}; "
                f"expected {least} <= frozen_epochs <= qat_epochs"
            )
        return self


AnyStage = Annotated[TeacherStage | StudentStage, Field(discriminator="role")]


class Recipe(Strict):
    """Everything that decides a training run, apart from the images.

    Args:
        name: Name of the run and of what is exported from it.
        summary: One line for `qdr-edge train --list`.
        seed: Of every random choice.
        size: Side of the network's input in pixels, a multiple of 32.
        scheme: Quantization scheme of the students.
        data: Splits and labels.
        operating_point: What export fits thresholds and gate for.
        alternate: Students take turns, epoch by epoch, once all teachers are done: both
            directions advance together.
        stages: Name to stage, in the order they run.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    summary: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    size: int
    scheme: str = "exact"
    data: Data = Data()
    operating_point: OperatingPoint = OperatingPoint()
    alternate: bool = False
    stages: dict[str, AnyStage]

    @field_validator("size")
    @classmethod
    def _size_fits(cls, value: int) -> int:
        if not MIN_SIZE <= value <= MAX_SIZE or value % STRIDE:
            near = min(max(round(value / STRIDE), 1) * STRIDE, MAX_SIZE)
            raise ValueError(
                f"{value} px does not fit: the networks halve the image five times; "
                f"expected a multiple of {STRIDE} from {MIN_SIZE} to {MAX_SIZE}, such as {near}"
            )
        return value

    @field_validator("scheme")
    @classmethod
    def _scheme_known(cls, value: str) -> str:
        QuantScheme.named(value)
        return value

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        if not self.stages:
            raise ValueError("stages is empty; expected at least one")
        earlier: dict[str, Stage] = {}
        for name, stage in self.stages.items():
            if not STAGE_NAME.fullmatch(name) or not name.startswith(stage.role):
                raise ValueError(
                    f"stage {name!r} has role {stage.role}; expected a lower-case name that "
                    f"begins with {stage.role}-, such as {stage.role}-{stage.modality}"
                )
            if isinstance(stage, StudentStage):
                self._check_teachers(name, stage, earlier)
                self._check_scales(name, stage)
            earlier[name] = stage
        return self

    @staticmethod
    def _check_teachers(name: str, stage: StudentStage, earlier: Mapping[str, Stage]) -> None:
        for teacher in stage.teachers:
            if not isinstance(earlier.get(teacher), TeacherStage):
                known = [n for n, s in earlier.items() if isinstance(s, TeacherStage)]
                raise ValueError(
                    f"stage {name!r} names teacher {teacher!r}; expected one of the teachers "
                    f"that stand before it: {', '.join(known) or 'there is none'}"
                )
        if stage.distill.soft_labels and not any(
            earlier[teacher].modality == stage.modality for teacher in stage.teachers
        ):
            raise ValueError(
                f"stage {name!r} has soft_labels without a teacher of its own modality; "
                "expected soft_labels 0, or such a teacher"
            )

    def _check_scales(self, name: str, stage: StudentStage) -> None:
        if stage.quantization.scales == "learned" and self.quant_scheme().unsigned:
            raise ValueError(
                f"stage {name!r} learns scales under scheme {self.scheme}; expected observed ones: "
                "no gradient trains a zero point"
            )

    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that its stages need."""
        return tuple(m for m in MODALITIES if any(s.modality == m for s in self.stages.values()))

    def quant_scheme(self) -> QuantScheme:
        """The scheme as a value."""
        return QuantScheme.named(self.scheme)
