"""What a user's network does to an image: torch.fx's graph, with shapes and source lines."""

from __future__ import annotations

import copy
import operator
import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qdr_edge.errors import RecipeError
from qdr_train.recipe.schema import STRIDE

_IMAGES = 2  # a batch axis must not be mistaken for one of length 1
_LARGEST_TRIED = 512
_FRAME = re.compile(r'File "(.+)", line (\d+), in ')
_LIBRARY = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)

_CONTROL_FLOW = (
    "write it without: take the branch that holds in evaluation, or move it into __init__"
)


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Args:
        model: The network, in evaluation mode.
        nodes: Its operations in order, placeholder and output among them.
        values: What each gives for two images: a tensor's shape, or the value itself.
        image: Side of the images in pixels.
    """

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    values: dict[fx.Node, Any]
    image: int

    def sizes(self, node: fx.Node, fits: Callable[[tuple[int, ...]], bool]) -> list[int]:
        """Image sizes at which the input of an operation has a shape that fits it.

        Only shapes are computed: on the meta device no number is.
        """
        module = fx.GraphModule(copy.deepcopy(self.model).to("meta"), node.graph)
        found = []
        for size in range(STRIDE, _LARGEST_TRIED + 1, STRIDE):
            shapes = _Shapes(module)
            # A layer that this size does not fit may well come after.
            with torch.no_grad(), suppress(_MisfitError):
                shapes.run(torch.empty(_IMAGES, 3, size, size, device="meta"))
            shape = shapes.found.get(node.all_input_nodes[0])
            if isinstance(shape, torch.Size) and fits(tuple(shape)):
                found.append(size)
        return found

    def shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Shape of a tensor; None for anything else."""
        value = self.values.get(node)
        return tuple(value) if isinstance(value, torch.Size) else None


class _Tracer(fx.Tracer):
    record_stack_traces = True


class _Shapes(fx.Interpreter):
    """Runs the network and keeps what every node gives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise _MisfitError(n, error) from error
        self.found[n] = value.shape if isinstance(value, Tensor) else value
        return value


class _MisfitError(Exception):
    def __init__(self, node: fx.Node, error: Exception) -> None:
        super().__init__(str(error))
        self.node = node
        self.error = error


def trace(model: nn.Module, size: int, where: str) -> Traced:
    """Follow an image through a network.

    Args:
        model: In evaluation mode; takes one tensor, float32 [N, 3, S, S].
        size: Side of the images in pixels.
        where: The file it is from, for errors.

    Raises:
        RecipeError: It decides by values, takes other inputs, or images of this size do not fit.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise _untraceable(error, where) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    required = [node for node in inputs if not node.args]
    if len(required) != 1 or inputs[0] is not required[0]:
        raise RecipeError(
            f"forward takes {len(required)} tensors",
            where=where,
            expected="one: the images, [N, 3, S, S]",
        )
    module = fx.GraphModule(model, graph)
    shapes = _Shapes(module)
    images = torch.linspace(-2, 2, _IMAGES * 3 * size * size).view(_IMAGES, 3, size, size)
    try:
        with torch.no_grad():
            # Once undisturbed first: what fails is then the network's own, at its own line.
            shapes.run(images)
    except _MisfitError as found:
        raise RecipeError(
            f"images of {size} px do not fit: {str(found.error).splitlines()[0]}",
            where=place(found.node) or where,
            expected=f"a network for images [N, 3, {size}, {size}]",
            fix="name the size it was made for with --size",
        ) from found.error
    return Traced(model, tuple(graph.nodes), shapes.found, size)


def place(node: fx.Node) -> str:
    """File and line of the user's source that an operation stands in; "" where unknown."""
    frames = _FRAME.findall(node.stack_trace or "")
    own = [(file, line) for file, line in frames if not file.startswith((_LIBRARY, _HERE))]
    return ":".join(own[-1]) if own else ""


def module_path(node: fx.Node) -> str:
    """Path of the module whose forward an operation stands in, or which it is; "" at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path: str = list(stack.values())[-1][0] if stack else ""
    return path


def kind_of(node: fx.Node, model: nn.Module) -> str:
    """What an operation is called in the user's source."""
    if node.op == "call_module":
        return f"nn.{type(model.get_submodule(str(node.target))).__name__}"
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    if node.op == "get_attr":
        return f"self.{str(node.target).rpartition('.')[2]} used directly"
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    name = getattr(target, "__name__", str(target))
    module = getattr(target, "__module__", None) or ""
    if target is getattr(operator, name, None):
        return f"operator {name}"
    if module.startswith("torch.nn.functional") or name.startswith("boolean_dispatch"):
        return f"F.{name}"
    return f"torch.{name}"


def _untraceable(error: Exception, where: str) -> RecipeError:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((_LIBRARY, _HERE))]
    line = f"{own[-1].filename}:{own[-1].lineno}" if own else where
    source = f" ({own[-1].line})" if own and own[-1].line else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RecipeError(
        f"cannot be followed: {reason}{source}",
        where=line,
        expected="a forward that does the same to every image",
        fix=_CONTROL_FLOW,
    )
