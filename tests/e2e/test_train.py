"""Training end to end at toy size: checkpoints, exact resume, nothing overwritten."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdr_edge.checkpoint import Checkpoint, load_checkpoint
from qdr_edge.errors import CheckpointError, DatasetError, OutputError, RecipeError
from qdr_edge.samples import read_csv
from qdr_train.engine import program, stage
from qdr_train.engine.networks import BEST_FLOAT
from qdr_train.engine.program import Options
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import load_state
from qdr_train.recipe import Recipe
from qdr_train.recipe.files import load_recipe
from tests.eyes import CODES, write_eyes, write_recipe

ONE_THREAD = Options(threads=1)
STAGES = ("teacher-fundus", "student-oct")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("eyes"), patients=16)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe")))


@pytest.fixture(scope="module")
def run(table: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program.begin(recipe, table, tmp_path_factory.mktemp("runs") / "whole", ONE_THREAD)


def contents(folder: Path) -> dict[str, Checkpoint]:
    return {p.parent.name: load_checkpoint(p.parent) for p in folder.glob("*/checkpoint.json")}


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(left: Path, right: Path, stages: Collection[str] = STAGES) -> None:
    """Bit for bit: weights, scales and every proven logit."""
    one, other = contents(left), contents(right)
    assert set(one) == set(other) == set(stages)
    for name, checkpoint in one.items():
        for part in ("tensors", "probe"):
            mine, theirs = getattr(checkpoint, part), getattr(other[name], part)
            assert set(mine) == set(theirs)
            for key, value in mine.items():
                assert np.array_equal(value, theirs[key]), f"{name} {part} {key}"
        assert checkpoint.graph == other[name].graph
        assert checkpoint.validation == other[name].validation


def test_run_directory_holds_what_the_next_stages_need(run: Path, recipe: Recipe) -> None:
    record = json.loads((run / "run.json").read_text())
    assert (record["format"], record["version"]) == ("qdr-run", 1)
    assert (record["name"], record["seed"], record["status"]) == ("tiny", 3, "done")
    assert [s["status"] for s in record["stages"]] == ["done", "done"]
    assert load_recipe(run / "recipe.yaml") == recipe
    assert len(read_csv(run / "data.csv")) == 64
    assert [event["event"] for event in events(run)].count("epoch") == 6
    assert list((run / "tb").iterdir())
    assert not list(run.glob("*/state*"))


def test_teacher_checkpoint_is_float_and_student_quantized(run: Path, recipe: Recipe) -> None:
    found = contents(run)
    teacher, student = found["teacher-fundus"], found["student-oct"]
    assert (teacher.role, teacher.modality, teacher.scheme) == ("teacher", "fundus", None)
    assert (student.role, student.modality) == ("student", "oct")
    assert student.scheme == recipe.quant_scheme()
    assert student.labels.codes == ("NOR", "AMD", "DR") or set(CODES) <= set(student.labels.codes)
    assert (student.preprocess.modality, student.preprocess.size) == ("oct", 32)
    assert not student.synthetic
    scales = [node.scale for node in student.graph.nodes[:-1]]
    assert all(s is not None and np.log2(s).is_integer() for s in scales)
    provenance = student.provenance
    assert set(provenance["teacher_sha256"]) == {"teacher-fundus"}
    assert provenance["epoch"] == 4  # of 4 epochs only the last is frozen
    assert {"recipe_sha256", "data_sha256", "seed", "git_commit", "versions"} <= set(provenance)


def test_probe_rows_are_val_then_test_and_prove_real_fake_quantization(run: Path) -> None:
    student = contents(run)["student-oct"]
    samples = read_csv(run / "data.csv").select("oct")
    count = len(samples.select(split="val")) + len(samples.select(split="test"))
    shapes = {name: array.shape for name, array in student.probe.items()}
    expected = (count, len(student.labels))
    assert shapes == dict.fromkeys(("reference_logits", "qat_logits", "float_logits"), expected)
    # The reference's students computed the same with and without "quantization": ours must not.
    assert not np.allclose(student.probe["qat_logits"], student.probe["float_logits"], atol=1e-4)
    assert student.validation["form"] == "reference"
    val = len(samples.select(split="val"))
    measured = mean_average_precision(
        student.probe["reference_logits"][:val], samples.select(split="val").targets()
    )
    assert student.validation["map"]["value"] == pytest.approx(measured)


def test_same_seed_same_bits(run: Path, table: Path, recipe: Recipe, tmp_path: Path) -> None:
    assert_same(run, program.begin(recipe, table, tmp_path / "again", ONE_THREAD))


def test_interrupted_in_every_epoch_ends_with_the_same_bits(
    run: Path,
    table: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "interrupted"
    real = stage.train_epoch
    calls = 0

    def interrupted(*arguments: object, **options: object) -> object:
        """Every second epoch is trained and then lost, as a kill before its end would."""
        nonlocal calls
        calls += 1
        losses = real(*arguments, **options)  # type: ignore[arg-type]
        if calls % 2 == 0:
            torch.rand(7)  # the global generator is in another state afterwards
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(stage, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.begin(recipe, table, out, ONE_THREAD)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    stops = 1
    while json.loads((out / "run.json").read_text())["status"] != "done":
        assert stops < 12
        try:
            program.resume(out, Options())
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 4
    assert_same(run, out)


def test_resume_of_a_finished_run_trains_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "train_epoch", None)
    before = {p: p.read_bytes() for p in run.glob("*/*") if p.is_file()}
    program.resume(run, Options())
    assert {p: p.read_bytes() for p in run.glob("*/*") if p.is_file()} == before


def test_nothing_is_overwritten(run: Path, table: Path, recipe: Recipe, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(OutputError, match="--resume"):
        program.begin(recipe, table, run, ONE_THREAD)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        program.begin(recipe, table, tmp_path, ONE_THREAD)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="it is a file"):
        program.begin(recipe, table, tmp_path / "notes.txt", ONE_THREAD)


def test_resume_refuses_another_recipe_other_data_and_no_run(
    run: Path, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="seed is 4, in the run 3"):
        program.resume(run, Options(), recipe.model_copy(update={"seed": 4}))
    with pytest.raises(CheckpointError, match="no training run to resume"):
        program.resume(tmp_path / "nothing", Options())
    assert not (tmp_path / "nothing").exists()
    text = (run / "data.csv").read_text()
    try:
        (run / "data.csv").write_text(text.replace(",NOR,", ",DR,", 1))
        with pytest.raises(DatasetError, match="have changed"):
            program.resume(run, Options())
    finally:
        (run / "data.csv").write_text(text)


def test_two_processes_cannot_share_a_run(run: Path, table: Path, recipe: Recipe) -> None:
    from qdr_train.engine.run_folder import locked

    with locked(run), pytest.raises(OutputError, match="another process"):
        program.resume(run, Options())


def test_bad_data_makes_no_folder(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), overrides=["data.labels=TOPCON-MM"])
    table = write_eyes(tmp_path / "eyes")
    table.write_text(table.read_text().replace(",oct,AMD", ",oct,ADM"))
    with pytest.raises(DatasetError, match="ADM"):
        program.begin(recipe, table, tmp_path / "out", ONE_THREAD)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        # Calibration only: what the speed benchmark uses.
        ["student.epochs=0", "student.qat_epochs=0", "student.frozen_epochs=0"],
        # The float comparison (FDDM, ODDM).
        ["student.quantize=false", "student.epochs=1"],
        # Same-modality teaching, SGD with plateau, weights for rare labels, no QAT freeze before.
        [
            "stages.student-oct.modality=fundus",
            "student.distill={soft_labels: 1.0, teacher_views: augmented}",
            "student.optimizer={name: sgd, lr: 0.01, schedule: plateau}",
            "student.loss.pos_weight_limit=4",
            "student.epochs=1",
        ],
        # The free scales of the other scheme, and no teacher at all.
        ["scheme=portable", "student.teachers=[]", "student.epochs=1"],
        # What a large data set asks for, all at once.
        [
            "student.precision=bfloat16",
            "student.loss.name=asymmetric",
            "student.sampler=balanced",
            "student.accumulate=2",
            "student.ema=0.9",
            "student.epochs=1",
        ],
        # Teachers that learn on, and the authors' end of training.
        [
            "student.distill={teacher_views: augmented, teacher_learns: ema}",
            "student.optimizer={name: sgd, lr: 0.01, schedule: plateau, stop_lr: 1.0e-7}",
            "student.patience=1",
        ],
    ],
    ids=[
        "calibrate-only",
        "float-student",
        "same-modality",
        "portable-alone",
        "imbalanced",
        "averaged-teacher",
    ],
)
def test_other_programmes(table: Path, tmp_path: Path, settings: list[str]) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path), overrides=["teacher.epochs=1", "data.max_images=8", *settings]
    )
    out = program.begin(recipe, table, tmp_path / "run", ONE_THREAD)
    student = load_checkpoint(out / "student-oct")
    quantized = "student.quantize=false" not in settings
    assert (student.scheme is not None) == quantized
    assert ("reference_logits" in student.probe) == quantized
    assert all(np.isfinite(logits).all() for logits in student.probe.values())


ONE_TEACHER = """
name: one
size: 32
stages:
  teacher-fundus:
    {role: teacher, modality: fundus, model: {name: qdr-small, width: 0.34}, batch: 6, epochs: 1}
"""

TWO_STUDENTS = """
name: two
seed: 3
size: 32
defaults:
  teacher: {model: {name: qdr-small, width: 0.34}, batch: 6, epochs: 1}
  student:
    model: {name: qdr-small, width: 0.34, dropout: 0.2}
    batch: 6
    epochs: 1
    qat_epochs: 1
    frozen_epochs: 1
    calibration_images: 6
    teachers: [teacher-fundus]
stages:
  teacher-fundus: {modality: fundus}
  student-oct: {modality: oct, epochs: 2, distill: &d {teacher_views: augmented}}
  student-fundus: {modality: fundus, distill: *d}
"""


def test_stages_that_take_turns_end_with_the_bits_of_stages_in_a_row(
    table: Path, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, TWO_STUDENTS)
    along = ["student.distill.teacher_learns=along"]
    row = load_recipe(path, overrides=along)
    taking_turns = load_recipe(path, overrides=[*along, "alternate=true"])
    assert program.turns(row) == [["teacher-fundus"], ["student-oct"], ["student-fundus"]]
    assert program.turns(taking_turns) == [["teacher-fundus"], ["student-oct", "student-fundus"]]
    left = program.begin(row, table, tmp_path / "row", ONE_THREAD)
    right = program.begin(taking_turns, table, tmp_path / "turns", ONE_THREAD)
    order = [event["stage"] for event in events(right) if event["event"] == "epoch"]
    assert order[1:5] == ["student-oct", "student-fundus"] * 2
    assert_same(left, right, {"teacher-fundus", "student-oct", "student-fundus"})
    # The finished teacher's own checkpoint is not what learned on.
    shared = load_checkpoint(right / "student-oct").provenance["teacher_sha256"]
    assert shared == load_checkpoint(right / "student-fundus").provenance["teacher_sha256"]
    learning = [e for e in events(right) if e["event"] == "epoch" and "teacher" in e]
    assert {event["stage"] for event in learning} == {"student-oct", "student-fundus"}


def test_averaged_weights_are_kept_and_handed_on(table: Path, tmp_path: Path) -> None:
    """With an average that hardly moves, what is kept is not what was trained."""
    best = {}
    for ema in (0.0, 0.5):
        path = write_recipe(tmp_path, ONE_TEACHER)
        recipe = load_recipe(path, overrides=[f"teacher.ema={ema}"])
        out = program.begin(recipe, table, tmp_path / f"ema-{ema}", ONE_THREAD)
        best[ema] = load_state(out / "teacher-fundus", BEST_FLOAT)[0]
    kept = {key: torch.equal(value, best[0.5][key]) for key, value in best[0.0].items()}
    # Buffers are copied; weights are averaged, and what ships is the average.
    assert kept["head.weight"] is False
    assert all(same for key, same in kept.items() if key.endswith("running_mean"))


def test_exclusive_labels_are_trained_with_a_softmax(table: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, ONE_TEACHER)
    recipe = load_recipe(path, overrides=["data.exclusive=true"])
    out = program.begin(recipe, table, tmp_path / "run", ONE_THREAD)
    teacher = load_checkpoint(out / "teacher-fundus")
    assert teacher.labels.exclusive
    losses = [e["label"] for e in events(out) if e["event"] == "epoch"]
    # Untrained cross-entropy over K labels is log K; binary cross-entropy would be log 2.
    assert losses[0] == pytest.approx(np.log(len(teacher.labels)), rel=0.1)
    program.resume(out, Options())  # reads its own label set back


def test_labels_that_do_not_exclude_each_other_are_named(table: Path, tmp_path: Path) -> None:
    lines = table.read_text().splitlines()
    changed = lines[6].replace(",NOR,", ",NOR;DR,").replace(",AMD,", ",AMD;DR,")
    assert changed != lines[6]
    copy = table.with_name("two-labels.csv")
    copy.write_text("\n".join([*lines[:6], changed, *lines[7:]]) + "\n")
    recipe = load_recipe(write_recipe(tmp_path), overrides=["data.exclusive=true"])
    with pytest.raises(DatasetError, match=f"{changed.split(',')[0]} has the labels .*;DR"):
        program.begin(recipe, copy, tmp_path / "run", ONE_THREAD)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["data.exclusive=true", "student.loss.name=asymmetric"], ONE_THREAD, "student-oct.loss"),
        (["teacher.precision=float16"], ONE_THREAD, "teacher-fundus.precision"),
        ([], Options(threads=1, device="abacus"), "--device"),
    ],
    ids=["asymmetric-exclusive", "float16-on-cpu", "no-such-device"],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    table: Path, tmp_path: Path, settings: list[str], options: Options, message: str
) -> None:
    recipe = load_recipe(write_recipe(tmp_path), overrides=settings)
    with pytest.raises(RecipeError, match=message):
        program.begin(recipe, table, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_divergence_is_an_error_not_a_model(table: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path),
        overrides=["teacher.optimizer={name: sgd, lr: 1.0e+30, clip_norm: 0, warmup_epochs: 0}"],
    )
    with pytest.raises(RecipeError, match="training diverged"):
        program.begin(recipe, table, tmp_path / "run", ONE_THREAD)
    assert not list((tmp_path / "run").glob("*/checkpoint.json"))
