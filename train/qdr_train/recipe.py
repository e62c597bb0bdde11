"""The recipe: what to train, as strict models over the YAML that users edit.

A recipe names stages in the order they run. `defaults.teacher` and `defaults.student` hold what
stages of a role share; a stage overrides them key by key. docs/training.md explains every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qdr_edge.labels import LabelSet
from qdr_edge.scheme import QuantScheme

if TYPE_CHECKING:
    from qdr_train.augment import Augmentation

Modality = Literal["fundus", "oct"]
MODALITIES: tuple[Modality, ...] = ("fundus", "oct")
STRIDE = 32
MIN_SIZE, MAX_SIZE = STRIDE, 1024
STAGE_NAME = re.compile(r"(teacher|student)-[a-z0-9][a-z0-9-]*")

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and does not guess types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Model(Strict):
    """Which architecture, by its name in qdr_train.models, and its options.

    Args:
        name: Architecture.
        width: Factor on the channel counts.
        dropout: Before the last linear layer, while training; null for the model's own.
    """

    name: str
    width: Annotated[float, Field(ge=0.05, le=8)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None


class Optimizer(Strict):
    """Optimizer and learning-rate schedule of a phase.

    Args:
        name: "adamw" or "sgd" (momentum 0.9, Nesterov off).
        lr: Peak learning rate.
        weight_decay: Not applied to biases and BatchNorm.
        schedule: "cosine" to `final_lr_share` of the peak, "plateau" (× 0.5 after 5 epochs
            without improvement), or "constant".
        warmup_epochs: Linear rise from near zero.
        final_lr_share: Where cosine ends.
        clip_norm: Gradient clipping; 0 switches it off.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    final_lr_share: Share = 0.02
    clip_norm: Annotated[float, Field(ge=0)] = 1.0


class Views(Strict):
    """Augmentation ranges; see qdr_train.augment.Augmentation."""

    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    flip: Share = 0.5
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.04
    brightness: tuple[float, float] = (0.8, 1.2)
    contrast: tuple[float, float] = (0.8, 1.2)

    @field_validator("brightness", "contrast", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        # YAML has lists only, and 1 for 1.0.
        return tuple(float(v) for v in value) if isinstance(value, list) else value

    @field_validator("brightness", "contrast")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected [low, high] with 0 < low <= high")
        return value

    def ranges(self, modality: str) -> Augmentation:
        """As the augmentation's own type, with the modality's background."""
        # torch loads only once a recipe is run, not when recipes are listed.
        from qdr_train.augment import Augmentation

        background = "black" if modality == "fundus" else "edge"
        return Augmentation(**self.model_dump(), background=background)


class Distill(Strict):
    """How a teacher guides a student.

    Args:
        alpha: Weight of class prototype matching (CPM); 0 leaves it out.
        beta: Weight of class similarity alignment (CSA); 0 leaves it out.
        temperature: T of both.
        teacher_images: Teacher images drawn for each student image of the batch.
        teacher_views: "fixed": the teacher sees each image once, unaugmented, and its answers
            are kept; "augmented": it sees a new view in each step.
        soft_labels: Weight of the teacher's own probabilities as targets; only for a teacher of
            the student's modality, which then sees the student's own images.
    """

    alpha: Annotated[float, Field(ge=0)] = 2.0
    beta: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    teacher_images: Positive = 1
    teacher_views: Literal["fixed", "augmented"] = "fixed"
    soft_labels: Annotated[float, Field(ge=0)] = 0.0


class Stage(Strict):
    """What teachers and students share.

    Args:
        modality: What the network sees.
        model: Architecture.
        batch: Images a step.
        epochs: Passes over the training images in float; 0 keeps the random initialisation.
        optimizer: Of the float epochs.
        pos_weight_limit: Cap on the weight of a rare label's positives; 1 weighs all alike.
        views: Augmentation.
    """

    modality: Modality
    model: Model
    batch: Positive = 32
    epochs: Count = 20
    optimizer: Optimizer = Optimizer()
    pos_weight_limit: Annotated[float, Field(ge=1)] = 1.0
    views: Views = Views()


class TeacherStage(Stage):
    """A float network that later guides students."""

    role: Literal["teacher"]


class StudentStage(Stage):
    """A quantized network: float epochs, then quantization-aware ones (QAT).

    Args:
        teachers: Names of earlier stages; none trains on labels alone.
        distill: How they guide; the same for each of them.
        quantize: False trains the float comparison (FDDM, ODDM) and stops after `epochs`.
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


class Data(Strict):
    """How the data set becomes training, validation and test images.

    Args:
        labels: Name of a label set, a list of codes, or null: what the data holds.
        hold_out: Where the data has no test split, take its val as test and make a new val of
            training patients; otherwise selection and report would use the same images.
        shares: Shares of patients for train, val, test where the data has no split at all.
        max_images: Use only so many images of each modality and split; null for all.
    """

    labels: str | tuple[str, ...] | None = None
    hold_out: bool = True
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    max_images: Annotated[int, Field(ge=2)] | None = None

    @field_validator("labels", "shares", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("shares")
    @classmethod
    def _whole(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or min(value[:2]) == 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("expected three shares that add up to 1, train and val above 0")
        return value

    def label_set(self) -> LabelSet | None:
        """The vocabulary asked for; None takes the data's own."""
        if self.labels is None:
            return None
        if isinstance(self.labels, str):
            return LabelSet.named(self.labels)
        return LabelSet.custom(self.labels)


class Recipe(Strict):
    """Everything that decides a training run, apart from the images.

    Args:
        name: Name of the run and of what is exported from it.
        summary: One line for `qdr-edge train --list`.
        seed: Of every random choice.
        size: Side of the network's input in pixels, a multiple of 32.
        scheme: Quantization scheme of the students.
        data: Splits and labels.
        stages: Name to stage, in the order they run.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    summary: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    size: int
    scheme: str = "exact"
    data: Data = Data()
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

    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that its stages need."""
        return tuple(m for m in MODALITIES if any(s.modality == m for s in self.stages.values()))

    def quant_scheme(self) -> QuantScheme:
        """The scheme as a value."""
        return QuantScheme.named(self.scheme)
