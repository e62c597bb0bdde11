"""What a finished stage leaves: its checkpoint, and a line about it for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qdr_edge.checkpoint import CHECKPOINT_FILE, PROBE_SPLITS, Checkpoint, save_checkpoint
from qdr_edge.files import sha256_file
from qdr_edge.preprocess import PreprocessSpec
from qdr_train.data.images import Images, predict
from qdr_train.engine.networks import forms
from qdr_train.engine.provenance import git_commit, tool_versions
from qdr_train.engine.run_folder import Run
from qdr_train.engine.selection import describe
from qdr_train.engine.stage import Outcome
from qdr_train.quant import qat
from qdr_train.recipe import Stage, StudentStage


def write_checkpoint(
    run: Run,
    name: str,
    stage: Stage,
    outcome: Outcome,
    images: Mapping[tuple[str, str], Images],
) -> dict[str, Any]:
    """Save what export needs; returns the validation metrics of what ships."""
    labels, cpu = run.samples.labels, torch.device("cpu")
    splits = [images[stage.modality, split] for split in PROBE_SPLITS]
    probe, validation = {}, {}
    for form, network in forms(outcome.network).items():
        logits = [predict(network, part, cpu) for part in splits]
        probe[f"{form}_logits"] = np.concatenate(logits)
        validation[form] = describe(logits[0], splits[0], labels, run.recipe.seed)
    graph, tensors = qat.to_network(outcome.network)
    shipped = "reference" if "reference" in validation else "float"
    summary: dict[str, Any] = {"split": "val", "form": shipped, **validation[shipped]}
    if shipped != "float":
        summary["float"] = validation["float"]
    quantized = qat.is_prepared(outcome.network)
    save_checkpoint(
        run.folder / name,
        Checkpoint(
            name=f"{run.recipe.name}-{name}",
            role=_role(stage),
            modality=stage.modality,
            synthetic=run.synthetic,
            model=stage.model.model_dump(exclude={"init": True, "own": {"steps"}}),
            labels=labels,
            preprocess=PreprocessSpec(stage.modality, run.recipe.size),
            scheme=run.recipe.quant_scheme() if quantized else None,
            graph=graph,
            tensors=tensors,
            probe=probe,
            validation=summary,
            provenance=_provenance(run, stage, outcome),
            operating_point=run.recipe.operating_point.model_dump(),
        ),
    )
    return summary


def map_of(metrics: Mapping[str, Any]) -> float | None:
    """The mAP among metrics; None where it is undefined."""
    value: float | None = metrics["map"]["value"]
    return value


def summary_of(metrics: Mapping[str, Any]) -> str:
    """One line about the validation of what ships."""
    whole = metrics["map"]
    if whole["value"] is None:
        return "validation has no label with both positives and negatives"
    text = f"{metrics['form']} validation mAP {100 * whole['value']:.1f}"
    if whole["low"] is not None:
        text += f" [{100 * whole['low']:.1f}, {100 * whole['high']:.1f}]"
    if "float" in metrics and map_of(metrics["float"]) is not None:
        text += f", same weights in float {100 * metrics['float']['map']['value']:.1f}"
    return f"{text}, chance {100 * metrics['chance_map']:.1f}, n = {metrics['images']}"


def _role(stage: Stage) -> str:
    return "student" if isinstance(stage, StudentStage) else "teacher"


def _provenance(run: Run, stage: Stage, outcome: Outcome) -> dict[str, Any]:
    teachers = stage.teachers if isinstance(stage, StudentStage) else ()
    init, own = stage.model.init, stage.model.own
    initial = init and {"layout": init.layout, "sha256": init.sha256}
    if own and not init:
        initial = {"layout": "own", "sha256": run.record["own_weights_sha256"]}
    return {
        "recipe": run.recipe.name,
        "recipe_sha256": run.recipe_sha256,
        "seed": run.recipe.seed,
        "epoch": outcome.epoch,
        "data_sha256": run.samples.sha256,
        "teacher_sha256": {
            teacher: sha256_file(run.folder / teacher / CHECKPOINT_FILE) for teacher in teachers
        },
        # Without the file's name: a path may tell of people and places.
        "initial_weights": initial,
        "git_commit": git_commit(),
        "versions": tool_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
