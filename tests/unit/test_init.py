"""Weights to begin with: torchvision's names, our input, other runs, and every way to be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import CheckpointError, QdrError, RecipeError
from qdr_edge.files import sha256_file
from qdr_edge.labels import LabelSet
from qdr_train.data.images import network_input
from qdr_train.engine import program
from qdr_train.engine.stage import StageRun
from qdr_train.models import Classifier, build
from qdr_train.models.init import IMAGENET_MEAN, IMAGENET_STD, initial_weights
from qdr_train.recipe import Model, Recipe
from qdr_train.recipe.files import load_recipe
from tests.eyes import write_eyes

LABELS = LabelSet.custom(("NOR", "AMD", "DR"))
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def batch_norm(name: str, channels: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def dense(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def torchvision_resnet(depths: tuple[int, ...], bottleneck: bool) -> Shapes:
    """Names and shapes of torchvision.models.resnet18, 34 and 50."""
    yield "conv1.weight", (64, 3, 7, 7)
    yield from batch_norm("bn1", 64)
    inputs = 64
    for stage, depth in enumerate(depths):
        wide = 64 * 2**stage
        out = 4 * wide if bottleneck else wide
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            if bottleneck:
                shapes = [(wide, inputs, 1, 1), (wide, wide, 3, 3), (out, wide, 1, 1)]
            else:
                shapes = [(wide, inputs, 3, 3), (wide, wide, 3, 3)]
            for number, shape in enumerate(shapes, start=1):
                yield f"{name}.conv{number}.weight", shape
                yield from batch_norm(f"{name}.bn{number}", shape[0])
            if block == 0 and inputs != out:
                yield f"{name}.downsample.0.weight", (out, inputs, 1, 1)
                yield from batch_norm(f"{name}.downsample.1", out)
            inputs = out
    yield from dense("fc", 1000, inputs)


def torchvision_mobilenet() -> Shapes:
    """Names and shapes of torchvision.models.mobilenet_v3_small."""
    # (kernel, expanded, squeezed or 0, out) of each block
    rows = [(3, 16, 8, 16), (3, 72, 0, 24), (3, 88, 0, 24), (5, 96, 24, 40), (5, 240, 64, 40),
            (5, 240, 64, 40), (5, 120, 32, 48), (5, 144, 40, 48), (5, 288, 72, 96),
            (5, 576, 144, 96), (5, 576, 144, 96)]  # fmt: skip

    def convolution(name: str, *shape: int) -> Shapes:
        yield f"{name}.0.weight", shape
        yield from batch_norm(f"{name}.1", shape[0])

    yield from convolution("features.0", 16, 3, 3, 3)
    inputs = 16
    for number, (kernel, wide, squeezed, out) in enumerate(rows, start=1):
        at = iter(range(4))
        if wide != inputs:
            yield from convolution(f"features.{number}.block.{next(at)}", wide, inputs, 1, 1)
        yield from convolution(f"features.{number}.block.{next(at)}", wide, 1, kernel, kernel)
        if squeezed:
            name = f"features.{number}.block.{next(at)}"
            yield from dense(f"{name}.fc1", squeezed, wide, 1, 1)
            yield from dense(f"{name}.fc2", wide, squeezed, 1, 1)
        yield from convolution(f"features.{number}.block.{next(at)}", out, wide, 1, 1)
        inputs = out
    yield from convolution("features.12", 576, 96, 1, 1)
    yield from dense("classifier.0", 1024, 576)
    yield from dense("classifier.3", 1000, 1024)


SHAPES = {
    "resnet18": lambda: torchvision_resnet((2, 2, 2, 2), False),
    "resnet34": lambda: torchvision_resnet((3, 4, 6, 3), False),
    "resnet50": lambda: torchvision_resnet((3, 4, 6, 3), True),
    "mobilenetv3-small": torchvision_mobilenet,
}


def torchvision_state(name: str) -> dict[str, Tensor]:
    """A state dict with plausible numbers."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for key, shape in SHAPES[name]():
        value = torch.randn(shape, generator=generator) * 0.05
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            value = 1 + value.abs()
        found[key] = value
    return found


def save(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def model_of(name: str, file: Path, layout: str, sha256: str = "", width: float = 1.0) -> Model:
    weights = file if file.is_file() else next(file.glob("best-float-*"), None)
    digest = sha256 or (sha256_file(weights) if weights else "0" * 64)
    init = {"file": str(file), "sha256": digest, "layout": layout}
    return Model.model_validate({"name": name, "width": width, "init": init})


def loaded(model: Model, labels: LabelSet = LABELS) -> Classifier:
    torch.manual_seed(0)
    network = build(model.name, len(labels), width=model.width)
    initial_weights(model, network, labels).load_into(network)
    return network


def outline(name: str, width: float = 1.0) -> Classifier:
    """A network without numbers."""
    with torch.device("meta"):
        return build(name, len(LABELS), width=width)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("resnet18", ".safetensors"),
        ("resnet34", ".pth"),
        ("resnet50", ".pth"),
        ("mobilenetv3-small", ".pth"),
    ],
)
def test_every_torchvision_tensor_arrives(tmp_path: Path, name: str, suffix: str) -> None:
    state = torchvision_state(name)
    model = model_of(name, save(tmp_path / f"w{suffix}", state), "torchvision")
    weights = initial_weights(model, outline(name), LABELS)
    last = "classifier.3" if name == "mobilenetv3-small" else "fc"
    last_stays = name == "resnet50"  # its 1000 answers are the paper's features
    assert weights.left_out == (() if last_stays else (f"{last}.weight", f"{last}.bias"))
    assert weights.fresh == ("head.weight", "head.bias")
    network = weights.tensors
    stem = {"resnet": ("conv1.weight", "bn1.running_mean"),
            "mobile": ("features.0.0.weight", "features.0.1.running_mean")}[name[:6]]  # fmt: skip
    for key, value in state.items():
        if key not in weights.left_out and key not in stem:
            assert torch.equal(network[f"backbone.{key}"], value), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3-small"])
def test_the_pretrained_response_is_kept_away_from_the_border(tmp_path: Path, name: str) -> None:
    state = torchvision_state(name)
    network = loaded(model_of(name, save(tmp_path / "w.pth", state), "torchvision")).eval()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 40, 40), generator=generator, dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    normalized = (pixels / 255 - mean) / std
    conv, bn = ("conv1", "bn1") if name == "resnet18" else ("features.0.0", "features.0.1")
    eps = 1e-5 if name == "resnet18" else 1e-3
    kernel = state[f"{conv}.weight"]
    raw = F.conv2d(normalized, kernel, stride=2, padding=kernel.shape[-1] // 2)
    theirs = F.batch_norm(
        raw,
        *(state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
        eps=eps,
    )
    ours = network.backbone.get_submodule(conv)(network_input(pixels))
    ours = network.backbone.get_submodule(bn)(ours)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=1e-4, atol=1e-5)
    assert theirs[inner].std() > 0.05
    # Zero padding is ImageNet's mean colour to theirs and grey to ours: the documented difference.
    assert not torch.allclose(ours[..., 0, :], theirs[..., 0, :], rtol=1e-2, atol=1e-3)
    # Colour channels are not swapped: ImageNet's differ in mean and spread.
    swapped = network.backbone.get_submodule(conv)(network_input(pixels.flip(1)))
    swapped = network.backbone.get_submodule(bn)(swapped)
    assert (swapped[inner] - theirs[inner]).abs().mean() > 0.01


def test_an_old_file_counts_no_batches(tmp_path: Path) -> None:
    state = torchvision_state("resnet18")
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    network = loaded(model_of("resnet18", save(tmp_path / "w.pth", old), "torchvision"))
    assert torch.equal(
        network.state_dict()["backbone.layer4.1.bn2.bias"], state["layer4.1.bn2.bias"]
    )


def test_a_last_layer_of_another_width_is_left_random(tmp_path: Path) -> None:
    state = torchvision_state("resnet50")
    state |= {"fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}
    model = model_of("resnet50", save(tmp_path / "w.pth", state), "torchvision")
    weights = initial_weights(model, outline("resnet50"), LABELS)
    assert set(weights.left_out) == {"fc.weight", "fc.bias"}
    assert set(weights.fresh) == {
        "backbone.fc.weight", "backbone.fc.bias", "head.weight", "head.bias"
    }  # fmt: skip
    assert "random: backbone.fc.weight" in str(weights)


def stage_folder(folder: Path, network: Classifier, labels: LabelSet | None) -> Path:
    """A finished stage as a run leaves it."""
    stage = folder / "teacher-fundus"
    stage.mkdir(parents=True)
    save(stage / "best-float-0123456789ab.safetensors", network.state_dict())
    if labels is not None:
        (folder / "run.json").write_text(json.dumps({"labels": labels.to_dict()}))
    return stage


@pytest.mark.parametrize(
    ("theirs", "with_head"),
    [(LABELS, True), (LabelSet.custom(("AMD", "NOR", "DR")), False), (None, False)],
    ids=["same labels", "another order", "unknown labels"],
)
def test_the_head_comes_along_only_with_its_labels(
    tmp_path: Path, theirs: LabelSet | None, with_head: bool
) -> None:
    torch.manual_seed(9)
    trained = build("qdr-small", 3, width=0.34)
    nn.init.normal_(trained.head.bias)
    stage = stage_folder(tmp_path / "run", trained, theirs)
    for file in (stage, next(stage.iterdir())):
        network = loaded(model_of("qdr-small", file, "qdr", width=0.34))
        same = [
            name
            for name, value in network.state_dict().items()
            if torch.equal(value, trained.state_dict()[name])
        ]
        assert len(same) == len(trained.state_dict()) - (0 if with_head else 2)
        assert ("head.weight" in same) == with_head


def test_a_network_of_other_labels_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(9)
    trained = build("qdr-small", 5, width=0.34)
    labels = LabelSet.custom(("NOR", "AMD", "DR", "RVO", "CSC"))
    stage = stage_folder(tmp_path / "run", trained, labels)
    network = loaded(model_of("qdr-small", stage, "qdr", width=0.34))
    assert torch.equal(network.backbone.stem[0].weight, trained.backbone.stem[0].weight)
    assert network.head.weight.shape == (3, network.feature_dim)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of the file ran')",)


def wrong_files(folder: Path) -> dict[str, tuple[Model, type[QdrError], list[str]]]:
    state = torchvision_state("mobilenetv3-small")
    missing = {k: v for k, v in state.items() if k != "features.5.block.2.fc1.bias"}
    broken = state | {"features.1.block.2.1.bias": torch.full((16,), float("nan"))}
    good = save(folder / "good.pth", state)
    text = folder / "text.pth"
    text.write_text("weights")
    torch.save({"epoch": 3, "state_dict": state}, folder / "nested.pth")
    torch.save(Malice(), folder / "malice.pth")
    (folder / "empty").mkdir()

    def of(file: Path, layout: str = "torchvision", **more: str) -> Model:
        return model_of("mobilenetv3-small", file, layout, **more)

    return {
        "absent": (
            of(folder / "none.pth", sha256="0" * 64), RecipeError, ["none.pth", "No such file"]),
        "another file": (
            of(good, sha256="1" * 64), RecipeError, ["good.pth", sha256_file(good), "1" * 64]),
        "empty folder": (
            of(folder / "empty", "qdr", sha256="0" * 64), RecipeError, ["no float weights"]),
        "not torchvision's": (
            model_of("qdr-small", good, "torchvision"), RecipeError,
            ["torchvision has no qdr-small", "resnet50"]),
        "no weights": (of(text), CheckpointError, ["text.pth", "cannot be read"]),
        "code": (of(folder / "malice.pth"), CheckpointError, ["malice.pth", "cannot be read"]),
        "nested": (of(folder / "nested.pth"), CheckpointError, ["not a state dict"]),
        "not finite": (
            of(save(folder / "broken.pth", broken)), CheckpointError,
            ["not finite in features.1.block.2.1.bias"]),
        "missing": (
            of(save(folder / "missing.pth", missing)), CheckpointError,
            ["(missing: backbone.features.5.block.2.fc1.bias)"]),
        "unexpected": (
            of(save(folder / "more.pth", state | {"features.13.weight": torch.zeros(2)})),
            CheckpointError, ["(unexpected: backbone.features.13.weight)"]),
        "another network": (
            model_of("resnet18", good, "torchvision"), CheckpointError,
            ["missing: backbone.bn1.bias", "and 95 more", "unexpected: backbone.class"]),
        "narrower": (
            model_of("mobilenetv3-small", good, "torchvision", width=0.5), CheckpointError,
            ["shape: backbone.features.0.0.weight [16, 3, 3, 3] instead of [8, 3, 3, 3]"]),
        "wrong layout": (of(good, "qdr"), CheckpointError, ["unexpected: classifier.0.bias"]),
    }  # fmt: skip


def test_a_wrong_file_is_refused_before_it_is_used(tmp_path: Path) -> None:
    for title, (model, kind, words) in wrong_files(tmp_path).items():
        with pytest.raises(kind) as caught:
            initial_weights(model, outline(model.name, model.width), LABELS)
        assert type(caught.value) is kind, title
        for word in words:
            assert word in str(caught.value), title


RECIPE = """
name: tiny
seed: 3
size: 32
stages:
  teacher-fundus:
    role: teacher
    modality: fundus
    model: {name: qdr-small, width: 0.1INIT}
    batch: 6
    epochs: EPOCHS
    ema: 0.9
"""


def recipe_of(folder: Path, epochs: int, init: str = "") -> Recipe:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("EPOCHS", str(epochs)).replace("INIT", init))
    return load_recipe(path)


def test_a_run_begins_with_them_and_resumes_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, options = write_eyes(tmp_path / "eyes"), program.Options(threads=1)
    first = program.begin(recipe_of(tmp_path, 1), table, tmp_path / "first", options)
    (weights,) = (first / "teacher-fundus").glob("best-float-*")
    digest = sha256_file(weights)
    init = f", init: {{file: {first / 'teacher-fundus'}, sha256: {digest}, layout: qdr}}"

    kept = program.begin(recipe_of(tmp_path, 0, init), table, tmp_path / "kept", options)
    assert sha256_file(next((kept / "teacher-fundus").glob("best-float-*"))) == digest
    provenance = load_checkpoint(kept / "teacher-fundus").provenance
    assert provenance["initial_weights"] == {"layout": "qdr", "sha256": digest}
    assert load_checkpoint(first / "teacher-fundus").provenance["initial_weights"] is None

    recipe = recipe_of(tmp_path, 2, init)
    whole = program.begin(recipe, table, tmp_path / "whole", options)
    advance = StageRun.advance

    def interrupted(stage: StageRun) -> None:
        advance(stage)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            program.begin(recipe, table, tmp_path / "again", options)
    weights.unlink()
    again = program.resume(tmp_path / "again", options)
    results = [load_checkpoint(run / "teacher-fundus").tensors for run in (whole, again)]
    assert all(np.array_equal(value, results[1][name]) for name, value in results[0].items())

    with pytest.raises(RecipeError, match="no float weights"):
        program.begin(recipe, table, tmp_path / "late", options)
    assert not (tmp_path / "late").exists()
