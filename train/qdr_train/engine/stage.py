"""One stage of a run: a network from its first weights to a checkpoint, resumable at every epoch.

A stage is trained an epoch at a time, so that stages can take turns: everything random in an epoch
is drawn from a seed of its own, and no stage sees what another one draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qdr_edge.decision import label_scores
from qdr_edge.errors import RecipeError
from qdr_edge.labels import LabelSet
from qdr_train.data.images import Images, predict, refresh_batch_norm
from qdr_train.distill.guide import alignment
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.average import WeightAverage
from qdr_train.engine.learner import Learner, Trainee
from qdr_train.engine.logs import RunLog
from qdr_train.engine.loop import train_epoch
from qdr_train.engine.networks import BEST_FLOAT, BEST_QAT, new_network
from qdr_train.engine.precision import Precision
from qdr_train.engine.progress import Phase, Progress
from qdr_train.engine.provenance import derive_seed
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.engine.schedule import learning_rate, plateau_factor
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import drop_state, has_state, load_state, save_state
from qdr_train.engine.tutors import Tutor
from qdr_train.models import Classifier
from qdr_train.models.init import initial_weights
from qdr_train.quant import qat
from qdr_train.quant.calibrate import calibrate
from qdr_train.recipe import Recipe, Stage, StudentStage

STATE = "state"


@dataclass(frozen=True)
class Work:
    """What a stage needs besides its recipe.

    Args:
        folder: The stage's own folder in the run directory.
        name: Name of the stage.
        labels: Vocabulary.
        train: Training images.
        val: Validation images, for selection.
        tutors: Teachers of a student, in the recipe's order.
        log: The run's log.
        device: Where to compute.
        ranks: The processes that train together; the first of them writes.
        own_weights: Reads the weights that a user's own network begins with.
    """

    folder: Path
    name: str
    labels: LabelSet
    train: Images
    val: Images
    tutors: Sequence[Tutor]
    log: RunLog
    device: torch.device
    ranks: Ranks = ALONE
    own_weights: Callable[[], Mapping[str, Tensor]] | None = None


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


class StageRun:
    """Trains one stage: `begin`, then `advance` until it is `done`, then `finish` and `close`.

    Args:
        stage: The stage's part of the recipe.
        recipe: The whole recipe.
        work: Images, teachers, log.
    """

    def __init__(self, stage: Stage, recipe: Recipe, work: Work) -> None:
        self._stage = stage
        self._recipe = recipe
        self._work = work
        self._ranks = work.ranks
        self._student = stage if isinstance(stage, StudentStage) else None
        self._seconds = 0.0
        self._progress = Progress()
        self._objective = LabelLoss.fitted(
            stage.loss, work.train.targets, exclusive=work.labels.exclusive, device=work.device
        )
        torch.manual_seed(self._seed("init"))
        network = new_network(stage, recipe, work.labels).to(work.device)
        self._aligns = nn.ModuleList(
            alignment(network.feature_dim, tutor.guide.feature_dim) for tutor in work.tutors
        ).to(work.device)
        self._trainee = self._compose(network)

    @property
    def done(self) -> bool:
        """Whether every epoch of every phase is trained."""
        over = self._progress.place >= self._phase.epochs
        return over and self._progress.quantized == self._quantizes

    def begin(self) -> None:
        """Take up what a former process left, or the network as it begins."""
        progress, work = self._progress, self._work
        if self._ranks.from_writer(lambda: has_state(work.folder, STATE)):
            self._restore()
            progress = self._progress
            work.log.say(f"{work.name}: resumed after epoch {progress.epoch}")
            if progress.figures:
                # The state is saved first: a kill may have come before the log was written.
                work.log.repair(work.name, progress.epoch, progress.figures)
            return
        if self._stage.model.init is not None:
            self._ranks.on_writer(self._take_initial_weights)  # align hands them on
        elif self._stage.model.own is not None:
            self._ranks.on_writer(self._take_own_weights)
        elif not self._stage.epochs:
            refresh_batch_norm(self._trainee.student.network, self._calibration(), work.device)
        self._ranks.align(*self._trainee.modules)
        if not self._stage.epochs:
            self._keep(BEST_FLOAT)

    def advance(self) -> None:
        """Train one epoch, or the first of the next phase."""
        began = time.monotonic()
        if self._progress.place >= self._phase.epochs:
            self._begin_qat()
        if not self.done:
            self._epoch()
        self._seconds += time.monotonic() - began

    def finish(self) -> Outcome:
        """The selected network, once the stage is done."""
        best = self._progress.best
        return Outcome(self._selected(), best[0] if best else 0, self._seconds)

    def close(self) -> None:
        """Drop what only resuming needs; call once run.json says that the stage is done."""
        self._ranks.on_writer(lambda: drop_state(self._work.folder, STATE))

    @property
    def _quantizes(self) -> bool:
        return self._student is not None and self._student.quantize

    @property
    def _phase(self) -> Phase:
        return Phase.of(self._stage, quantized=self._progress.quantized)

    def _seed(self, *names: str | int) -> int:
        return derive_seed(self._recipe.seed, self._work.name, *names)

    def _compose(self, network: Classifier) -> Trainee:
        """All that learns in the present phase, with optimizers that have not stepped yet."""
        work, stage, settings = self._work, self._stage, self._phase.settings
        floats = not self._progress.quantized
        averages = floats and bool(stage.ema and stage.epochs)
        average = WeightAverage(network, stage.ema, warm_up=True) if averages else None
        return Trainee(
            Learner(network, settings, beside=list(self._aligns), average=average),
            self._objective,
            tuple(tutor.guide for tutor in work.tutors),
            self._aligns,
            tuple(
                Learner(tutor.learner, settings, average=tutor.average)
                for tutor in work.tutors
                if tutor.learner is not None
            ),
            Precision(stage.precision if floats else "float32", work.device),
            work.device,
            self._ranks,
        )

    def _take_initial_weights(self) -> None:
        """Weights of the recipe's file in place of random ones; only where nothing is trained."""
        work, student = self._work, self._trainee.student
        weights = initial_weights(self._stage.model, student.network, work.labels)
        for network in {student.network, student.judged}:  # the average begins there too
            weights.load_into(network)
        work.log.say(f"{work.name}: {weights}")

    def _take_own_weights(self) -> None:
        """The weights that a user's network came with."""
        work, student = self._work, self._trainee.student
        if work.own_weights is None:
            raise ValueError("a user's network without its weights")
        for network in {student.network, student.judged}:
            network.load_state_dict(dict(work.own_weights()))

    def _calibration(self) -> Images:
        """A few training images, the same in every process."""
        student, train = self._student, self._work.train
        count = min(student.calibration_images if student else len(train), len(train))
        generator = torch.Generator().manual_seed(self._seed("calibration"))
        rows = torch.randperm(len(train), generator=generator)[:count].sort().values
        return train.select(rows)

    def _prepare(self, network: Classifier) -> Classifier:
        """The network with fake quantization."""
        settings = self._student.quantization if self._student else None
        prepared = qat.prepare_qat(network, self._recipe.quant_scheme(), settings)
        return prepared.to(self._work.device)

    def _begin_qat(self) -> None:
        """From the best float weights to a network with fake quantization and first scales."""
        network = self._trainee.student.network
        network.load_state_dict(self._read(BEST_FLOAT)[0])
        torch.manual_seed(self._seed("prepare"))
        prepared = self._prepare(network)
        method = self._student.quantization.calibration if self._student else "running"
        calibrate(prepared, self._calibration(), self._work.device, method)
        self._progress.begin_phase()
        self._trainee = self._compose(prepared)
        self._ranks.align(*self._trainee.modules)
        if not self._phase.epochs:
            self._keep(BEST_QAT)
        self._save()

    def _epoch(self) -> None:
        """One epoch, its validation, and the state after it."""
        progress, phase, work, began = self._progress, self._phase, self._work, time.monotonic()
        title = f"{work.name} {phase.name} {progress.place + 1}/{phase.epochs}"
        losses = self._train(title)
        value = self._validate()
        progress.epoch += 1
        frozen = phase.is_frozen(progress.place)
        improved = progress.record(value, eligible=frozen or not progress.quantized)
        if improved:
            self._keep(BEST_QAT if progress.quantized else BEST_FLOAT)
        cut_short = progress.move_on(phase, self._stage.patience)
        seconds = time.monotonic() - began
        progress.figures = {
            **losses,
            "val_map": None if math.isnan(value) else value,
            "seconds": seconds,
            "phase": phase.name,
        }
        self._save()
        work.log.epoch(work.name, progress.epoch, progress.figures)
        text = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        mark = " *" if improved else ""
        work.log.say(f"{title}: {text} | val mAP {100 * value:.1f}{mark} | {seconds:.1f} s")
        if cut_short:
            work.log.say(
                f"{work.name}: no better validation, so on to "
                + ("the frozen epochs" if phase.frozen else "the end of this phase")
            )

    def _train(self, title: str) -> dict[str, float]:
        """The mean losses of one epoch over the training images."""
        progress, phase, work = self._progress, self._phase, self._work
        seed = self._seed("epoch", progress.epoch)
        # Dropout: masks of their own in each process, on the first those of a single one.
        torch.manual_seed(seed + self._ranks.rank)
        network = self._trainee.student.network.train()
        if progress.quantized:
            frozen = phase.is_frozen(progress.place)
            qat.set_phase(network, observers=not frozen, bn_frozen=frozen)
        factor = 1.0
        if phase.settings.schedule == "plateau":
            factor = plateau_factor(progress.known)
        with work.log.bar(title) as bar:
            losses = train_epoch(
                self._trainee,
                work.train,
                self._stage,
                learning_rate=lambda share: learning_rate(
                    phase.settings, progress.place + share, phase.epochs, factor
                ),
                generator=torch.Generator().manual_seed(seed),
                progress=bar,
            )
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise self._diverged(f"{name} loss is {loss}")
        self._ranks.require_equal(*self._trainee.modules)
        return losses

    def _validate(self) -> float:
        """Validation mAP; of the folded, bias-snapped integers once the network is quantized."""
        network, val = self._trainee.student.judged, self._work.val
        own = val.select(torch.arange(len(val))[self._ranks.part(len(val))])
        if self._progress.quantized:
            reference = qat.reference_form(network).cpu()
            logits = predict(reference, own, torch.device("cpu"))
        else:
            logits = predict(network.eval(), own, self._work.device)
        logits = self._ranks.join(torch.from_numpy(logits), len(val)).numpy()
        if not np.isfinite(logits).all():
            raise self._diverged("network answers with numbers that are not finite")
        scores = label_scores(logits, self._work.labels)
        # One process's value for all: patience and plateau must see the same last digit.
        return self._ranks.from_writer(lambda: mean_average_precision(scores, val.targets.numpy()))

    def _diverged(self, what: str) -> RecipeError:
        return RecipeError(
            f"training diverged: the {what} in epoch {self._progress.epoch + 1}",
            where=f"stage {self._work.name}",
            expected="a finite loss",
            fix="lower lr or set clip_norm, in a new run",
        )

    def _keep(self, name: str) -> None:
        """Write the weights that may become the checkpoint."""
        folder, network = self._work.folder, self._trainee.student.judged
        values = {"epoch": self._progress.epoch}
        self._ranks.on_writer(lambda: save_state(folder, name, network.state_dict(), values))

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self._ranks.from_writer(lambda: load_state(self._work.folder, name))

    def _selected(self) -> Classifier:
        name = BEST_QAT if self._progress.quantized else BEST_FLOAT
        network = self._trainee.student.network
        network.load_state_dict(self._read(name)[0])
        if self._progress.quantized:
            qat.set_phase(network, observers=False, bn_frozen=True)
        return network.cpu().eval()

    def _save(self) -> None:
        """Write all that continuing needs; with this the epoch counts as trained."""

        def save() -> None:
            tensors, values = self._trainee.state()
            progress = self._progress.to_dict()
            save_state(self._work.folder, STATE, tensors, {"progress": progress, "trainee": values})

        self._ranks.on_writer(save)

    def _restore(self) -> None:
        tensors, values = self._read(STATE)
        self._progress = Progress.from_dict(values["progress"])
        if self._progress.quantized:
            self._trainee = self._compose(self._prepare(self._trainee.student.network))
        self._trainee.load(tensors, values["trainee"])
