"""Pairing, schedules, guides, state files, log: the parts of a training step."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from qdr_edge.errors import CheckpointError
from qdr_train.data.augment import Augmentation
from qdr_train.data.images import Images, network_input, predict
from qdr_train.distill.guide import Guide, StudentBatch, alignment
from qdr_train.distill.objective import LabelLoss
from qdr_train.distill.pairing import LabelPairing
from qdr_train.engine.logs import LOG_FILE, RunLog
from qdr_train.engine.progress import Progress
from qdr_train.engine.provenance import derive_seed
from qdr_train.engine.schedule import build_optimizer, learning_rate, plateau_factor
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import load_state, pack_optimizer, save_state, unpack_optimizer
from qdr_train.models import Classifier, build
from qdr_train.recipe import Distill, Optimizer

CPU = torch.device("cpu")


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build("qdr-small", 3, width=0.34)


def some_images(count: int = 12, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count + 2, 3, 32, 32), dtype=np.uint8)
    targets = torch.from_numpy(np.eye(3, dtype=np.float32)[np.arange(count) % 3])
    patients = tuple(f"p{i}" for i in range(count))
    return Images(pixels, np.arange(count, dtype=np.int64) + 2, targets, patients)


def test_pairing_prefers_the_identical_label_set() -> None:
    student = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1]])
    teacher = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]])
    pairing = LabelPairing(student, teacher)
    generator = torch.Generator().manual_seed(0)
    drawn = [pairing.draw(torch.tensor([k]), 400, generator).tolist() for k in range(3)]
    assert set(drawn[0]) == {1}
    assert set(drawn[1]) == {0, 2}
    assert 150 < drawn[1].count(0) < 250
    assert set(drawn[2]) == {0, 1, 2, 3}  # no identical set: any image


def test_network_input_is_the_integer_grid() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8)
    assert network_input(pixels).tolist() == [-2.0, 0.0, 127 / 64]


def test_images_index_their_split(tmp_path: Path) -> None:
    images = some_images()
    assert np.array_equal(images.take(torch.tensor([0, 3])).numpy(), images.pixels[[2, 5]])
    logits = predict(network().eval(), images, CPU, batch=5)
    assert logits.shape == (12, 3)
    np.testing.assert_allclose(logits, predict(network().eval(), images, CPU), atol=1e-5)


def test_warmup_cosine_and_plateau() -> None:
    settings = Optimizer(lr=1.0, warmup_epochs=2, final_lr_share=0.1)
    rates = [learning_rate(settings, p, 12) for p in (0, 1, 2, 7, 12)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])
    # A phase of one epoch, as --epochs-scale makes it, still reaches its peak.
    assert max(learning_rate(settings, p / 10, 1) for p in range(10)) > 0.9
    assert plateau_factor([0.5, *[0.4] * 4]) == 1.0
    assert plateau_factor([0.5, *[0.4] * 5]) == 0.5
    assert plateau_factor([0.5, *[0.4] * 4, 0.6, *[0.1] * 10]) == 0.25


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    optimizer = build_optimizer([network()], Optimizer(weight_decay=0.3))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])


def student_batch(images: Images, model: Classifier) -> StudentBatch:
    rows = torch.arange(6)
    view = images.take(rows).float()
    features, logits = model.forward_features(network_input(view))
    targets = images.targets[rows]
    return StudentBatch(rows, view, features, logits, targets, LabelLoss()(logits, targets))


@pytest.mark.parametrize("views", ["fixed", "augmented"])
@pytest.mark.parametrize("same", [False, True])
def test_guide_teaches_the_student_and_stays_frozen(views: str, same: bool) -> None:
    teacher, student = network(1), network(2).eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    settings = Distill.model_validate(
        {"teacher_views": views, "soft_labels": 1.0, "teacher_images": 2}
    )
    images = some_images()
    theirs = images if same else some_images(seed=4)
    guide = Guide(
        teacher, theirs, Augmentation(), images, same_modality=same, settings=settings, device=CPU
    )
    align = alignment(student.feature_dim, guide.feature_dim)
    losses = guide.losses(student_batch(images, student), align, torch.Generator().manual_seed(0))
    assert set(losses.student) == ({"cpm", "csa", "soft"} if same else {"cpm", "csa"})
    assert losses.teacher is None
    torch.stack(list(losses.student.values())).sum().backward()
    assert student.head.weight.grad is not None
    assert student.backbone.get_submodule("stem")[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_fixed_and_augmented_views_agree_where_nothing_moves() -> None:
    images, found = some_images(), []
    for views in ("fixed", "augmented"):
        student = network(2).eval()
        guide = Guide(
            network(1),
            some_images(seed=4),
            Augmentation(),
            images,
            same_modality=False,
            settings=Distill.model_validate({"teacher_views": views}),
            device=CPU,
        )
        torch.manual_seed(0)
        align = alignment(student.feature_dim, guide.feature_dim)
        batch = student_batch(images, student)
        found.append(guide.losses(batch, align, torch.Generator().manual_seed(3)).student)
    for name in ("cpm", "csa"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_gradient_limit_keeps_a_guide_from_outpulling_the_labels() -> None:
    images, student = some_images(), network(2).eval()
    pulls = []
    for limit in (None, 0.5):
        guide = Guide(
            network(1),
            some_images(seed=4),
            Augmentation(),
            images,
            same_modality=False,
            settings=Distill(alpha=500.0, gradient_limit=limit),
            device=CPU,
        )
        torch.manual_seed(0)
        align = alignment(student.feature_dim, guide.feature_dim)
        batch = student_batch(images, student)
        terms = guide.losses(batch, align, torch.Generator().manual_seed(3)).student
        sums = (terms["cpm"] + terms["csa"], batch.label_loss)
        norms = [torch.autograd.grad(s, batch.features, retain_graph=True)[0].norm() for s in sums]
        pulls.append((norms[0] / norms[1]).item())
    assert pulls[0] > 1
    assert pulls[1] == pytest.approx(0.5, rel=1e-4)


def test_state_is_committed_as_a_pair(tmp_path: Path) -> None:
    save_state(tmp_path, "state", {"a": torch.arange(3.0)}, {"epoch": 1})
    save_state(tmp_path, "state", {"a": torch.arange(4.0)}, {"epoch": 2})
    tensors, values = load_state(tmp_path, "state")
    assert tensors["a"].tolist() == [0, 1, 2, 3]
    assert values == {"epoch": 2}
    assert len(list(tmp_path.iterdir())) == 2
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match="training state is damaged"):
        load_state(tmp_path, "state")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizer_state_survives_the_file(tmp_path: Path, name: str) -> None:
    settings = Optimizer.model_validate({"name": name})
    runs = []
    for interrupted in (False, True):
        model = network()
        optimizer = build_optimizer([model], settings)
        for step in range(4):
            if interrupted and step == 2:
                tensors, values = pack_optimizer(optimizer)
                save_state(tmp_path, "state", tensors, values)
                optimizer = build_optimizer([model], settings)
                unpack_optimizer(optimizer, *load_state(tmp_path, "state"))
            optimizer.zero_grad()
            model(torch.full((2, 3, 32, 32), 0.1 * step)).pow(2).sum().backward()
            optimizer.step()
        runs.append(model.state_dict())
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


def test_selection_prefers_later_ties_and_only_frozen_epochs() -> None:
    progress = Progress()
    marks = []
    for epoch, (value, eligible) in enumerate(
        [(0.9, False), (0.5, True), (0.4, True), (0.5, True), (float("nan"), True)], start=1
    ):
        progress.epoch = epoch
        marks.append(progress.record(value, eligible=eligible))
    assert marks == [False, True, False, True, False]
    assert progress.best == (4, 0.5)
    json.dumps(progress.history, allow_nan=False)


def test_map_skips_labels_without_positives_or_negatives() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.1, 0.2, 0.5]], dtype=np.float32)
    targets = np.array([[1, 0, 1], [0, 0, 1]])
    assert mean_average_precision(scores, targets) == 1.0
    assert np.isnan(mean_average_precision(scores, np.zeros((2, 3))))


def test_seeds_differ_by_purpose() -> None:
    seeds = {derive_seed(0, "a", e) for e in range(50)} | {derive_seed(0, "b"), derive_seed(1, "b")}
    assert len(seeds) == 52
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_log_is_repaired_once_after_a_kill_before_it_was_written(tmp_path: Path) -> None:
    with RunLog(tmp_path, Console(quiet=True)) as log:
        log.epoch("teacher-oct", 1, {"loss": 0.5})
    with (tmp_path / LOG_FILE).open("ab") as handle:
        handle.write(b"\0\0\0\n[1]\n")  # a power cut leaves such lines
    with RunLog(tmp_path, Console(quiet=True)) as log:
        for _ in range(2):
            log.repair("teacher-oct", 1, {"loss": 0.5})
            log.repair("teacher-oct", 2, {"loss": 0.25})
            log.repair("teacher-fundus", 1, {"loss": 0.75})
    found = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()[3:]]
    assert [(e["stage"], e["epoch"], e["loss"]) for e in found] == [
        ("teacher-oct", 2, 0.25),
        ("teacher-fundus", 1, 0.75),
    ]


def test_log_is_plain_without_a_terminal_and_drops_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text('{"event": "old"}\n{"event": "to')
    text = io.StringIO()
    with RunLog(tmp_path, Console(file=text)) as log, log.bar("x") as bar:
        bar(1, 2)
        log.say("[not markup]")
        log.epoch("stage", 1, {"val_map": None, "loss": 0.5, "phase": "qat"})
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["old", "epoch"]
    assert lines[1]["val_map"] is None
    assert text.getvalue() == "[not markup]\n"
    assert list((tmp_path / "tb").iterdir())
