"""Weights to begin with: a float stage of another run, or torchvision's classifiers.

A torchvision network saw u = (pixel / 255 − mean) / std of ImageNet; ours sees
x = (pixel − 128) / 64. In each colour channel u = a·x + b, with a = 64 / (255·std) and
b = (128 / 255 − mean) / std, so the first convolution gives

    Σ w·u = Σ (w·a)·x + Σ w·b.

The kernel is therefore multiplied by a, and the second sum, a number d for each output channel, is
taken off the running mean μ of the BatchNorm that follows: Σ w·u − μ = Σ (w·a)·x − (μ − d). In
training BatchNorm subtracts the mean of the batch, and d with it.

That is exact but at the border. There both networks pad with zeros, which was ImageNet's mean
colour to theirs (pixel 124, 116, 104) and is grey 128 to ours.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from qdr_edge.errors import CheckpointError, RecipeError
from qdr_edge.files import read_input, sha256_bytes
from qdr_edge.labels import LabelSet
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT
from qdr_train.recipe.parts import Init, Model

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_PIXEL_MAX = 255.0

_STAGE_WEIGHTS = "best-float-*.safetensors"  # of a stage folder
_RUN_FILE = "run.json"  # in the folder above it
_COUNTERS = ".num_batches_tracked"
_NAMED_AT_MOST = 5


class _Names(NamedTuple):
    """Where torchvision keeps what is treated on its own."""

    stem: str
    stem_mean: str
    last: str


_RESNET = _Names("conv1.weight", "bn1.running_mean", "fc")
_TORCHVISION: Mapping[str, _Names] = MappingProxyType(
    {
        "resnet18": _RESNET,
        "resnet34": _RESNET,
        "resnet50": _RESNET,
        "mobilenetv3-small": _Names(
            "features.0.0.weight", "features.0.1.running_mean", "classifier.3"
        ),
    }
)


@dataclass(frozen=True)
class InitialWeights:
    """What a file gives to a network.

    Args:
        source: The file.
        tensors: By the network's names.
        left_out: Tensors of the file that the network has no place for.
        fresh: Tensors of the network that keep their random values.
    """

    source: Path
    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    fresh: tuple[str, ...]

    def load_into(self, network: nn.Module) -> None:
        """Copy the tensors; what is fresh stays as it is."""
        network.load_state_dict(self.tensors, strict=False)

    def __str__(self) -> str:
        text = f"{len(self.tensors)} tensors from {self.source}"
        for what, names in (("left out", self.left_out), ("random", self.fresh)):
            text += f"; {what}: {listed(names)}" if names else ""
        return text


def initial_weights(model: Model, network: nn.Module, labels: LabelSet) -> InitialWeights:
    """Read and check the weights that a recipe wants to begin with.

    Args:
        model: Its `init` is set.
        network: Gives names and shapes; may be on the meta device.
        labels: What the network's head answers.

    Raises:
        RecipeError: There is no such file, it is not the one that was meant, or the architecture
            has no such layout.
        CheckpointError: The file cannot be read, or its tensors are not those of the network.
    """
    init = model.init
    if init is None:
        raise ValueError("model.init is null")
    if init.layout == "torchvision" and model.name not in _TORCHVISION:
        raise RecipeError(
            f"torchvision has no {model.name}",
            where="model.init.layout",
            expected=f"one of {', '.join(_TORCHVISION)}, or layout qdr",
        )
    path, content = _meant_file(init)
    tensors = parse_tensors(path, content)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if init.layout == "torchvision":
        given, left_out, fresh = _from_torchvision(tensors, _TORCHVISION[model.name], expected)
    else:
        given, left_out, fresh = _from_stage(tensors, path, labels)
    _check(path, given, expected, fresh)
    return InitialWeights(path, given, left_out, fresh)


def _meant_file(init: Init) -> tuple[Path, bytes]:
    """The weight file and its content, with the SHA-256 of the recipe."""
    path = Path(init.file).expanduser()
    files = sorted(path.glob(_STAGE_WEIGHTS)) if path.is_dir() else [path]
    if not files:
        raise RecipeError(
            "no float weights in this folder",
            where=str(path),
            expected=f"a stage folder of a run, with {_STAGE_WEIGHTS}",
        )
    found = ""
    for file in files:
        content = read_input(
            file,
            RecipeError,
            expected="the weight file that model.init.file names",
            fix="a relative path counts from where the command is run",
        )
        found = sha256_bytes(content)
        if found == init.sha256:
            return file, content
    raise RecipeError(
        f"its SHA-256 is {found}",
        where=str(files[-1]),
        expected=f"{init.sha256}, as model.init.sha256 says",
        fix="fetch the file that was meant, or name this one's SHA-256 if it is",
    )


def parse_tensors(
    path: Path, content: bytes, *, wrappers: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a pickled state dict; no code of the file runs.

    Args:
        path: Where the content is from; its suffix tells the format.
        content: Of the file.
        wrappers: Keys that a state dict may stand under, among other things.

    Raises:
        CheckpointError: It is neither, or holds numbers that are not finite.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=str(path),
            expected=".safetensors, or a .pth file that holds a state dict and nothing else",
        ) from error
    if isinstance(tensors, dict):
        tensors = cast(Any, tensors)
        wrapped = [key for key in wrappers if isinstance(tensors.get(key), dict)]
        tensors = tensors[wrapped[0]] if wrapped else tensors
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise CheckpointError(
            "not a state dict",
            where=str(path),
            expected="a mapping from names to tensors",
            fix="save it with torch.save(model.state_dict(), ...)",
        )
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f"numbers that are not finite in {listed(broken)}",
            where=str(path),
            expected="the weights of a network that trained to its end",
        )
    return tensors


_Given = tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]
"""Tensors by the network's names, names left out of the file, names of the network left random."""


def _from_torchvision(
    tensors: Mapping[str, Tensor], names: _Names, expected: Mapping[str, tuple[int, ...]]
) -> _Given:
    last = [f"{names.last}.{part}" for part in ("weight", "bias")]
    # ResNet-50's 1000 answers are the paper's features; elsewhere ImageNet's classes mean nothing.
    keeps_last = all(
        name in tensors and expected.get(f"backbone.{name}") == tuple(tensors[name].shape)
        for name in last
    )
    dropped = () if keeps_last else tuple(name for name in last if name in tensors)
    given = {
        f"backbone.{name}": value if name.endswith(_COUNTERS) else value.to(torch.float32)
        for name, value in tensors.items()
        if name not in dropped
    }
    fresh = [f"backbone.{name}" for name in dropped if f"backbone.{name}" in expected]
    stem, mean = f"backbone.{names.stem}", f"backbone.{names.stem_mean}"
    if stem in given and mean in given and given[stem].ndim == 4 and given[stem].shape[1] == 3:
        given[stem], shift = our_input(given[stem])
        given[mean] = given[mean] - shift.to(given[mean].dtype)
    return given, dropped, (*fresh, "head.weight", "head.bias")


def our_input(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """A first convolution for ImageNet-normalized images, for our input instead.

    Args:
        kernel: float32 [Cout, 3, kH, kW], colour channels red, green, blue.

    Returns:
        The kernel for (pixel − 128) / 64, and what it lacks in each output channel, [Cout]:
        before padding, response to normalized image = response to our image + that.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD))
    factor = 1 / (INPUT_SCALE * _PIXEL_MAX * std)
    offset = (INPUT_ZERO_POINT / _PIXEL_MAX - mean) / std
    exact = kernel.double()
    ours = exact * factor.view(1, 3, 1, 1)
    lacks = (exact * offset.view(1, 3, 1, 1)).sum((1, 2, 3))
    return ours.to(kernel.dtype), lacks


def _from_stage(tensors: Mapping[str, Tensor], path: Path, labels: LabelSet) -> _Given:
    """The head goes along only where it is known to answer the same labels in the same order."""
    head = ("head.weight", "head.bias")
    known = _labels_of(path)
    if known is not None and (known.codes, known.exclusive) == (labels.codes, labels.exclusive):
        return dict(tensors), (), ()
    given = {name: value for name, value in tensors.items() if name not in head}
    return given, tuple(name for name in head if name in tensors), head


def _labels_of(path: Path) -> LabelSet | None:
    """The labels of the run a weight file lies in; None if it lies in none."""
    record = path.resolve().parent.parent / _RUN_FILE
    try:
        return LabelSet.from_dict(json.loads(record.read_bytes())["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(
    path: Path,
    given: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    fresh: tuple[str, ...],
) -> None:
    """Compare names and shapes in both directions."""
    # Files from before 2018 do not count batches; only a BatchNorm without momentum reads it.
    needed = {name for name in expected if not name.endswith(_COUNTERS)}
    missing = sorted(needed - given.keys() - set(fresh))
    unexpected = sorted(given.keys() - expected.keys())
    shapes = [
        f"{name} {list(value.shape)} instead of {list(expected[name])}"
        for name, value in given.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"not the weights of this network ({'; '.join(problems)})",
            where=str(path),
            expected="the same architecture and width",
            fix="set model.name, model.width and model.init.layout to what the file holds",
        )


def listed(names: list[str] | tuple[str, ...]) -> str:
    """A few of the names, and how many more there are."""
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
