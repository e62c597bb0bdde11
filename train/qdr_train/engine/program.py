"""A whole run: data once, then every stage of the recipe, each ending in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qdr_edge.checkpoint import PROBE_SPLITS
from qdr_edge.errors import CheckpointError, RecipeError
from qdr_edge.files import make_folder
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.samples import SampleSet
from qdr_train.data.cache import open_pixels
from qdr_train.data.exclusive import with_exclusive
from qdr_train.data.images import Images, images_of
from qdr_train.data.read import is_synthetic, read_data
from qdr_train.data.splits import require_splits, split_samples, thin_out
from qdr_train.engine.logs import RunLog, SilentLog
from qdr_train.engine.networks import load_teacher, new_network
from qdr_train.engine.precision import require_precision
from qdr_train.engine.provenance import git_commit, tool_versions
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.engine.result import map_of, summary_of, write_checkpoint
from qdr_train.engine.run_folder import (
    DATA_FILE,
    Run,
    create_run,
    locked,
    open_run,
    require_vacant,
    sweep,
)
from qdr_train.engine.stage import STATE, StageRun, Work
from qdr_train.engine.state import drop_state
from qdr_train.engine.tutors import Tutor, tutor_of
from qdr_train.models.init import initial_weights
from qdr_train.quant.exclude import float_layers
from qdr_train.recipe import Recipe, Stage, StudentStage, TeacherStage

AllImages = Mapping[tuple[str, str], Images]
"""By modality and split."""


@dataclass(frozen=True)
class Options:
    """How to run, without influence on what is trained (threads aside: sums round differently).

    Args:
        cache: Folder of the image cache; None for one inside the run directory.
        threads: CPU threads of each process; 0 for one a core, or for what the resumed run used.
        device: "cpu", "cuda" or another name torch knows.
        ranks: The processes that train together.
        own_weights: Of the user's own network in the recipe, as a safetensors file; only to begin.
    """

    cache: Path | None = None
    threads: int = 0
    device: str = "cpu"
    ranks: Ranks = ALONE
    own_weights: bytes | None = None


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
    ranks = options.ranks
    samples, facts = ranks.from_writer(lambda: _plan(recipe, data, out, options))
    with _held(out, ranks):
        run = ranks.from_writer(
            lambda: create_run(out, recipe, samples, facts, options.own_weights)
        )
        return _train(run, options, facts["threads"])


def _plan(
    recipe: Recipe, data: Path, out: Path, options: Options
) -> tuple[SampleSet, dict[str, Any]]:
    """What will be trained on, and what run.json tells of it; nothing is written."""
    require_vacant(out)
    samples = read_data(data, recipe.data.label_set(), recipe.modalities())
    samples = with_exclusive(samples, recipe.data.exclusive)
    samples, note = split_samples(samples, recipe.data, recipe.seed)
    samples = thin_out(samples, recipe.data.max_images)
    for modality in recipe.modalities():
        require_splits(samples, modality)
    _require_trainable(recipe, samples, options)
    _require_initial_weights(recipe, samples.labels)
    return samples, {
        "synthetic": is_synthetic(data),
        "data_source": str(data),
        "split_note": note,
        "threads": options.ranks.threads(options.threads),
        "processes": options.ranks.size,
        "device": options.device,
        "versions": tool_versions(),
        "git_commit": git_commit(),
    }


def resume(out: Path, options: Options, recipe: Recipe | None = None) -> Path:
    """Continue a run directory where it stopped; finished stages are skipped.

    Raises:
        CheckpointError: No run there, or its state is damaged.
        RecipeError: `recipe` is given and is not the run's.
        DatasetError: The images have changed.
    """
    ranks = options.ranks
    # Says what is missing, and makes no folder.
    ranks.on_writer(lambda: out.is_dir() or open_run(out))
    with _held(out, ranks):
        run = ranks.from_writer(lambda: _reopen(out, options, recipe))
        return _train(run, options, options.threads or int(run.record["threads"]))


def _reopen(out: Path, options: Options, recipe: Recipe | None) -> Run:
    run = open_run(out, recipe)
    began, now = int(run.record.get("processes", 1)), options.ranks.size
    if began != now:
        # Another number of parts adds up in another order: the result would be nobody's.
        raise CheckpointError(
            f"the run was trained by {began} processes, and this is {now}",
            where=str(out),
            expected="as many as it began with",
            fix=f"resume it with torchrun and {began} processes in all"
            if began > 1
            else "resume it without torchrun",
        )
    _require_trainable(run.recipe, run.samples, options)
    sweep(run)
    return run


@contextmanager
def _held(out: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the run directory alone, by the lock of the process that writes."""
    with ExitStack() as stack:
        ranks.on_writer(lambda: stack.enter_context(locked(out)))
        yield


def _train(run: Run, options: Options, threads: int) -> Path:
    ranks = options.ranks
    run.writes = ranks.is_writer
    torch.set_num_threads(threads)
    device = ranks.device(options.device)
    run.record["status"] = "running"
    run.save()
    with RunLog(run.folder) if ranks.is_writer else SilentLog() as log:
        if run.record["split_note"]:
            log.say(f"data: {run.record['split_note']}; see {run.folder / DATA_FILE}")
        log.event("begin", recipe=run.recipe.name, threads=threads, device=str(device))
        try:
            images: dict[tuple[str, str], Images] = {}

            def load() -> None:
                cache = options.cache or run.folder / "cache"
                images.update(_load_images(run, cache, threads, log))

            ranks.on_writer(load)
            if not ranks.is_writer:
                load()  # what the first process has decoded
            for names in turns(run.recipe):
                _train_stages(run, names, images, log, device, ranks)
        except KeyboardInterrupt:
            run.record["status"] = "interrupted"
            run.save()
            log.event("interrupted")
            raise
        run.record["status"] = "done"
        run.save()
        log.event("done")
    return run.folder


def _load_images(run: Run, cache: Path, threads: int, log: RunLog) -> AllImages:
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


def turns(recipe: Recipe) -> list[list[str]]:
    """Stages in the order they are trained; those of one group take turns, epoch by epoch."""
    names = list(recipe.stages)
    if not recipe.alternate:
        return [[name] for name in names]
    teachers = [name for name in names if isinstance(recipe.stages[name], TeacherStage)]
    return [*([name] for name in teachers), [name for name in names if name not in teachers]]


def _train_stages(
    run: Run,
    names: Sequence[str],
    images: AllImages,
    log: RunLog,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Train the stages of a group that are not done, an epoch of each in turn."""
    waiting: dict[str, StageRun] = {}
    for name in names:
        if run.stage(name)["status"] == "done":
            log.say(f"{name}: done before")
            if ranks.is_writer:
                drop_state(run.folder / name, STATE)
            continue
        waiting[name] = _begin_stage(run, name, images, log, device, ranks)
    while waiting:
        for name, training in list(waiting.items()):
            if not training.done:
                training.advance()
            if training.done:
                _finish_stage(run, name, training, images, log, ranks)
                del waiting[name]


def _begin_stage(
    run: Run,
    name: str,
    images: AllImages,
    log: RunLog,
    device: torch.device,
    ranks: Ranks,
) -> StageRun:
    folder = run.folder / name
    ranks.on_writer(lambda: make_folder(folder))
    run.stage(name)["status"] = "running"
    run.save()
    stage = run.recipe.stages[name]
    train, val = images[stage.modality, "train"], images[stage.modality, "val"]
    tutors = _tutors(run, stage, images, device, ranks) if isinstance(stage, StudentStage) else []
    labels = run.samples.labels
    work = Work(folder, name, labels, train, val, tutors, log, device, ranks, run.own_weights)
    training = StageRun(stage, run.recipe, work)
    training.begin()
    return training


def _finish_stage(
    run: Run, name: str, training: StageRun, images: AllImages, log: RunLog, ranks: Ranks
) -> None:
    outcome = training.finish()
    validation = ranks.from_writer(
        lambda: write_checkpoint(run, name, run.recipe.stages[name], outcome, images)
    )
    entry = run.stage(name)
    entry.update(status="done", epoch=outcome.epoch, validation_map=map_of(validation))
    entry["seconds"] = round(outcome.seconds, 1)
    run.save()
    # Only now: a kill before this line finds the stage done or able to finish again.
    training.close()
    log.event("stage", stage=name, **entry)
    log.say(f"{name}: {summary_of(validation)}")


def _tutors(
    run: Run, stage: StudentStage, images: AllImages, device: torch.device, ranks: Ranks
) -> list[Tutor]:
    tutors = []
    for name in stage.teachers:
        teacher, labels = run.recipe.stages[name], run.samples.labels
        network = load_teacher(run.folder / name, teacher, run.recipe, labels, ranks).to(device)
        theirs, ours = images[teacher.modality, "train"], images[stage.modality, "train"]
        tutors.append(
            tutor_of(
                network,
                teacher,
                stage,
                theirs,
                ours,
                exclusive=labels.exclusive,
                device=device,
                ranks=ranks,
            )
        )
    return tutors


def _require_initial_weights(recipe: Recipe, labels: LabelSet) -> None:
    """Check the weights that stages begin with; a resumed run may need them no more.

    Raises:
        RecipeError, CheckpointError: As `initial_weights`.
    """
    for stage in recipe.stages.values():
        if stage.model.init is not None:
            with torch.device("meta"):
                network = new_network(stage, recipe, labels)
            initial_weights(stage.model, network, labels)


def _require_trainable(recipe: Recipe, samples: SampleSet, options: Options) -> None:
    """Check every stage before hours are spent on the first, also against device and processes.

    Raises:
        RecipeError: A network, loss, precision or batch does not fit, or there is no such device.
    """
    labels, device = samples.labels, options.device
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}",
            where="--device",
            expected="cpu, or cuda where torch finds a GPU",
        ) from error
    for name, stage in recipe.stages.items():
        with torch.device("meta"):
            network = new_network(stage, recipe, labels)
        if isinstance(stage, StudentStage) and stage.quantize:
            float_layers(network, stage.quantization)  # globs that match nothing are found now
        require_precision(stage.precision, chosen, name)
        images = len(samples.select(stage.modality, "train"))
        require_shares(stage, name, images, options.ranks.size)
        if labels.exclusive and stage.loss.name == "asymmetric":
            raise RecipeError(
                "an asymmetric loss, and labels that exclude each other",
                where=f"stages.{name}.loss",
                expected="likelihood: with one label for each image no negative is easy",
                fix="set loss.name to likelihood, or data.exclusive to false",
            )


def require_shares(stage: Stage, name: str, images: int, processes: int) -> None:
    """Check that every part of a batch divides evenly: a mean over unequal shares is not the mean.

    Args:
        stage: Batch and parts.
        name: Of the stage.
        images: Its training images.
        processes: Among how many.

    Raises:
        RecipeError: It does not, and the nearest batches are named; or images are too few.
    """
    each = processes * stage.accumulate
    if processes > 1 and images < each:
        raise RecipeError(
            f"{images} training images for {processes} processes, {stage.accumulate} parts a step",
            where=f"stages.{name}",
            expected=f"at least {each} images",
            fix="use fewer processes",
        )
    if processes == 1 or stage.batch % each == 0:
        return
    below = stage.batch // each * each
    near = " or ".join(str(size) for size in (below, below + each) if size)
    raise RecipeError(
        f"a batch of {stage.batch} does not divide among {processes} processes"
        + (f" in {stage.accumulate} parts" if stage.accumulate > 1 else ""),
        where=f"stages.{name}.batch",
        expected=f"a multiple of {each}, such as {near}",
        fix=f"--set stages.{name}.batch={below or each}",
    )
