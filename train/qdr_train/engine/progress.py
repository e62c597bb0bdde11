"""How far a stage is, which network was best, and when a phase has waited long enough."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from qdr_train.engine.schedule import epochs_waited, plateau_factor
from qdr_train.recipe import Optimizer, Stage, StudentStage


@dataclass(frozen=True)
class Phase:
    """A run of epochs under one optimizer.

    Args:
        name: "float" or "qat".
        settings: Optimizer and schedule.
        epochs: How many, at most.
        frozen: How many of them, at the end, run with observers and BatchNorm frozen.
    """

    name: str
    settings: Optimizer
    epochs: int
    frozen: int = 0

    @classmethod
    def of(cls, stage: Stage, *, quantized: bool) -> Phase:
        """The float or the quantization-aware phase of a stage."""
        if quantized and isinstance(stage, StudentStage):
            return cls("qat", stage.qat_optimizer, stage.qat_epochs, stage.frozen_epochs)
        return cls("float", stage.optimizer, stage.epochs)

    def is_frozen(self, place: int) -> bool:
        """Whether the epoch at this place of the phase is a frozen one."""
        return place >= self.epochs - self.frozen


@dataclass
class Progress:
    """How far a stage is; with the tensors beside it, all that resuming needs.

    Args:
        epoch: Epochs trained, over both phases.
        place: Where the present phase stands, 0..its epochs; it jumps where waiting is cut short.
        quantized: The present phase is the quantization-aware one.
        history: Validation mAP of each epoch of the present phase; None where it cannot be told.
        best: Epoch and mAP of the best network of the present phase.
        figures: What the log says of the last epoch.
    """

    epoch: int = 0
    place: int = 0
    quantized: bool = False
    history: list[float | None] = field(default_factory=list)
    best: tuple[int, float] | None = None
    figures: dict[str, float | str | None] = field(default_factory=dict)

    @property
    def known(self) -> list[float]:
        """The history without epochs that validation cannot judge: they do not count."""
        return [value for value in self.history if value is not None]

    def record(self, value: float, *, eligible: bool) -> bool:
        """Note an epoch's mAP (NaN where validation cannot tell); whether it is the best."""
        known = not math.isnan(value)
        self.history.append(value if known else None)
        score = value if known else -1.0
        # Among equals the later one: it was trained at the lower learning rate.
        if not eligible or (self.best is not None and score < self.best[1]):
            return False
        self.best = (self.epoch, score)
        return True

    def move_on(self, phase: Phase, patience: int) -> bool:
        """Go to the next place of the phase; whether waiting was cut short.

        A phase that has waited in vain goes to its end, or to its frozen epochs where it has
        some: these are what the checkpoint is chosen from, and all of them are run.
        """
        frozen = phase.is_frozen(self.place)
        self.place += 1
        last = phase.epochs - phase.frozen
        if frozen or self.place >= last or not self._waited_in_vain(phase.settings, patience):
            return False
        self.place = last
        return True

    def begin_phase(self) -> None:
        """Begin the quantization-aware phase."""
        self.quantized, self.place, self.history, self.best = True, 0, [], None

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """The progress of JSON values."""
        best = values["best"]
        return cls(**{**values, "best": (int(best[0]), float(best[1])) if best else None})

    def _waited_in_vain(self, settings: Optimizer, patience: int) -> bool:
        if patience and epochs_waited(self.known) >= patience:
            return True
        rate = settings.lr * plateau_factor(self.known)
        return settings.schedule == "plateau" and rate < settings.stop_lr
