"""The parts of a recipe: model, optimizer, loss, views, distillation, quantization, data.

docs/training.md explains every key; the models check what YAML alone cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from qdr_edge.labels import LabelSet
from qdr_train.recipe.own import Own
from qdr_train.recipe.strict import Positive, Strict

if TYPE_CHECKING:
    from qdr_train.data.augment import Augmentation

Modality = Literal["fundus", "oct"]
MODALITIES: tuple[Modality, ...] = ("fundus", "oct")

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

OWN = "own"
"""The name of a model that a user brought."""


class Init(Strict):
    """Weights to begin with, instead of random ones.

    Args:
        file: A run's stage folder, a .safetensors file, or a torchvision .pth file.
        sha256: Of the weight file, 64 hexadecimal digits: what was meant, not what lies there.
        layout: "qdr": a float checkpoint of the same architecture; "torchvision": a classifier's
            state dict, whose last layer is left out unless its width fits.
    """

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layout: Literal["qdr", "torchvision"]


class Model(Strict):
    """Which architecture, by its name in qdr_train.models, and its options.

    Args:
        name: Architecture.
        width: Factor on the channel counts.
        dropout: Before the last linear layer, while training; null for the model's own.
        init: Weights to begin with; null for random ones.
        own: With the name "own": a user's network, put here by the command line.
    """

    name: str
    width: Annotated[float, Field(ge=0.05, le=8)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    init: Init | None = None
    own: Own | None = None

    @model_validator(mode="after")
    def _named(self) -> Model:
        if (self.name == OWN) != (self.own is not None):
            raise ValueError(f"a model called {OWN} comes from --model NET.py")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A run is continued only with its own recipe: one from before this key has none.
        return {k: v for k, v in dump(self).items() if (k, v) != ("own", None)}


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
        stop_lr: The phase ends once the plateau rule takes the rate below this; 0 never.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    final_lr_share: Share = 0.02
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    stop_lr: Annotated[float, Field(ge=0)] = 0.0


class Loss(Strict):
    """How answers are held against labels.

    Args:
        name: "likelihood": binary cross-entropy, or cross-entropy where the labels exclude each
            other; "asymmetric": binary cross-entropy that forgives easy negatives.
        pos_weight_limit: Cap on the weight of a rare label's positives; 1 weighs all alike.
        gamma_positive: Focusing of positives (asymmetric).
        gamma_negative: Focusing of negatives (asymmetric).
        margin: Negatives below this probability cost nothing (asymmetric).
    """

    name: Literal["likelihood", "asymmetric"] = "likelihood"
    pos_weight_limit: Annotated[float, Field(ge=1)] = 1.0
    gamma_positive: Annotated[float, Field(ge=0)] = 0.0
    gamma_negative: Annotated[float, Field(ge=0)] = 4.0
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.05


class Views(Strict):
    """Augmentation ranges; see qdr_train.data.augment.Augmentation."""

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
        from qdr_train.data.augment import Augmentation

        background = "black" if modality == "fundus" else "edge"
        return Augmentation(**self.model_dump(), background=background)


class Distill(Strict):
    """How a teacher guides a student.

    Args:
        alpha: Weight of class prototype matching (CPM); 0 leaves it out.
        beta: Weight of class similarity alignment (CSA); 0 leaves it out.
        temperature: T of both.
        gradient_limit: Largest gradient of CPM and CSA together at the student's features, in
            gradients of the label loss; both terms are scaled down to it. Null leaves them at
            the size that alpha, beta and temperature give them, as published.
        teacher_images: Teacher images drawn for each student image of the batch.
        teacher_views: "fixed": the teacher sees each image once, unaugmented, and its answers
            are kept; "augmented": it sees a new view in each step.
        soft_labels: Weight of the teacher's own probabilities as targets; only for a teacher of
            the student's modality, which then sees the student's own images.
        teacher_learns: "frozen"; "along": it keeps training on the labels of its own images
            beside the student, as the authors do; "ema": it does, and the student is taught by
            the moving average of its weights.
        teacher_ema: Decay of that average for each step.
    """

    alpha: Annotated[float, Field(ge=0)] = 2.0
    beta: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 4.0
    gradient_limit: Annotated[float, Field(gt=0)] | None = None
    teacher_images: Positive = 1
    teacher_views: Literal["fixed", "augmented"] = "fixed"
    soft_labels: Annotated[float, Field(ge=0)] = 0.0
    teacher_learns: Literal["frozen", "along", "ema"] = "frozen"
    teacher_ema: Annotated[float, Field(gt=0, lt=1)] = 0.999

    @model_validator(mode="after")
    def _answers_change(self) -> Distill:
        if self.teacher_learns != "frozen" and self.teacher_views == "fixed":
            raise ValueError(
                f"teacher_learns is {self.teacher_learns} and teacher_views fixed: kept answers "
                "would grow stale; expected teacher_views augmented"
            )
        return self


class Quantization(Strict):
    """How a student is quantized, beyond the recipe's scheme.

    Args:
        scales: "observed": activation ranges follow the data; "learned": they start there and
            are trained by gradient. Both stand still in the frozen epochs.
        exclude: Globs over layer names (`backbone.layer4.*`) that stay in float.
        first_layer: "int8" or "float".
        last_layer: Weights of the head; its output is float in any case.
        calibration: How the first activation ranges are set: "running", a moving average of the
            batches' ranges, as training goes on with; "minmax", the whole range; "percentile" or
            "mse", a range that cuts off outliers (qdr_train.quant.calibrate).
    """

    scales: Literal["observed", "learned"] = "observed"
    exclude: tuple[str, ...] = ()
    first_layer: Literal["int8", "float"] = "int8"
    last_layer: Literal["int8", "float"] = "int8"
    calibration: Literal["running", "minmax", "percentile", "mse"] = "running"

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A run is continued only with its own recipe: one from before this key has none.
        return {k: v for k, v in dump(self).items() if (k, v) != ("calibration", "running")}

    @field_validator("exclude", mode="before")
    @classmethod
    def _globs(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class Data(Strict):
    """How the data set becomes training, validation and test images.

    Args:
        labels: Name of a label set, a list of codes, or null: what the data holds.
        hold_out: Where the data has no test split, take its val as test and make a new val of
            training patients; otherwise selection and report would use the same images.
        shares: Shares of patients for train, val, test where the data has no split at all.
        max_images: Use only so many images of each modality and split; null for all.
        exclusive: Each image has exactly one label: a softmax head and cross-entropy; null takes
            what the data set declares.
    """

    labels: str | tuple[str, ...] | None = None
    hold_out: bool = True
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    max_images: Annotated[int, Field(ge=2)] | None = None
    exclusive: bool | None = None

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


class OperatingPoint(Strict):
    """What thresholds and gate are fitted for, on the validation answers of the int8 network.

    Args:
        target: "f1": each label's largest F1; "sensitivity": the highest threshold at which the
            lower 95 % bound of each label's sensitivity reaches `sensitivity`.
        sensitivity: See target.
        rejection_rate: Share of gradable validation images that the gate may turn away.
    """

    target: Literal["f1", "sensitivity"] = "f1"
    sensitivity: Annotated[float, Field(gt=0, lt=1)] = 0.87
    rejection_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
