"""What each of several processes finds that train as one, and a single one on the whole batch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qdr_edge.errors import BackendError, DatasetError, QdrError
from qdr_edge.scheme import EXACT, QuantScheme
from qdr_train.data.images import Images
from qdr_train.distill.guide import alignment
from qdr_train.distill.losses import DistillationWeights, alone, distillation
from qdr_train.distill.objective import LabelLoss
from qdr_train.engine.average import WeightAverage
from qdr_train.engine.learner import Learner, Trainee
from qdr_train.engine.loop import train_epoch
from qdr_train.engine.precision import Precision
from qdr_train.engine.ranks import Ranks
from qdr_train.engine.tutors import tutor_of
from qdr_train.models import Classifier, build
from qdr_train.quant import qat
from qdr_train.recipe import Optimizer, StudentStage, TeacherStage

BATCH, CLASSES = 12, 5
CPU = torch.device("cpu")


class Small(nn.Module):
    """Convolutions without BatchNorm, whose statistics would be each process's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return features, self.head(features)


def whole_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    targets = (torch.rand(BATCH, CLASSES, generator=generator) < 0.3).float()
    targets[:, 1] = 0
    targets[0, 1] = 1  # a class that only the first process has
    theirs = (torch.rand(BATCH, CLASSES, generator=generator) < 0.4).float()
    theirs[:, 2] = 0
    theirs[-1, 2] = 1  # and one that only the last process's teacher half has
    targets[:, 4] = 0  # and one that nobody has
    return {
        "images": torch.randn(BATCH, 3, 16, 16, generator=generator),
        "targets": targets,
        "features": 3 * torch.randn(BATCH, 24, generator=generator),
        "logits": 2 * torch.randn(BATCH, CLASSES, generator=generator),
        "theirs": theirs,
    }


def distilled_step(ranks: Ranks, *, gathers: bool = True) -> dict[str, Tensor]:
    """Losses and parameter gradients of a step on this process's part of the batch."""
    torch.manual_seed(1)
    network, align = Small().double(), alignment(16, 24).double()
    part = {k: v[ranks.part(BATCH)].double() for k, v in whole_batch().items()}
    features, logits = network(part["images"])
    cpm, csa = distillation(
        align(features),
        logits,
        part["targets"],
        part["features"],
        part["logits"],
        part["theirs"],
        DistillationWeights(),
        ranks.add if gathers else alone,
    )
    labels = LabelLoss()(logits, part["targets"])
    (labels + cpm + csa).backward()
    parameters = dict([*network.named_parameters("net"), *align.named_parameters("align")])
    ranks.average(parameters.values())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert len(gradients) == len(parameters)
    return {
        "cpm": cpm.detach(),
        "csa": csa.detach(),
        "labels": ranks.mean(labels),
        "joined": ranks.join(logits.detach(), BATCH),
        **gradients,
    }


def observed(ranks: Ranks, scheme: QuantScheme, *, bn_frozen: bool) -> dict[str, Tensor]:
    """The buffers of a prepared network after two steps of looking at its part of the batch."""
    torch.manual_seed(2)
    network = qat.prepare_qat(build("qdr-small", CLASSES, width=0.34), scheme).train()
    qat.set_phase(network, observers=True, bn_frozen=bn_frozen)
    images = whole_batch()["images"].repeat(1, 1, 2, 2)
    for factor in (1.0, 1.7):
        with torch.no_grad():
            network(factor * images[ranks.part(BATCH)])
        ranks.agree(network)
    return {name: b.clone() for name, b in network.named_buffers()}


def frozen(ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The buffers before and after a step in which nothing adapts."""
    network = nn.BatchNorm2d(4).eval()
    network.running_mean.copy_(torch.rand(4, generator=torch.Generator().manual_seed(0)))
    before = {name: b.clone() for name, b in network.named_buffers()}
    ranks.agree(network)
    return before, dict(network.named_buffers())


def without_batch_norm(seed: int) -> Classifier:
    """A network whose answer to an image does not depend on the others of the batch."""
    torch.manual_seed(seed)
    network = build("qdr-small", CLASSES, width=0.34, dropout=0.0)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return network


def some_images(count: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    targets = torch.from_numpy((rng.random((count, CLASSES)) < 0.4).astype(np.float32))
    return Images(pixels, np.arange(count), targets, tuple(map(str, range(count))))


def trained(ranks: Ranks, learns: str, limit: float | None = None) -> dict[str, Tensor]:
    """Weights and losses after an epoch as a stage trains it: three steps in two parts each."""
    ours, theirs = some_images(3 * BATCH, 1), some_images(20, 2)
    student, teacher = without_batch_norm(3), without_batch_norm(4)
    views = "fixed" if learns == "frozen" else "augmented"
    stage = StudentStage.model_validate(
        {
            "role": "student",
            "modality": "oct",
            "model": {"name": "qdr-small"},
            "batch": BATCH,
            "accumulate": 2,
            "sampler": "balanced",
            "distill": {
                "teacher_learns": learns,
                "teacher_views": views,
                "teacher_images": 2,
                "gradient_limit": limit,
            },
        }
    )
    frozen = TeacherStage.model_validate(
        {"role": "teacher", "modality": "fundus", "model": {"name": "qdr-small"}}
    )
    tutor = tutor_of(teacher, frozen, stage, theirs, ours, exclusive=False, device=CPU, ranks=ranks)
    torch.manual_seed(6)
    align = alignment(student.feature_dim, teacher.feature_dim)
    settings = Optimizer(name="sgd", lr=0.05, clip_norm=0.5)
    average = WeightAverage(student, 0.5, warm_up=False)
    teachers = [] if tutor.learner is None else [Learner(tutor.learner, settings)]
    trainee = Trainee(
        Learner(student.train(), settings, beside=[align], average=average),
        LabelLoss(),
        (tutor.guide,),
        nn.ModuleList([align]),
        tuple(teachers),
        Precision("float32", CPU),
        CPU,
        ranks,
    )
    before = [p.detach().clone() for p in trainee.modules[0].parameters()]
    losses = train_epoch(
        trainee,
        ours,
        stage,
        learning_rate=lambda share: 0.05,
        generator=torch.Generator().manual_seed(8),
        progress=lambda done, total: None,
    )
    ranks.require_equal(*trainee.modules)
    moved = zip(before, trainee.modules[0].parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in moved)
    found = {
        f"{number}.{name}": value.detach().clone()
        for number, module in enumerate(trainee.modules)
        for name, value in module.state_dict().items()
    }
    return {**found, **{name: torch.tensor(value) for name, value in losses.items()}}


def found_by(ranks: Ranks) -> dict[str, Any]:
    """Everything that the tests look at, as one process sees it."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "step": distilled_step(ranks),
        "local": distilled_step(ranks, gathers=False),
        "observed": observed(ranks, QuantScheme.named("portable"), bn_frozen=False),
        "ranges": observed(ranks, EXACT, bn_frozen=True),
        "frozen": frozen(ranks),
        "epochs": {
            "frozen": trained(ranks, "frozen"),
            "along": trained(ranks, "along"),
            "limited": trained(ranks, "frozen", limit=0.1),
        },
        "told": ranks.from_writer(lambda: {"from": ranks.rank, "tensor": torch.arange(3)}),
    }
    network = nn.Linear(2, 2)
    nn.init.constant_(network.weight, float(ranks.rank))
    try:
        ranks.require_equal(network)
        found["apart"] = None
    except QdrError as error:
        found["apart"] = error.what
    ranks.align(network)
    ranks.require_equal(network)
    found["aligned"] = network.weight.detach()

    def broken() -> None:
        raise DatasetError("nothing there", where="eyes.csv")

    try:
        ranks.on_writer(broken)
    except DatasetError as error:
        found["error"] = str(error)
    except SystemExit as error:
        found["error"] = error.code
    return found


def as_rank(
    act: Callable[[int, Path], None], rank: int, size: int, port: int, folder: Path
) -> None:
    """Act in a process as torchrun starts them."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    act(rank, folder)


def process(rank: int, folder: Path) -> None:
    """Write what is found; then one process dies, and the others write what they are told."""
    with Ranks.from_environment() as ranks:
        torch.save(found_by(ranks), folder / f"{rank}.pt")
        if rank == 1:
            os._exit(0)  # without a word, as a process dies that the kernel kills
        try:
            for _ in range(ranks.size):
                ranks.mean(torch.ones(1))
        except BackendError as error:
            (folder / f"{rank}.txt").write_text(str(error))
            os._exit(0)


def leave(rank: int, folder: Path) -> None:
    """Train a step, leave the others, and write whether the process group is gone."""
    with Ranks.from_environment() as ranks:
        group = weakref.ref(torch.distributed.group.WORLD)
        # Imports torch._dynamo, and with it whatever knows of process groups.
        torch.optim.SGD(Small().parameters(), lr=0.1)
        ranks.mean(torch.ones(1))
    (folder / f"{rank}.txt").write_text("gone" if group() is None else "still there")
