"""The float network of a checkpoint in eager torch: the yardstick of measurements.

The only file of the core that imports torch, and only when a checkpoint is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qdr_edge.errors import BackendError
from qdr_edge.graph import INPUT
from qdr_edge.runtime import Availability
from qdr_edge.runtime.pixels import check_images, closed
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from qdr_edge.checkpoint import Checkpoint
    from qdr_edge.graph import Graph, Node

INSTALL = "pip install 'qdr-edge[train]'"


def availability() -> Availability:
    """Whether torch can be imported, and its version."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Availability(False, reason=str(error), install=INSTALL)
    return Availability(True, str(torch.__version__))


def open_checkpoint(checkpoint: Checkpoint, threads: int = 0) -> TorchSession:
    """Open a checkpoint's network with float arithmetic; scales are ignored.

    Args:
        checkpoint: weights with BatchNorm folded.
        threads: torch has one thread count per process; 0 leaves it.

    Raises:
        BackendError: torch is missing.
    """
    here = availability()
    if not here.ok:
        raise BackendError(
            f"torch cannot be used: {here.reason}",
            expected="the torch package",
            fix=f"run `{INSTALL}`",
        )
    return TorchSession(checkpoint.graph, checkpoint.tensors, threads, here.version)


class TorchSession:
    """A graph evaluated operator by operator in float32."""

    backend = "torch"

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, NDArray[np.float32]],
        threads: int,
        version: str,
    ) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._nodes: tuple[Node, ...] | None = graph.nodes
        self._tensors = {
            name: torch.from_numpy(array.copy())
            for name, array in tensors.items()
            if not name.endswith(".weight_scale")
        }
        self._lock = threading.Lock()
        self.threads: int = torch.get_num_threads()
        self.version = version

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session; unlike the others it computes the whole batch at once."""
        import numpy as np
        import torch

        check_images(images, 0)
        with self._lock, torch.inference_mode():
            if self._nodes is None:
                raise closed()
            pixels = torch.from_numpy(np.array(images)).float()
            values = {INPUT: (pixels - INPUT_ZERO_POINT) * INPUT_SCALE}
            for node in self._nodes:
                inputs = [values[name] for name in node.inputs]
                y = self._compute(node, [pixels] if node.op == "normalize" else inputs)
                values[node.name] = _activate(node.activation, y)
            logits: NDArray[np.float32] = values[self._nodes[-1].name].numpy()
        return logits

    def close(self) -> None:
        """See Session."""
        with self._lock:
            self._nodes = None
            self._tensors = {}

    def _compute(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        import torch
        from torch.nn import functional as F

        x = inputs[0]  # [N, C, H, W], or [N, C] after flatten
        match node.op:
            case "normalize":
                # [N, 3, S, S], a factor and a summand for each channel
                weight, bias = (part.reshape(3, 1, 1) for part in self._weights(node))
                y = x * weight + bias
            case "conv":
                groups = node.attrs["groups"]
                assert isinstance(groups, int)  # Graph.check has seen to it
                weight, bias = self._weights(node)
                y = F.conv2d(
                    x,
                    weight,
                    bias,
                    node.pair("stride"),
                    node.pair("padding"),
                    node.pair("dilation"),
                    groups,
                )
            case "linear":
                y = F.linear(x, *self._weights(node))
            case "add":
                y = x + inputs[1]
            case "mul":
                y = x * inputs[1]
            case "concat":
                y = torch.cat(inputs, dim=1)
            case "max_pool":
                y = F.max_pool2d(x, node.pair("kernel"), node.pair("stride"), node.pair("padding"))
            case "avg_pool":
                y = F.avg_pool2d(
                    x,
                    node.pair("kernel"),
                    node.pair("stride"),
                    node.pair("padding"),
                    count_include_pad=bool(node.attrs["count_include_pad"]),
                )
            case "upsample":
                rows, columns = node.pair("factor")
                y = x.repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3)
            case "global_avg_pool":
                y = x.mean((2, 3), keepdim=True)  # [N, C, H, W] -> [N, C, 1, 1]
            case "flatten":
                y = x.flatten(1)
            case "relu":
                y = F.relu(x)
            case "relu6":
                y = F.relu6(x)
            case "sigmoid":
                y = torch.sigmoid(x)
            case "silu":
                y = F.silu(x)
            case "hardswish":
                y = F.hardswish(x)
            case "hardsigmoid":
                y = F.hardsigmoid(x)
            case _:
                raise BackendError(f"operator {node.op!r}", where=f"node {node.name}")
        return y

    def _weights(self, node: Node) -> tuple[torch.Tensor, torch.Tensor]:
        return self._tensors[f"{node.name}.weight"], self._tensors[f"{node.name}.bias"]


def _activate(activation: str, y: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional as F

    if not activation:
        return y
    return F.relu(y) if activation == "relu" else F.relu6(y)
