"""A whole run: data once, then every stage of the recipe, each ending in a checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qdr_edge.checkpoint import CHECKPOINT_FILE, PROBE_SPLITS, Checkpoint, save_checkpoint
from qdr_edge.files import make_folder, sha256_file
from qdr_edge.preprocess import PreprocessSpec
from qdr_train.data.cache import open_pixels
from qdr_train.data.images import Images, images_of, predict
from qdr_train.data.read import is_synthetic, read_data
from qdr_train.data.splits import require_splits, split_samples, thin_out
from qdr_train.distill.guide import Guide
from qdr_train.engine.logs import RunLog
from qdr_train.engine.provenance import git_commit, tool_versions
from qdr_train.engine.run_folder import (
    DATA_FILE,
    Run,
    create_run,
    locked,
    open_run,
    require_vacant,
)
from qdr_train.engine.selection import describe
from qdr_train.engine.stage import Outcome, StageRun, Work, forms, load_teacher, new_network
from qdr_train.quant import qat
from qdr_train.recipe import Recipe, Stage, StudentStage


@dataclass(frozen=True)
class Options:
    """How to run, without influence on what is trained (threads aside: sums round differently).

    Args:
        cache: Folder of the image cache; None for one inside the run directory.
        threads: CPU threads; 0 for one a core, or for what the resumed run used.
        device: "cpu", "cuda" or another name torch knows.
    """

    cache: Path | None = None
    threads: int = 0
    device: str = "cpu"


def begin(recipe: Recipe, data: Path, out: Path, options: Options) -> Path:
    """Train a recipe into a new run directory.

    Args:
        recipe: What to train.
        data: Whatever qdr_train.data.read knows.
        out: Run directory; must be missing or empty.
        options: How.

    Returns:
        The run directory.

    Raises:
        DatasetError, RecipeError: Before anything is written.
        OutputError: `out` is taken or cannot be written.
    """
    require_vacant(out)
    samples, note = split_samples(
        read_data(data, recipe.data.label_set(), recipe.modalities()), recipe.data, recipe.seed
    )
    samples = thin_out(samples, recipe.data.max_images)
    for modality in recipe.modalities():
        require_splits(samples, modality)
    for stage in recipe.stages.values():
        with torch.device("meta"):
            new_network(stage, recipe, samples.labels)
    threads = options.threads or os.cpu_count() or 1
    facts: dict[str, Any] = {
        "synthetic": is_synthetic(data),
        "data_source": str(data),
        "split_note": note,
        "threads": threads,
        "device": options.device,
        "versions": tool_versions(),
        "git_commit": git_commit(),
    }
    with locked(out):
        run = create_run(out, recipe, samples, facts)
        return _train(run, options, threads)


def resume(out: Path, options: Options, recipe: Recipe | None = None) -> Path:
    """Continue a run directory where it stopped; finished stages are skipped.

    Raises:
        CheckpointError: No run there, or its state is damaged.
        RecipeError: `recipe` is given and is not the run's.
        DatasetError: The images have changed.
    """
    if not out.is_dir():
        open_run(out)  # says what is missing, and makes no folder
    with locked(out):
        run = open_run(out, recipe)
        return _train(run, options, options.threads or int(run.record["threads"]))


def _train(run: Run, options: Options, threads: int) -> Path:
    torch.set_num_threads(threads)
    device = torch.device(options.device)
    run.record["status"] = "running"
    run.save()
    with RunLog(run.folder) as log:
        if run.record["split_note"]:
            log.say(f"data: {run.record['split_note']}; see {run.folder / DATA_FILE}")
        log.event("begin", recipe=run.recipe.name, threads=threads, device=str(device))
        try:
            images = _load_images(run, options.cache or run.folder / "cache", threads, log)
            for name, stage in run.recipe.stages.items():
                if run.stage(name)["status"] == "done":
                    log.say(f"{name}: done before")
                    continue
                _train_stage(run, name, stage, images, log, device)
        except KeyboardInterrupt:
            run.record["status"] = "interrupted"
            run.save()
            log.event("interrupted")
            raise
        run.record["status"] = "done"
        run.save()
        log.event("done")
    return run.folder


def _load_images(run: Run, cache: Path, threads: int, log: RunLog) -> dict[tuple[str, str], Images]:
    """Every needed modality and split."""
    found: dict[tuple[str, str], Images] = {}
    # Where the vocabulary comes from the data, a misspelt label is a label: show them all.
    counts = run.samples.select(split="train").targets().sum(axis=0)
    labels = zip(run.samples.labels.codes, counts, strict=True)
    log.say("labels (training images): " + ", ".join(f"{code} {count}" for code, count in labels))
    for modality in run.recipe.modalities():
        samples = run.samples.select(modality)
        spec = PreprocessSpec(modality, run.recipe.size)
        with log.bar(f"reading {len(samples)} {modality} images") as bar:
            pixels = open_pixels(cache, samples, spec, threads=threads, progress=bar)
        for split in ("train", *PROBE_SPLITS):
            found[modality, split] = images_of(samples, pixels, split)
        sizes = ", ".join(f"{s} {len(found[modality, s])}" for s in ("train", *PROBE_SPLITS))
        log.say(f"{modality}: {sizes} images at {run.recipe.size} px")
    return found


def _train_stage(
    run: Run,
    name: str,
    stage: Stage,
    images: Mapping[tuple[str, str], Images],
    log: RunLog,
    device: torch.device,
) -> None:
    folder = run.folder / name
    make_folder(folder)
    entry = run.stage(name)
    entry["status"] = "running"
    run.save()
    train, val = images[stage.modality, "train"], images[stage.modality, "val"]
    guides = _guides(run, stage, images, device)
    work = Work(folder, name, run.samples.labels, train, val, guides, log, device)
    training = StageRun(stage, run.recipe, work)
    outcome = training.run()
    validation = _write_checkpoint(run, name, stage, outcome, images)
    training.close()
    entry.update(status="done", epoch=outcome.epoch, validation_map=_map_of(validation))
    entry["seconds"] = round(outcome.seconds, 1)
    run.save()
    log.event("stage", stage=name, **entry)
    log.say(f"{name}: {_summary(validation)}")


def _guides(
    run: Run, stage: Stage, images: Mapping[tuple[str, str], Images], device: torch.device
) -> list[Guide]:
    if not isinstance(stage, StudentStage):
        return []
    guides = []
    for name in stage.teachers:
        teacher = run.recipe.stages[name]
        network = load_teacher(run.folder / name, teacher, run.recipe, run.samples.labels)
        guides.append(
            Guide(
                network.to(device),
                images[teacher.modality, "train"],
                teacher.views.ranges(teacher.modality),
                images[stage.modality, "train"],
                same_modality=teacher.modality == stage.modality,
                settings=stage.distill,
                device=device,
            )
        )
    return guides


def _write_checkpoint(
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
            model=stage.model.model_dump(),
            labels=labels,
            preprocess=PreprocessSpec(stage.modality, run.recipe.size),
            scheme=run.recipe.quant_scheme() if quantized else None,
            graph=graph,
            tensors=tensors,
            probe=probe,
            validation=summary,
            provenance=_provenance(run, stage, outcome),
        ),
    )
    return summary


def _role(stage: Stage) -> str:
    return "student" if isinstance(stage, StudentStage) else "teacher"


def _provenance(run: Run, stage: Stage, outcome: Outcome) -> dict[str, Any]:
    teachers = stage.teachers if isinstance(stage, StudentStage) else ()
    return {
        "recipe": run.recipe.name,
        "recipe_sha256": run.recipe_sha256,
        "seed": run.recipe.seed,
        "epoch": outcome.epoch,
        "data_sha256": run.samples.sha256,
        "teacher_sha256": {
            teacher: sha256_file(run.folder / teacher / CHECKPOINT_FILE) for teacher in teachers
        },
        "git_commit": git_commit(),
        "versions": tool_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _map_of(metrics: Mapping[str, Any]) -> float | None:
    value: float | None = metrics["map"]["value"]
    return value


def _summary(metrics: Mapping[str, Any]) -> str:
    """One line about the validation of what ships."""
    whole = metrics["map"]
    if whole["value"] is None:
        return "validation has no label with both positives and negatives"
    text = f"{metrics['form']} validation mAP {100 * whole['value']:.1f}"
    if whole["low"] is not None:
        text += f" [{100 * whole['low']:.1f}, {100 * whole['high']:.1f}]"
    if "float" in metrics and _map_of(metrics["float"]) is not None:
        text += f", same weights in float {100 * metrics['float']['map']['value']:.1f}"
    return f"{text}, chance {100 * metrics['chance_map']:.1f}, n = {metrics['images']}"
