"""The user's Python file and weight file: read once, when the command line names them."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from qdr_edge.errors import CheckpointError, RecipeError
from qdr_edge.files import read_input, sha256_bytes
from qdr_train.models.init import listed, parse_tensors

BUILD = "build"
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."  # what nn.DataParallel puts before every name


@dataclass(frozen=True)
class Source:
    """What a Python file gave.

    Args:
        name: The file's name, without its folder: a path may tell of people and places.
        sha256: Of the file.
        network: What its `build()` returned, in evaluation mode.
    """

    name: str
    sha256: str
    network: nn.Module


def read_source(path: Path, weights: Path | None = None) -> Source:
    """Run a Python file's `build()` and load weights into the network it returns.

    Args:
        path: The file; its code runs, with this process's rights.
        weights: A state dict in .safetensors or .pth (weights only); None keeps what `build()`
            gave.

    Raises:
        RecipeError: It cannot be read or run, or there is no `build` that returns a module.
        CheckpointError: The weights are not those of the network.
    """
    content = read_input(path, RecipeError, expected=f"a Python file that defines {BUILD}()")
    network = _built(path)
    if weights is not None:
        _load(network, weights)
    return Source(path.name, sha256_bytes(content), network.eval())


def _built(path: Path) -> nn.Module:
    name = f"_own_network_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(
            "not a Python file", where=str(path), expected=f"a .py file that defines {BUILD}()"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    sys.path.insert(0, str(path.parent.resolve()))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
        build = getattr(module, BUILD, None)
        if not callable(build):
            raise RecipeError(
                f"defines no {BUILD}()",
                where=str(path),
                expected=f"def {BUILD}() -> torch.nn.Module",
            )
        network = build()
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"{type(error).__name__}: {error}",
            where=_line_of(error, path),
            expected=f"a file that runs, and a {BUILD}() that needs no arguments",
        ) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not isinstance(network, nn.Module):
        raise RecipeError(
            f"{BUILD}() returned {type(network).__name__}",
            where=str(path),
            expected="a torch.nn.Module",
        )
    return network.cpu()


def _line_of(error: Exception, path: Path) -> str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == path
    ]
    if isinstance(error, SyntaxError) and error.lineno:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}" if lines else str(path)


def _load(network: nn.Module, path: Path) -> None:
    content = read_input(path, CheckpointError, expected="a state dict in .safetensors or .pth")
    tensors = parse_tensors(path, content, wrappers=_WRAPPERS)
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): value for name, value in tensors.items()}
    expected = network.state_dict()
    counters = {name for name in expected if name.endswith(".num_batches_tracked")}
    missing = sorted(expected.keys() - tensors.keys() - counters)
    unexpected = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
        for name, value in tensors.items()
        if name in expected and value.shape != expected[name].shape
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
            expected=f"the state dict of what {BUILD}() returns",
        )
    with torch.no_grad():
        network.load_state_dict(tensors, strict=False)
