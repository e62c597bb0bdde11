"""When a phase ends: by its epochs, by patience, or by a learning rate that fell too low."""

from __future__ import annotations

import json
import math

import pytest

from qdr_train.engine.progress import Phase, Progress
from qdr_train.engine.schedule import epochs_waited
from qdr_train.recipe import Optimizer, StudentStage

NEVER = Optimizer()


def trained(phase: Phase, values: list[float], patience: int) -> list[int]:
    """The places of the phase that are trained while validation gives these values."""
    progress, places = Progress(), []
    for value in values:
        if progress.place >= phase.epochs:
            break
        places.append(progress.place)
        progress.record(value, eligible=True)
        progress.move_on(phase, patience)
    return places


def test_a_phase_runs_its_epochs_without_patience() -> None:
    assert trained(Phase("float", NEVER, 4), [0.5] * 9, patience=0) == [0, 1, 2, 3]


def test_patience_ends_a_float_phase() -> None:
    phase = Phase("float", NEVER, 10)
    assert trained(phase, [0.5, 0.6, 0.6, 0.4, 0.5, 0.9], patience=3) == [0, 1, 2, 3, 4]
    assert trained(phase, [0.5, 0.6, 0.6, 0.4, 0.7, 0.6, 0.6], patience=3) == list(range(7))


def test_out_of_patience_quantized_training_goes_to_its_frozen_epochs_and_runs_them_all() -> None:
    phase = Phase("qat", NEVER, 10, frozen=3)
    assert trained(phase, [0.5] * 20, patience=2) == [0, 1, 2, 7, 8, 9]
    assert trained(phase, [0.1 * i for i in range(20)], patience=2) == list(range(10))


def test_an_epoch_that_validation_cannot_judge_is_not_waited_for() -> None:
    phase = Phase("float", NEVER, 6)
    assert trained(phase, [math.nan] * 9, patience=1) == list(range(6))
    assert trained(phase, [0.5, math.nan, math.nan, 0.5, 0.5], patience=2) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("schedule", "count"), [("plateau", 11), ("cosine", 30)])
def test_a_rate_below_stop_lr_ends_the_phase(schedule: str, count: int) -> None:
    settings = Optimizer.model_validate({"lr": 1.0, "schedule": schedule, "stop_lr": 0.3})
    # Halved after 5 epochs without a better one, and again after 10: 0.25 is below.
    assert len(trained(Phase("float", settings, 30), [0.5] * 40, patience=0)) == count


def test_phases_come_from_the_stage() -> None:
    stage = StudentStage.model_validate(
        {"role": "student", "modality": "oct", "model": {"name": "qdr-small"}, "epochs": 7}
    )
    before, after = (Phase.of(stage, quantized=q) for q in (False, True))
    assert (before.name, before.epochs, before.frozen) == ("float", 7, 0)
    assert (after.name, after.epochs, after.frozen) == ("qat", 8, 3)
    assert [after.is_frozen(place) for place in range(8)] == [False] * 5 + [True] * 3
    assert before.settings == stage.optimizer
    assert after.settings == stage.qat_optimizer


def test_waiting_counts_from_the_first_of_equals() -> None:
    found = [epochs_waited(v) for v in ([], [0.5], [0.5, 0.5], [0.1, 0.9, 0.9, 0.2])]
    assert found == [0, 0, 1, 2]


def test_progress_survives_json() -> None:
    progress = Progress(5, 2, True, [0.5, None], (4, 0.5), {"loss": 0.25, "val_map": None})
    assert Progress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress
    assert Progress.from_dict(Progress().to_dict()) == Progress()
