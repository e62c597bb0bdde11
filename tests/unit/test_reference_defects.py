"""The twelve defects of the published code, each as a short test that ours does not have it.

The number is that of the list in the project's account of the method; longer tests of the same
things stand in the files about quantization, training, evaluation and data.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, HistogramObserver

from qdr_edge.checkpoint import load_checkpoint, save_checkpoint
from qdr_edge.errors import DatasetError, OutputError, RecipeError
from qdr_edge.evaluation.levels import make_level
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import evaluate, f1_sens_spec
from qdr_edge.metrics import f1 as true_f1
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import open_model
from qdr_edge.samples import SampleSet, read_csv
from qdr_edge.scheme import EXACT, PORTABLE
from qdr_export.emit.onnxruntime import emit
from qdr_export.graph.canonical import build_canonical
from qdr_train.data.augment import Augmentation
from qdr_train.data.images import Images, network_input, predict
from qdr_train.data.topcon import read_topcon
from qdr_train.distill.guide import Guide, StudentBatch, alignment
from qdr_train.distill.losses import DistillationWeights, distillation
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine import program
from qdr_train.engine.networks import BEST_QAT, load_teacher, new_network
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import load_state
from qdr_train.models import Classifier, build
from qdr_train.quant import qat
from qdr_train.recipe import Distill, Recipe, StudentStage
from qdr_train.recipe.files import load_recipe
from tests.eyes import CODES, write_eyes, write_recipe

LABELS = LabelSet.custom(CODES)
CPU = torch.device("cpu")
TINY = ["teacher.model.width=0.1", "student.model.width=0.1", "teacher.epochs=2",
        "student.epochs=2", "student.qat_epochs=2", "data.labels=[NOR, AMD, DR]"]  # fmt: skip
SPEC = PreprocessSpec("oct", 32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe")), overrides=TINY)


@pytest.fixture(scope="module")
def run(table: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return program.begin(recipe, table, out, program.Options(threads=1))


def proven_rows(table: Path, modality: str) -> Images:
    """The rows a checkpoint proves its logits on: validation, then test."""
    samples = read_csv(table, LABELS).select(modality)
    chosen = [s for split in ("val", "test") for s in samples.select(split=split)]
    pixels = np.stack([load_image(s.file, PreprocessSpec(modality, 32)) for s in chosen])
    targets = torch.from_numpy(np.stack([s.labels for s in chosen]).astype(np.float32))
    return Images(pixels, np.arange(len(chosen)), targets, tuple(s.patient for s in chosen))


def curve(run: Path, stage: str) -> list[float]:
    """Validation mAP of each epoch."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [e["val_map"] for e in lines if e["event"] == "epoch" and e["stage"] == stage]


def small(seed: int = 0, labels: int = 3, name: str = "qdr-small") -> Classifier:
    torch.manual_seed(seed)
    return build(name, labels, width=0.1)


def random_images(count: int = 6, size: int = 32, labels: int = 3) -> Images:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    targets = torch.from_numpy(np.eye(labels, dtype=np.float32)[np.arange(count) % labels])
    return Images(pixels, np.arange(count), targets, tuple(f"p{i}" for i in range(count)))


def guide_of(teacher: Classifier, images: Images, views: str = "fixed") -> Guide:
    settings = Distill.model_validate({"teacher_views": views})
    return Guide(
        teacher, images, Augmentation(), images, same_modality=False, settings=settings, device=CPU
    )


def losses_of(student: Classifier, guide: Guide, images: Images) -> Tensor:
    """What a teacher's guidance costs a student."""
    rows = torch.arange(len(images))
    view, targets = images.take(rows).float(), images.targets
    features, logits = student.forward_features(network_input(view))
    label_loss = LabelLoss()(logits, targets)
    batch = StudentBatch(rows, view, features, logits, targets, label_loss)
    align = alignment(student.feature_dim, guide.feature_dim)
    guidance = guide.losses(batch, align, torch.Generator().manual_seed(0))
    return torch.stack(list(guidance.student.values())).sum()


def test_01_the_int8_network_runs_and_adds_its_residual_once(run: Path, table: Path) -> None:
    checkpoint = load_checkpoint(run / "student-oct")
    session = open_model("onnxruntime", emit(build_canonical(checkpoint)), threads=1)
    pixels = proven_rows(table, "oct").pixels
    answers = np.concatenate([session.infer(image[None]) for image in pixels])
    session.close()
    assert np.array_equal(answers, checkpoint.probe["reference_logits"])
    block = small(name="resnet18").eval().backbone.get_submodule("layer1.0")
    x = torch.randn(2, 16, 8, 8)
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))  # type: ignore[operator]
    torch.testing.assert_close(block(x), torch.relu(branch + x))


def test_02_training_sees_what_ships_and_every_figure_is_of_it(run: Path, table: Path) -> None:
    prepared = qat.prepare_qat(small(), PORTABLE).train()
    on_grid = []

    def look(quantizer: nn.Module, _: object, output: Tensor) -> None:
        codes = (output / quantizer.scale).detach()  # type: ignore[operator]
        whole = (codes - codes.round()).abs().max() < 1e-3
        on_grid.append(bool(whole and codes.abs().max() <= 128 and codes.any()))

    for module in prepared.modules():
        if isinstance(module, FakeQuantize) and not module.is_per_channel:
            module.register_forward_hook(look)
    x = network_input(random_images().take(torch.arange(6)))
    float_logits, logits = small().train()(x), prepared(x)
    assert len(on_grid) > 10
    assert all(on_grid)
    assert (logits - float_logits).abs().max() > 1e-4
    # Selection and report are of the integers.
    checkpoint = load_checkpoint(run / "student-oct")
    shipped = checkpoint.probe["reference_logits"]
    assert not np.array_equal(shipped, checkpoint.probe["float_logits"])
    val = read_csv(table, LABELS).select("oct", "val").targets()
    expected = mean_average_precision(shipped[: len(val)], val)
    assert checkpoint.validation["form"] == "reference"
    assert checkpoint.validation["map"]["value"] == pytest.approx(expected)
    assert curve(run, "student-oct")[-1] == pytest.approx(expected)


def test_03_what_is_saved_loads_to_the_same_bits(
    run: Path, table: Path, recipe: Recipe, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(run / "student-oct")
    save_checkpoint(tmp_path, checkpoint)
    again = load_checkpoint(tmp_path)
    assert again.graph == checkpoint.graph
    assert all(np.array_equal(again.tensors[k], v) for k, v in checkpoint.tensors.items())
    stage = recipe.stages["student-oct"]
    network = qat.prepare_qat(new_network(stage, recipe, LABELS), recipe.quant_scheme())
    network.load_state_dict(load_state(run / "student-oct", BEST_QAT)[0])
    logits = predict(qat.reference_form(network), proven_rows(table, "oct"), CPU)
    assert np.array_equal(logits, checkpoint.probe["reference_logits"])


def test_04_batch_norm_is_folded_and_weights_have_a_scale_for_each_channel(run: Path) -> None:
    checkpoint = load_checkpoint(run / "student-oct")
    operators = {node.op for node in checkpoint.graph.nodes}
    assert operators <= {"conv", "linear", "add", "global_avg_pool", "flatten"}
    scales = {k: v for k, v in checkpoint.tensors.items() if k.endswith(".weight_scale")}
    for name, scale in scales.items():
        assert scale.shape == (len(checkpoint.tensors[name.removesuffix("_scale")]),)
    assert any(len(np.unique(scale)) > 1 for scale in scales.values())


def test_05_the_teacher_that_teaches_is_the_one_that_was_trained(
    run: Path, table: Path, recipe: Recipe
) -> None:
    stage = recipe.stages["teacher-fundus"]
    teacher = load_teacher(run / "teacher-fundus", stage, recipe, LABELS)
    logits = predict(teacher, proven_rows(table, "fundus"), CPU)
    trained = load_checkpoint(run / "teacher-fundus").probe["float_logits"]
    assert np.array_equal(logits, trained)
    assert np.ptp(trained) > 0


def test_06_no_test_image_has_a_say_in_the_weights(
    run: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """The same training and validation images, other test images: the same bits."""
    other = write_eyes(tmp_path / "eyes")
    samples = read_csv(other, LABELS).select(split="test")
    random = np.random.default_rng(9)
    for sample in samples:
        cv2.imwrite(str(sample.file), random.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    again = program.begin(recipe, other, tmp_path / "run", program.Options(threads=1))
    one, two = (load_checkpoint(folder / "student-oct") for folder in (run, again))
    assert one.tensors.keys() == two.tensors.keys()
    assert all(np.array_equal(value, two.tensors[name]) for name, value in one.tensors.items())
    assert one.graph == two.graph  # scales too
    for stage, epochs in (("teacher-fundus", 2), ("student-oct", 4)):
        assert curve(run, stage) == curve(again, stage)  # what the selection saw
        assert len(curve(run, stage)) == epochs
    proven = len(samples.select("oct"))
    before, after = (c.probe["reference_logits"] for c in (one, two))
    assert np.array_equal(before[:-proven], after[:-proven])
    assert not np.array_equal(before[-proven:], after[-proven:])


def test_07_f1_is_f1_and_theirs_has_a_name_of_its_own() -> None:
    targets = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    predicted = np.array([1, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    assert true_f1(predicted, targets) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert f1_sens_spec(predicted, targets) == pytest.approx(2 * 0.5 * 0.75 / (0.5 + 0.75))


def eye_table(folder: Path, rows: list[tuple[str, str, str]]) -> SampleSet:
    """File, patient and eye of some test images."""
    lines = ["file,modality,labels,patient,eye,split"]
    for file, patient, eye in rows:
        cv2.imwrite(str(folder / file), np.zeros((8, 8, 3), np.uint8))
        lines.append(f"{file},oct,AMD,{patient},{eye},test")
    (folder / "eyes.csv").write_text("\n".join(lines) + "\n")
    return read_csv(folder / "eyes.csv", LABELS)


def test_08_eyes_are_told_apart_by_their_ids_not_by_file_names(tmp_path: Path) -> None:
    rows = [("o-amd_1.png", "p1", "L"), ("o-amd_2.png", "p2", "L"), ("o-amd_3.png", "p2", "L"),
            ("o-amd_4.png", "p2", "R")]  # fmt: skip
    samples = eye_table(tmp_path, rows)
    subject = SimpleNamespace(
        samples=samples, graded=np.ones(4, bool), logits={}, rule=None, source="eyes.csv"
    )
    level = make_level(subject, "eye", resamples=0, seed=0)  # type: ignore[arg-type]
    assert level.unit.tolist() == [0, 1, 1, 2]
    subject.samples = eye_table(tmp_path, [("o-amd_1.png", "p1", "")])
    with pytest.raises(DatasetError, match="no eye id"):
        make_level(subject, "eye", resamples=0, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "labels"), [(32, 2), (96, 5)])
def test_09_any_size_and_any_number_of_labels_train(size: int, labels: int) -> None:
    images = random_images(6, size, labels)
    teacher, student = small(1, labels), qat.prepare_qat(small(2, labels), EXACT)
    losses_of(student, guide_of(teacher, images), images).backward()
    stem = student.backbone.get_submodule("stem.0.weight_fake_quant")
    assert stem.scale.numel() > 1  # type: ignore[union-attr, operator]
    assert student.head.weight.grad is not None
    assert torch.isfinite(student.head.weight.grad).all()
    assert student.head.weight.grad.abs().sum() > 0


def spoil_a_list(folder: Path) -> Path:
    """TOPCON-MM in miniature, with a blank line at the end of every list."""
    for modality, short in (("fundus", "cfp"), ("oct", "oct")):
        images = folder / "train" / "Images" / f"{modality}_images"
        images.mkdir(parents=True)
        for split in ("train", "val", "test"):
            name = f"{len(split)}{modality[0]}-L-1"
            cv2.imwrite(str(images / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
            (folder / split).mkdir(exist_ok=True)
            bits = " ".join(["1"] + ["0"] * 10)
            (folder / split / f"{short}.txt").write_text(f"{name} {bits}\n\n")
    return folder


def test_10_awkward_batches_and_files_crash_nothing(tmp_path: Path) -> None:
    # No class in both halves: no loss, and a gradient of 0.
    y_s, y_t = (torch.tensor([row]).repeat(4, 1) for row in ([1, 0, 0], [0, 1, 1]))
    aligned, logits = torch.randn(4, 8, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 8), torch.randn(4, 3)
    found = distillation(aligned, logits, y_s, *teacher, y_t, DistillationWeights())
    assert [loss.item() for loss in found] == [0.0, 0.0]
    torch.stack(found).sum().backward()
    assert aligned.grad is not None
    assert not aligned.grad.any()
    # A constant image.
    network = small().train()
    flat = network(network_input(torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)))
    assert torch.isfinite(flat).all()
    grey = load_image(np.full((40, 40, 3), 77, np.uint8), SPEC)
    assert torch.isfinite(small().eval()(network_input(torch.from_numpy(grey)[None]))).all()
    # Red is the first channel from the file on.
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 2] = 255  # cv2 writes blue, green, red
    cv2.imwrite(str(tmp_path / "red.png"), red)
    means = load_image(tmp_path / "red.png", PreprocessSpec("fundus", 32)).mean(axis=(1, 2))
    assert means.argmax() == 0
    assert means[0] > means[2] + 50
    # A blank line at a list's end, and an image that is not there.
    topcon = spoil_a_list(tmp_path / "topcon")
    assert len(read_topcon(topcon)) == 6
    gone = topcon / "train" / "Images" / "oct_images" / "3o-L-1.png"
    gone.unlink()
    with pytest.raises(DatasetError, match=r"3o-L-1.png"):
        read_topcon(topcon)


def test_11_options_mean_what_they_say_and_nothing_is_lost(
    run: Path, table: Path, recipe: Recipe, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path)
    for text in ("'False'", "0", "no-thanks"):
        with pytest.raises(RecipeError, match="quantize"):
            load_recipe(path, overrides=[f"student.quantize={text}"])
    student = load_recipe(path, overrides=["student.quantize=False", "student.batch=3"]).stages[
        "student-oct"
    ]
    assert isinstance(student, StudentStage)
    assert (student.quantize, student.batch) == (False, 3)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(OutputError, match="holds a training run"):
        program.begin(recipe, table, run, program.Options(threads=1))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    # A class without positives is named, and pulls no mean towards 0.
    targets = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])
    result = evaluate(targets * 2.0 - 1, targets, LABELS, n_bootstrap=0)
    assert result.map.value == 1.0
    assert result.without_positives == ("AMD",)


def test_12_a_step_pays_for_no_second_teacher_pass_and_no_histogram() -> None:
    images, passes = random_images(), []
    teacher, student = small(1), qat.prepare_qat(small(2), EXACT)
    teacher.backbone.register_forward_hook(lambda *_: passes.append(1))
    assert not any(isinstance(module, HistogramObserver) for module in student.modules())
    counts = {}
    for views in ("fixed", "augmented"):
        guide = guide_of(teacher, images, views)
        losses_of(student, guide, images)  # answers to keep are computed here, once for all steps
        passes.clear()
        losses_of(student, guide, images).backward()
        counts[views] = len(passes)
    assert counts == {"fixed": 0, "augmented": 1}
