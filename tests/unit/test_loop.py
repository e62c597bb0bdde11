"""The steps of an epoch: accumulated gradients, teachers that learn, averages, mixed precision."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qdr_edge.errors import RecipeError
from qdr_train.data.augment import Augmentation
from qdr_train.data.images import Images
from qdr_train.distill.guide import alignment
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.average import WeightAverage
from qdr_train.engine.learner import Learner, Trainee
from qdr_train.engine.loop import gradients, train_epoch
from qdr_train.engine.precision import Precision, require_precision
from qdr_train.engine.tutors import Tutor, tutor_of
from qdr_train.models import Classifier, build
from qdr_train.recipe import Loss, Optimizer, StudentStage, TeacherStage

CPU = torch.device("cpu")
TEACHER = TeacherStage.model_validate(
    {"role": "teacher", "modality": "fundus", "model": {"name": "qdr-small"}}
)


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build("qdr-small", 3, width=0.34, dropout=0.0)


def some_images(count: int = 32, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    targets = torch.from_numpy(np.eye(3, dtype=np.float32)[np.arange(count) % 3])
    return Images(pixels, np.arange(count), targets, tuple(f"p{i}" for i in range(count)))


def student_stage(**changes: object) -> StudentStage:
    return StudentStage.model_validate(
        {
            "role": "student",
            "modality": "oct",
            "model": {"name": "qdr-small"},
            "batch": 8,
            "teachers": ["teacher-fundus"],
            **changes,
        }
    )


def trainee_of(
    student: Classifier,
    tutors: tuple[Tutor, ...] = (),
    *,
    objective: LabelLoss | None = None,
    precision: str = "float32",
    ema: float = 0.0,
) -> Trainee:
    torch.manual_seed(5)
    aligns = nn.ModuleList(
        alignment(student.feature_dim, tutor.guide.feature_dim) for tutor in tutors
    )
    settings = Optimizer(name="sgd", lr=0.1, clip_norm=0.0, weight_decay=0.0)
    average = WeightAverage(student, ema, warm_up=True) if ema else None
    return Trainee(
        Learner(student, settings, beside=list(aligns), average=average),
        objective or LabelLoss(),
        tuple(tutor.guide for tutor in tutors),
        aligns,
        tuple(Learner(t.learner, settings, average=t.average) for t in tutors if t.learner),
        Precision(precision, CPU),
        CPU,
    )


def tutor(learns: str, seed: int = 1, ema: float = 0.9, same: bool = False) -> Tutor:
    distill = {"teacher_views": "augmented", "teacher_learns": learns, "teacher_ema": ema}
    if same:
        stage = student_stage(distill={**distill, "soft_labels": 1.0}, modality="fundus")
    else:
        stage = student_stage(distill=distill)
    images = some_images(seed=4)
    return tutor_of(
        network(seed), TEACHER, stage, images, some_images(), exclusive=False, device=CPU
    )


def step(
    trainee: Trainee, parts: tuple[Tensor, ...], images: Images | None = None
) -> dict[str, Tensor]:
    for learner in trainee.learners:
        learner.optimizer.zero_grad()
    generator = torch.Generator().manual_seed(7)
    return gradients(trainee, images or some_images(), parts, Augmentation(), generator)


def epoch(trainee: Trainee, stage: StudentStage, lr: float = 0.1) -> dict[str, float]:
    return train_epoch(
        trainee,
        some_images(),
        stage,
        learning_rate=lambda share: lr,
        generator=torch.Generator().manual_seed(3),
        progress=lambda done, total: None,
    )


def grads(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("loss", "exclusive"),
    [
        (Loss(pos_weight_limit=3.0), False),
        (Loss(pos_weight_limit=3.0), True),
        (Loss(name="asymmetric"), False),
    ],
    ids=["binary", "exclusive", "asymmetric"],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(loss: Loss, exclusive: bool) -> None:
    """In evaluation mode BatchNorm does not look at the batch: what is left must be exact."""
    images = some_images(30)
    objective = LabelLoss.fitted(loss, images.targets[:13], exclusive=exclusive, device=CPU)
    found = []
    for accumulate in (1, 4):
        trainee = trainee_of(network().eval(), objective=objective)
        parts = torch.tensor_split(torch.arange(30), accumulate)  # 8, 8, 7, 7
        shown = step(trainee, parts, images)
        found.append((grads(trainee.student.network), shown["loss"]))
    (one, loss_one), (four, loss_four) = found
    torch.testing.assert_close(loss_one, loss_four)
    assert len(one) == len(four) > 10
    assert max(float(g.abs().max()) for g in one) > 1e-3
    for a, b in zip(one, four, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("same", [False, True], ids=["cross-modal", "same-modality"])
def test_a_teacher_that_learns_along_has_the_gradient_of_its_own_labels_only(same: bool) -> None:
    along = tutor("along", same=same)
    trainee = trainee_of(network(), (along,))
    assert along.learner is not None
    assert along.learner.training
    alone = copy.deepcopy(along.learner)
    seen: list[Tensor] = []
    stem = next(m for m in along.learner.modules() if isinstance(m, nn.Conv2d))
    stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    shown = step(trainee, (torch.arange(8),))
    # The images it saw, and the label loss alone; pairing gave them the student's labels.
    targets = some_images(seed=4 if same else 0).targets[:8]
    loss = LabelLoss()(alone(seen[0]), targets)
    loss.backward()
    torch.testing.assert_close(shown["teacher"], loss.detach())
    assert ("soft" in shown) == same
    assert shown["loss"].item() == pytest.approx(
        sum(float(shown[name]) for name in set(shown) - {"loss", "teacher"}), rel=1e-6
    )
    for a, b in zip(grads(along.learner), grads(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_teacher_learning_along_answers_in_training_mode_and_a_frozen_one_does_not_move() -> None:
    for learns in ("frozen", "along"):
        taught = tutor(learns)
        before = copy.deepcopy(taught.guide._teacher.state_dict())
        student = trainee_of(network(), (taught,))
        figures = epoch(student, student_stage())
        after = taught.guide._teacher.state_dict()
        moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert ("teacher" in figures) == (learns == "along")
        if learns == "frozen":
            assert not moved
        else:
            assert any(key.endswith("running_mean") for key in moved)
            assert any(key.endswith("weight") for key in moved)


def test_an_averaged_teacher_answers_with_the_average_of_one_that_learns() -> None:
    taught = tutor("ema", ema=0.75)
    assert taught.learner is not None
    assert taught.average is not None
    assert taught.guide._teacher is taught.average.network
    began = copy.deepcopy(taught.learner)
    trainee = trainee_of(network(), (taught,))
    # 32 images, batch 16: two steps.
    weights = []
    for share in range(2):
        step(trainee, (torch.arange(16) + 16 * share,))
        for learner in trainee.learners:
            learner.step(trainee.precision)
        weights.append(copy.deepcopy(taught.learner.head.weight.detach()))
    expected = began.head.weight.detach()
    for weight in weights:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(taught.average.network.head.weight, expected)
    assert not taught.average.network.training
    assert all(p.grad is None for p in taught.average.network.parameters())


def test_learning_teachers_change_nothing_of_the_students_own_random_draws() -> None:
    """A frozen and an averaged teacher that does not move teach alike."""
    found = []
    for learns in ("frozen", "ema"):
        student, taught = network(), tutor(learns, ema=0.999999999)
        for module in taught.learner.modules() if taught.learner else ():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # statistics are copied, not averaged: hold them as well
        epoch(trainee_of(student, (taught,)), student_stage())
        found.append(student.head.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_average_follows_quickly_at_first_and_copies_buffers() -> None:
    followed = network()
    average = WeightAverage(followed, 0.9, warm_up=True)
    start = followed.head.weight.detach().clone()
    with torch.no_grad():
        followed.head.weight += 1
        for module in followed.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 5
    average.follow(followed)
    torch.testing.assert_close(average.network.head.weight.detach(), start + 0.9)  # 1 - 1/10
    for mine, theirs in zip(average.network.buffers(), followed.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    for _ in range(300):
        average.follow(followed)
    before = average.network.head.weight.detach().clone()
    with torch.no_grad():
        followed.head.weight += 1
    average.follow(followed)
    torch.testing.assert_close(
        average.network.head.weight.detach(), before + 0.1, atol=1e-4, rtol=0
    )


def test_bfloat16_multiplies_in_16_bits_and_keeps_the_rest_in_32() -> None:
    student = network()
    seen: list[torch.dtype] = []
    student.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainee = trainee_of(student, precision="bfloat16")
    step(trainee, (torch.arange(8),))
    assert seen == [torch.bfloat16]
    assert all(g.dtype == torch.float32 for g in grads(student))
    mixed = grads(student)
    exact_student = network()
    step(trainee_of(exact_student), (torch.arange(8),))
    exact = grads(exact_student)
    cosines = [
        torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        for a, b in zip(mixed, exact, strict=True)
        if a.numel() > 100
    ]
    assert min(cosines) > 0.9
    assert not all(torch.equal(a, b) for a, b in zip(mixed, exact, strict=True))
    features, logits = trainee.precision.answer(student, some_images().take(torch.arange(4)))
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float32)


def test_float16_needs_cuda() -> None:
    with pytest.raises(RecipeError, match=r"float16 on cpu.*bfloat16"):
        require_precision("float16", CPU, "teacher-oct")
    require_precision("float16", torch.device("cuda"), "teacher-oct")
    require_precision("bfloat16", CPU, "teacher-oct")


@pytest.mark.parametrize("name", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_float16_scales_gradients_and_its_scale_survives(name: str) -> None:
    """A recipe may ask for it on CUDA only; the scaling itself is the same on a CPU."""
    device = torch.device(name)
    precision = Precision("float16", device)
    student = network().to(device)
    learner = Learner(student, Optimizer(name="sgd", lr=0.1, clip_norm=1e9))
    before = student.head.weight.detach().clone()
    _, logits = precision.answer(student, some_images().take(torch.arange(8)).to(device))
    precision.backward(logits.square().mean())
    scaled = float(student.head.bias.grad.norm())
    learner.step(precision)
    assert scaled / float(student.head.bias.grad.norm()) == pytest.approx(2.0**16)
    assert not torch.equal(before, student.head.weight)
    precision.end_step()
    # A gradient that overflows leaves the weights alone, and halves the scale.
    moved = student.head.weight.detach().clone()
    learner.optimizer.zero_grad()
    precision.backward(student.head.weight.sum() * 1e38)
    learner.step(precision)
    precision.end_step()
    assert torch.equal(moved, student.head.weight)
    again = Precision("float16", device)
    again.load(precision.state())
    assert again.state() == precision.state()
    assert again.state()["scale"] == 2.0**15


def test_every_state_of_a_trainee_survives_a_reload() -> None:
    """Two epochs in a row, and with everything taken apart between them: the same bits."""
    found = []
    for taken_apart in (False, True):
        made = (tutor("ema"), tutor("along", seed=8))
        trainee = trainee_of(network(), made, ema=0.99)
        epoch(trainee, student_stage(accumulate=2))
        if taken_apart:
            tensors, values = trainee.state()
            tensors = {key: tensor.clone() for key, tensor in tensors.items()}
            made = (tutor("ema", seed=11), tutor("along", seed=12))
            trainee = trainee_of(network(13), made, ema=0.99)
            trainee.load(tensors, copy.deepcopy(values))
        epoch(trainee, student_stage(accumulate=2))
        found.append(trainee.state()[0])
    assert set(found[0]) == set(found[1])
    assert any("average/" in key for key in found[0])
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
