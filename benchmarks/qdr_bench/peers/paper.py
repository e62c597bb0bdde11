"""The published recipe: torch's eager quantization of the network, calibrated, then converted.

What QD-RetNet's code prepares but never converts: `QuantStub`, per-tensor activations, `convert`.
Its residual is mended (a FloatFunctional instead of `+`, which has no int8 form), and Conv + ReLU
are fused, without which eager int8 is slower still.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao import quantization

from qdr_bench.peers.torch_net import TwinNetwork

tq: Any = quantization  # most of it carries no types


class Quantizable(nn.Module):
    """A float twin between the two stubs of eager quantization.

    Pixels are made real before the first stub, logits after the last one.
    """

    def __init__(self, twin: TwinNetwork) -> None:
        super().__init__()
        self.twin = twin
        first = next(place for place, step in enumerate(twin.steps) if step[1] in twin.layers)
        self.head, twin.steps = twin.steps[:first], twin.steps[first:]
        self.entry = twin.steps[0][2][0]
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels [N, 3, S, S] → logits [N, K]."""
        values = self.twin.follow(self.head, {self.twin.input: pixels})
        values[self.entry] = self.quant(values[self.entry])
        self.twin.follow(self.twin.steps, values)
        logits: Tensor = self.dequant(values[self.twin.output])
        return logits


def quantize(twin: TwinNetwork, images: NDArray[np.uint8]) -> nn.Module:
    """Quantize a float twin eagerly.

    Args:
        twin: Freshly loaded; it is changed.
        images: uint8 [N, 3, S, S] to calibrate on.
    """
    readers: dict[str, list[str]] = {}
    for _, key, inputs, _, _ in twin.steps:
        for name in inputs:
            readers.setdefault(name, []).append(key)
    pairs = []
    for op, key, _, output, _ in twin.steps:
        following = readers.get(output, [])
        after = following[0] if len(following) == 1 else ""
        if op == "Conv" and after in twin.layers and isinstance(twin.layers[after], nn.ReLU):
            pairs.append([f"twin.layers.{key}", f"twin.layers.{after}"])
    network = Quantizable(twin).eval()
    engines = torch.backends.quantized.supported_engines
    engine = next(name for name in ("x86", "onednn", "qnnpack") if name in engines)
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if pairs:
            network = tq.fuse_modules(network, pairs)
        cast(Any, network).qconfig = tq.get_default_qconfig(engine)
        tq.prepare(network, inplace=True)
        with torch.inference_mode():
            for start in range(len(images)):
                network(torch.from_numpy(np.array(images[start : start + 1])))
        tq.convert(network, inplace=True)
    return network
