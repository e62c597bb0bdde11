"""One stage of a run: a network from random weights to a checkpoint, resumable at every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import nn

from qdr_edge.errors import RecipeError
from qdr_edge.labels import LabelSet
from qdr_train.data.images import Images, predict, refresh_batch_norm
from qdr_train.distill.guide import Guide, alignment
from qdr_train.distill.losses import balanced_pos_weight
from qdr_train.engine.logs import RunLog
from qdr_train.engine.loop import Trainee, train_epoch
from qdr_train.engine.provenance import derive_seed
from qdr_train.engine.schedule import build_optimizer, learning_rate, plateau_factor
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import (
    drop_state,
    has_state,
    load_state,
    of_prefix,
    pack_optimizer,
    save_state,
    unpack_optimizer,
    with_prefix,
)
from qdr_train.models import Classifier, build
from qdr_train.quant import qat
from qdr_train.recipe import Optimizer, Recipe, Stage, StudentStage

STATE = "state"
BEST_FLOAT = "best-float"
BEST_QAT = "best-qat"


@dataclass(frozen=True)
class Work:
    """What a stage needs besides its recipe.

    Args:
        folder: The stage's own folder in the run directory.
        name: Name of the stage.
        labels: Vocabulary.
        train: Training images.
        val: Validation images, for selection.
        guides: Frozen teachers of a student, in the recipe's order.
        log: The run's log.
        device: Where to compute.
    """

    folder: Path
    name: str
    labels: LabelSet
    train: Images
    val: Images
    guides: Sequence[Guide]
    log: RunLog
    device: torch.device


@dataclass
class Progress:
    """How far a stage is; with the tensors beside it, all that resuming needs.

    Args:
        epoch: Epochs done, over both phases.
        quantized: The QAT phase has begun.
        history: Validation mAP of each epoch of the present phase.
        best: Epoch and mAP of the best network of the present phase.
    """

    epoch: int = 0
    quantized: bool = False
    history: list[float | None] = field(default_factory=list)
    best: tuple[int, float] | None = None

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


@dataclass(frozen=True)
class Outcome:
    """What a stage ended with.

    Args:
        network: The selected network; prepared for QAT if the stage quantizes.
        epoch: The epoch it is from, counted over both phases from 1; 0 if nothing was trained.
        seconds: Time spent in this process.
    """

    network: Classifier
    epoch: int
    seconds: float


def new_network(stage: Stage, recipe: Recipe, labels: LabelSet) -> Classifier:
    """A stage's network with random weights."""
    options = stage.model
    network = build(
        options.name,
        len(labels),
        in_size=recipe.size,
        width=options.width,
        dropout=options.dropout,
    )
    # A fifth faster in float on CPUs (measured on a step of ResNet-18), no slower prepared.
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def load_teacher(folder: Path, stage: Stage, recipe: Recipe, labels: LabelSet) -> Classifier:
    """The selected network of a finished teacher stage."""
    network = new_network(stage, recipe, labels)
    network.load_state_dict(load_state(folder, BEST_FLOAT)[0])
    return network.eval()


class StageRun:
    """Trains one stage.

    Args:
        stage: The stage's part of the recipe.
        recipe: The whole recipe.
        work: Images, teachers, log.
    """

    def __init__(self, stage: Stage, recipe: Recipe, work: Work) -> None:
        self._stage = stage
        self._recipe = recipe
        self._work = work
        self._student = stage if isinstance(stage, StudentStage) else None
        self._quantizes = self._student is not None and self._student.quantize
        self._qat_epochs = self._student.qat_epochs if self._student and self._quantizes else 0
        self._progress = Progress()
        limit = stage.loss.pos_weight_limit
        self._pos_weight = (
            balanced_pos_weight(work.train.targets, limit).to(work.device) if limit > 1 else None
        )
        torch.manual_seed(self._seed("init"))
        network = new_network(stage, recipe, work.labels).to(work.device)
        self._aligns = nn.ModuleList(
            alignment(network.feature_dim, guide.feature_dim) for guide in work.guides
        ).to(work.device)
        self._trainee = self._compose(network, stage.optimizer)

    def run(self) -> Outcome:
        """Train to the end, from where a former process stopped."""
        began = time.monotonic()
        work, progress = self._work, self._progress
        if has_state(work.folder, STATE):
            self._restore()
            progress = self._progress
            work.log.say(f"{work.name}: resumed after epoch {progress.epoch} of {self._total}")
        elif not self._stage.epochs:
            refresh_batch_norm(self._trainee.network, self._calibration(), work.device)
            self._keep(BEST_FLOAT)
        while not progress.quantized and progress.epoch < self._stage.epochs:
            self._epoch(self._stage.optimizer, progress.epoch, self._stage.epochs)
        if self._quantizes:
            if not progress.quantized:
                self._begin_qat()
            while progress.epoch < self._total:
                done = progress.epoch - self._stage.epochs
                self._epoch(cast(StudentStage, self._student).qat_optimizer, done, self._qat_epochs)
        network = self._selected()
        return Outcome(network, progress.best[0] if progress.best else 0, time.monotonic() - began)

    def close(self) -> None:
        """Drop what only resuming needs; call once the checkpoint is written."""
        drop_state(self._work.folder, STATE)

    @property
    def _total(self) -> int:
        return self._stage.epochs + self._qat_epochs

    def _seed(self, *names: str | int) -> int:
        return derive_seed(self._recipe.seed, self._work.name, *names)

    def _compose(self, network: Classifier, settings: Optimizer) -> Trainee:
        optimizer = build_optimizer([network, self._aligns], settings)
        return Trainee(network, self._work.guides, self._aligns, optimizer)

    def _calibration(self) -> Images:
        """A few training images, the same in every process."""
        student, train = self._student, self._work.train
        count = min(student.calibration_images if student else len(train), len(train))
        generator = torch.Generator().manual_seed(self._seed("calibration"))
        rows = torch.randperm(len(train), generator=generator)[:count].sort().values
        chosen = rows.numpy()
        patients = tuple(train.patients[int(row)] for row in chosen)
        return Images(train.pixels, train.rows[chosen], train.targets[rows], patients)

    def _begin_qat(self) -> None:
        """From the best float weights to a network with fake quantization and first scales."""
        network = self._trainee.network
        network.load_state_dict(load_state(self._work.folder, BEST_FLOAT)[0])
        torch.manual_seed(self._seed("prepare"))
        settings = cast(StudentStage, self._student).quantization
        prepared = qat.prepare_qat(network, self._recipe.quant_scheme(), settings)
        prepared.to(self._work.device).eval()
        qat.set_phase(prepared, observers=True, bn_frozen=True)
        predict(prepared, self._calibration(), self._work.device)
        self._trainee = self._compose(prepared, cast(StudentStage, self._student).qat_optimizer)
        self._progress.quantized = True
        self._progress.history, self._progress.best = [], None
        if not self._qat_epochs:
            self._keep(BEST_QAT)
        self._save()

    def _epoch(self, settings: Optimizer, done: int, epochs: int) -> None:
        """One epoch, its validation, and the state after it."""
        progress, work, began = self._progress, self._work, time.monotonic()
        seed = self._seed("epoch", progress.epoch)
        torch.manual_seed(seed)  # dropout
        frozen = self._enter(done, epochs)
        factor = 1.0
        if settings.schedule == "plateau":
            factor = plateau_factor([-1.0 if v is None else v for v in progress.history])
        phase = "qat" if progress.quantized else "float"
        title = f"{work.name} {phase} {progress.epoch + 1}/{self._total}"
        with work.log.bar(title) as bar:
            losses = train_epoch(
                self._trainee,
                work.train,
                self._stage.views.ranges(self._stage.modality),
                batch=self._stage.batch,
                learning_rate=lambda share: learning_rate(settings, done + share, epochs, factor),
                clip_norm=settings.clip_norm,
                pos_weight=self._pos_weight,
                device=work.device,
                generator=torch.Generator().manual_seed(seed),
                progress=bar,
            )
        if not math.isfinite(losses["loss"]):
            raise RecipeError(
                f"training diverged: the loss is {losses['loss']} in epoch {progress.epoch + 1}",
                where=f"stage {work.name}",
                expected="a finite loss",
                fix="lower lr or set clip_norm, in a new run",
            )
        value = self._validate()
        progress.epoch += 1
        improved = progress.record(value, eligible=not progress.quantized or frozen)
        if improved:
            self._keep(BEST_QAT if progress.quantized else BEST_FLOAT)
        self._save()
        seconds = time.monotonic() - began
        figures: dict[str, float | str] = {**losses, "val_map": value, "seconds": seconds}
        work.log.epoch(work.name, progress.epoch, {**figures, "phase": phase})
        text = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        mark = " *" if improved else ""
        work.log.say(f"{title}: {text} | val mAP {100 * value:.1f}{mark} | {seconds:.1f} s")

    def _enter(self, done: int, epochs: int) -> bool:
        """Put the network into training for this epoch; whether observers and BN are frozen."""
        network = self._trainee.network
        network.train()
        if not self._progress.quantized:
            return False
        frozen = done >= epochs - cast(StudentStage, self._student).frozen_epochs
        qat.set_phase(network, observers=not frozen, bn_frozen=frozen)
        return frozen

    def _validate(self) -> float:
        """Validation mAP; of the folded, bias-snapped integers once the network is quantized."""
        network, val = self._trainee.network, self._work.val
        if self._progress.quantized:
            reference = qat.reference_form(network).cpu()
            logits = predict(reference, val, torch.device("cpu"))
        else:
            logits = predict(network.eval(), val, self._work.device)
        return mean_average_precision(logits, val.targets.numpy())

    def _keep(self, name: str) -> None:
        values = {"epoch": self._progress.epoch}
        save_state(self._work.folder, name, self._trainee.network.state_dict(), values)

    def _selected(self) -> Classifier:
        name = BEST_QAT if self._progress.quantized else BEST_FLOAT
        network = self._trainee.network
        network.load_state_dict(load_state(self._work.folder, name)[0])
        if self._progress.quantized:
            qat.set_phase(network, observers=False, bn_frozen=True)
        return network.cpu().eval()

    def _save(self) -> None:
        tensors, optimizer = pack_optimizer(self._trainee.optimizer)
        progress = self._progress
        save_state(
            self._work.folder,
            STATE,
            {
                **with_prefix("network", self._trainee.network.state_dict()),
                **with_prefix("aligns", self._aligns.state_dict()),
                **with_prefix("optimizer", tensors),
            },
            {
                "epoch": progress.epoch,
                "quantized": progress.quantized,
                "history": progress.history,
                "best": progress.best,
                "optimizer": optimizer,
            },
        )

    def _restore(self) -> None:
        tensors, values = load_state(self._work.folder, STATE)
        best = values["best"]
        self._progress = Progress(
            values["epoch"],
            values["quantized"],
            values["history"],
            (int(best[0]), float(best[1])) if best else None,
        )
        if self._progress.quantized:
            student = cast(StudentStage, self._student)
            prepared = qat.prepare_qat(
                self._trainee.network, self._recipe.quant_scheme(), student.quantization
            ).to(self._work.device)
            self._trainee = self._compose(prepared, student.qat_optimizer)
        self._trainee.network.load_state_dict(of_prefix("network", tensors))
        self._aligns.load_state_dict(of_prefix("aligns", tensors))
        unpack_optimizer(
            self._trainee.optimizer, of_prefix("optimizer", tensors), values["optimizer"]
        )


def forms(network: Classifier) -> Mapping[str, nn.Module]:
    """A selected network in the forms whose logits a checkpoint proves.

    Returns:
        "float" for a float network; "reference", "qat" and "float" for a quantized one.
    """
    if not qat.is_prepared(network):
        return {"float": network}
    return {
        "reference": qat.reference_form(network),
        "qat": network,
        "float": qat.float_form(network),
    }
