"""What cannot be quantized is named with its place in the user's source, all of it, in one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdr_edge.errors import CheckpointError, QdrError, RecipeError
from qdr_train.adopt.build import require_fits
from qdr_train.adopt.convert import adopt
from qdr_train.adopt.operations import FUNCTIONS, METHODS, MODULES
from qdr_train.adopt.source import Source, read_source
from tests.strangers import SIZE, STRANGERS, stranger

HERE = Path(__file__)


class Around(nn.Module):
    """A sound network around one doubtful operation."""

    def __init__(self, inner: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.inner = inner
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.stem(x))
        return self.last(x.mean((2, 3)))


def refused(network: nn.Module, size: int = SIZE) -> str:
    with pytest.raises(RecipeError) as error:
        adopt(Source("net.py", "0" * 64, network.eval()), size)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("inner", "kind", "advice"),
    [
        (nn.LeakyReLU(0.1), "nn.LeakyReLU", "use ReLU"),
        (nn.GELU(), "nn.GELU", "use SiLU"),
        (nn.GroupNorm(2, 8), "nn.GroupNorm", "use BatchNorm2d"),
        (nn.ConvTranspose2d(8, 8, 2, 2), "nn.ConvTranspose2d", "nearest upsampling"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "nn.Upsample", "only mode nearest"),
        (nn.Upsample(size=24), "nn.Upsample", "whole factor"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "nn.Conv2d", "only zeros"),
        (nn.BatchNorm2d(8, track_running_stats=False), "nn.BatchNorm2d", "track_running_stats"),
        (nn.MaxPool2d(2, dilation=2), "nn.MaxPool2d", "dilation"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "nn.MaxPool2d", "ceil_mode=False"),
        (nn.AvgPool2d(2, divisor_override=3), "nn.AvgPool2d", "divisor_override"),
        (nn.AdaptiveAvgPool2d(7), "nn.AdaptiveAvgPool2d", "--size 224"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_modules(inner: nn.Module, kind: str, advice: str) -> None:
    text = refused(Around(inner))
    line = inspect.getsourcelines(Around.forward)[1] + 1
    assert text.startswith(f"net.py: 1 operation not supported: {kind} (module inner, ")
    assert f"{HERE}:{line})" in text
    assert advice in text
    assert "expected convolution" in text


def _line(function: Callable[..., object]) -> int:
    return inspect.getsourcelines(function)[1]


class Free(nn.Module):
    """Calls a free function, so that the place is the function's."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "kind", "advice"),
    [
        (lambda x: x - x.relu(), "operator sub", "a convolution that learns the sign"),
        (lambda x: x / 2, "operator truediv", "learn the factor"),
        (lambda x: x + 1.0, "operator add", "with a number or a constant"),
        (lambda x: x * 0.5, "operator mul", "with a number or a constant"),
        (lambda x: x[:, :8:1], "operator getitem", "in place of slices"),
        (lambda x: F.gelu(x), "torch.gelu", "use SiLU"),
        (lambda x: torch.clamp(x, -1, 1), "torch.clamp", "only to 0..6"),
        (lambda x: torch.cat([x, x], 2), "torch.cat", "only over the channels"),
        (lambda x: x.permute(0, 1, 3, 2), "Tensor.permute", ""),
        (lambda x: x.view(x.shape[0], 8, 256).unsqueeze(3), "Tensor.view", "only to a flat"),
        (lambda x: torch.add(x, x, alpha=2), "torch.add", "alpha"),
        (lambda x: x.mean(1, keepdim=True) * x, "Tensor.mean", "x.mean((2, 3))"),
        (lambda x: x * x.mean((2, 3), keepdim=True) + x.amax((2, 3), True), "Tensor.amax", ""),
    ],
)
def test_functions(function: Callable[[Tensor], Tensor], kind: str, advice: str) -> None:
    text = refused(Around(Free(function)))
    assert kind in text
    assert "module inner" in text
    assert f"{HERE}:{_line(function)})" in text
    assert advice in text


def test_every_unsupported_operation_is_named() -> None:
    text = refused(Around(nn.Sequential(nn.GELU(), nn.LayerNorm([8, 16, 16]), nn.PReLU())))
    assert "3 operations not supported" in text
    assert all(f"module inner.{i}" in text for i in range(3))


def _branches(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return x.relu()


def test_control_flow_names_its_line() -> None:
    text = refused(Around(Free(_branches)))
    assert text.startswith(f"{HERE}:{_line(_branches) + 1}: cannot be followed")
    assert "(if x.sum() > 0:)" in text
    assert "the same to every image" in text


def test_loop_over_a_tensor_names_its_line() -> None:
    def loops(x: Tensor) -> Tensor:
        return torch.stack([row.relu() for row in x])

    assert f"{HERE}:{_line(loops) + 1}: cannot be followed" in refused(Around(Free(loops)))


def test_images_of_another_size_name_the_operation() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 32 * 32, 2))
    adopt(Source("net.py", "0" * 64, network.eval()), 64)
    text = refused(network, size=96)
    assert "images of 96 px do not fit" in text
    assert "--size" in text


def test_fixed_pools_say_which_sizes_tile() -> None:
    network = stranger("vgg")  # an eighth of the image, pooled to 2 × 4
    adopt(Source("net.py", "0" * 64, network), 160)
    text = refused(network, size=40)
    assert "from 5 × 5 to 2 × 4" in text
    assert "use --size 32 or 64, or pool to 1 × 1" in text


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (nn.Sigmoid(), "it ends in sigmoid"),
        (nn.ReLU(), "it ends in relu"),
        (nn.Softmax(1), "nn.Softmax"),
    ],
    ids=["sigmoid", "relu", "softmax"],
)
def test_logits_must_be_returned_as_they_are(tail: nn.Module, expected: str) -> None:
    assert expected in refused(nn.Sequential(Around(nn.Identity()), tail))


def test_ends_without_a_linear_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert "it ends in max_pool; expected a linear layer" in refused(network)


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Around(nn.Identity())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), x


def test_two_answers() -> None:
    assert "forward returns a tuple" in refused(TwoAnswers())


class TwoImages(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def test_two_inputs() -> None:
    assert "forward takes 2 tensors" in refused(TwoImages())


class Normalizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.net = Around(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.mean)


def test_normalization_in_forward_is_led_to_the_option() -> None:
    text = refused(Normalizes())
    assert "self.mean used directly" in text
    assert "--mean and --std" in text


def test_shared_weights() -> None:
    shared = nn.Conv2d(8, 8, 1)
    text = refused(Around(nn.Sequential(shared, nn.ReLU(), shared)))
    assert "used twice with the same weights" in text


class InPlaceBehindOurBack(nn.Module):
    """The sum reads what ReLU has overwritten: no trace shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x) + x


def test_hidden_in_place_change_is_found_out() -> None:
    text = refused(Around(InPlaceBehindOurBack()))
    assert "answers differently" in text
    assert "in place" in text


def test_head_of_the_wrong_width_and_another_size() -> None:
    own = adopt(Source("net.py", "0" * 64, stranger("nested")), SIZE).own
    require_fits(own, size=SIZE, classes=4)
    with pytest.raises(RecipeError, match=r"4 outputs, the data 11 labels"):
        require_fits(own, size=SIZE, classes=11)
    with pytest.raises(RecipeError, match=r"64 px, the recipe has 96 px"):
        require_fits(own, size=96, classes=4)


def test_mean_goes_with_std() -> None:
    with pytest.raises(RecipeError, match="a mean without a std"):
        adopt(Source("n", "0" * 64, stranger("nested")), SIZE, mean=(0.5, 0.5, 0.5))


def test_rules_are_for_what_torch_has() -> None:
    assert all(issubclass(kind, nn.Module) for kind in MODULES)
    assert all(callable(function) for function in FUNCTIONS)
    assert all(hasattr(Tensor, method) for method in METHODS)


# --- the files ------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
"""


def source(folder: Path, text: str = NET) -> Path:
    path = folder / "net.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1", "defines no build()"),
        ("def build():\n    return 3", "build() returned int"),
        ("def build():\n    raise ValueError('no weights')", "net.py:2: ValueError: no weights"),
        ("def build(:", "net.py:1: SyntaxError"),
        ("def build(width):\n    return None", "needs no arguments"),
    ],
)
def test_python_file_that_does_not_build(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecipeError) as error:
        read_source(source(tmp_path, text))
    assert expected in str(error.value)


def test_missing_python_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read"):
        read_source(tmp_path / "none.py")


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
@pytest.mark.parametrize("parallel", [False, True])
def test_weights_as_people_save_them(tmp_path: Path, wrapper: str, parallel: bool) -> None:
    path = source(tmp_path)
    state = read_source(path).network.state_dict()
    state = {name: value + 1 for name, value in state.items()}
    saved = {f"module.{name}" if parallel else name: value for name, value in state.items()}
    torch.save({wrapper: saved, "epoch": 3} if wrapper else saved, tmp_path / "weights.pth")
    loaded = read_source(path, tmp_path / "weights.pth").network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("0.bias"), "missing: 0.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda s: s.update({"4.bias": torch.zeros(3)}), r"4.bias \[3\] instead of \[2\]"),
        (lambda s: s.update({"4.bias": torch.full((2,), torch.nan)}), "not finite"),
    ],
)
def test_weights_of_another_network(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], expected: str
) -> None:
    path = source(tmp_path)
    state = dict(read_source(path).network.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=expected):
        read_source(path, tmp_path / "weights.pth")


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")  # a module, not a state dict
    with pytest.raises(QdrError, match="cannot be read"):
        read_source(source(tmp_path), tmp_path / "whole.pth")


def test_strangers_cover_every_operator() -> None:
    found = set()
    for name in STRANGERS:
        own = adopt(Source("n", "0" * 64, stranger(name)), SIZE).own
        found |= {step.op for step in own.steps}
    assert found == {
        "conv",
        "batch_norm",
        "linear",
        "add",
        "mul",
        "concat",
        "max_pool",
        "avg_pool",
        "global_avg_pool",
        "upsample",
        "flatten",
        "dropout",
        "relu",
        "relu6",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "silu",
    }
