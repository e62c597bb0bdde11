"""The networks: shapes at any size and label count, published names, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdr_edge.errors import RecipeError
from qdr_edge.labels import LabelSet
from qdr_train.engine.networks import new_network
from qdr_train.models import MODELS, build
from qdr_train.recipe.files import load_recipe, shipped_recipes

pytestmark = pytest.mark.usefixtures("_one_seed")


@pytest.fixture
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("size", "labels"), [(32, 1), (75, 4)])
def test_any_size_and_label_count(name: str, size: int, labels: int) -> None:
    model = build(name, labels, in_size=size, width=0.25).eval()
    x = torch.randn(2, 3, size, size + 5)
    with torch.no_grad():
        features, logits = model.forward_features(x)
        assert features.shape == (2, model.feature_dim)
        assert logits.shape == (2, labels)
        assert torch.equal(logits, model(x))


def test_features_are_before_dropout() -> None:
    model = build("qdr-small", 3, dropout=0.99).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x = torch.randn(1, 3, 32, 32)
    first, _ = model.forward_features(x)
    second, _ = model.forward_features(x)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "millions"),
    # torchvision's counts without their classifier's last layer; ResNet-50 keeps its 1000-wide fc.
    [
        ("resnet18", 11.177),
        ("resnet34", 21.285),
        ("resnet50", 25.557),
        ("mobilenetv3-small", 1.518),
    ],
)
def test_backbone_is_the_published_one(name: str, millions: float) -> None:
    count = sum(p.numel() for p in build(name, 1).backbone.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=6e-4)


def test_published_parameter_names() -> None:
    resnet = build("resnet50", 2).backbone.state_dict()
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight"} <= set(resnet)
    assert {"layer4.2.conv3.weight", "layer4.2.bn3.bias", "fc.weight"} <= set(resnet)
    assert resnet["fc.weight"].shape == (1000, 2048)
    mobile = build("mobilenetv3-small", 2).backbone.state_dict()
    assert {"features.0.0.weight", "features.0.1.running_mean", "features.12.0.weight"} <= set(
        mobile
    )
    assert {"features.1.block.1.fc1.weight", "features.1.block.2.0.weight"} <= set(mobile)
    assert {"features.4.block.2.fc2.bias", "classifier.0.weight"} <= set(mobile)
    assert mobile["features.5.block.2.fc1.weight"].shape == (64, 240, 1, 1)


def test_default_student_suits_int8() -> None:
    model = build("qdr-small", 11)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.groups == 1 and m.out_channels % 16 == 0 for m in convolutions)
    # Below about 0.8 M parameters, graph overhead would push the int8 file above 27 % of the float.
    assert sum(p.numel() for p in model.parameters()) > 0.8e6


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_parameters(name: str) -> None:
    small, full = (sum(p.numel() for p in build(name, 2, width=w).parameters()) for w in (0.5, 1.0))
    assert small < 0.6 * full


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "qdr-smal"}, ["qdr-smal", "did you mean qdr-small"]),
        ({"name": "vgg"}, ["vgg", "mobilenetv3-small"]),
        ({"num_classes": 0}, ["0 labels", "at least 1"]),
        ({"in_size": 31}, ["31 px", "at least 32"]),
        ({"width": 0.0}, ["width 0.0"]),
        ({"dropout": 1.0}, ["dropout 1.0"]),
    ],
    ids=["near miss", "unknown", "labels", "size", "width", "dropout"],
)
def test_error_names_the_value(arguments: dict[str, object], words: list[str]) -> None:
    options: dict[str, object] = {"name": "qdr-small", "num_classes": 2, **arguments}
    with pytest.raises(RecipeError) as caught:
        build(**options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("recipe_name", shipped_recipes())
def test_every_shipped_recipe_builds_at_full_size(recipe_name: str) -> None:
    """Names, widths and image sizes fit each other, without a number computed."""
    recipe = load_recipe(shipped_recipes()[recipe_name])
    labels = LabelSet.named("TOPCON-MM")
    for stage in {stage.model: stage for stage in recipe.stages.values()}.values():
        with torch.device("meta"):
            network = new_network(stage, recipe, labels).eval()
            image = torch.empty(2, 3, recipe.size, recipe.size)
            features, logits = network.forward_features(image)
        assert features.shape == (2, network.feature_dim)
        assert logits.shape == (2, len(labels))
