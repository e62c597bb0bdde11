"""The first activation ranges of a prepared network, from images and without learning.

"running" lets the observers follow the batches, through a network that quantizes already: what
training goes on from. The others look at all images first, in float, and choose one range for each
activation: the whole of it ("minmax"), all but the outermost values ("percentile"), or the range
whose rounding and clipping errors together are least ("mse"). With power-of-two scales that range
decides an exponent, so the choice is between a few steps only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from qdr_train.data.images import Images, predict
from qdr_train.quant import qat
from qdr_train.quant.quantizers import (
    activation_quantizers,
    grid_of_range,
    set_range,
)

Method = Literal["running", "minmax", "percentile", "mse"]

_BINS = 2048
_OUTSIDE = 1e-4  # share of the values at each end that "percentile" cuts off
_SMALLEST_SHARE = 2.0**-4  # of the whole range that "mse" tries
_TRIED = 64


@dataclass
class _Seen:
    """What passed one quantizer."""

    low: float = 0.0  # ranges hold 0, so that padding is a code
    high: float = 0.0
    counts: Tensor | None = None

    def widen(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def count(self, x: Tensor) -> None:
        if self.high > self.low:
            found = torch.histc(x.float(), _BINS, self.low, self.high).double().cpu()
            self.counts = found if self.counts is None else self.counts + found

    @property
    def centres(self) -> Tensor:
        width = (self.high - self.low) / _BINS
        return self.low + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)


def calibrate(prepared: nn.Module, images: Images, device: torch.device, method: Method) -> None:
    """Set every activation's range.

    Args:
        prepared: A network from `qat.prepare_qat`; left in evaluation mode, observing.
        images: What to look at.
        device: Where the network is.
        method: See above.
    """
    prepared.eval()
    qat.set_phase(prepared, observers=True, bn_frozen=True, fake_quant=method == "running")
    if method == "running":
        predict(prepared, images, device)
        return
    seen = {name: _Seen() for name in activation_quantizers(prepared)}
    with _watched(prepared, lambda name, x: seen[name].widen(x)):
        predict(prepared, images, device)
    if method != "minmax":
        with _watched(prepared, lambda name, x: seen[name].count(x)):
            predict(prepared, images, device)
    for name, quantizer in activation_quantizers(prepared).items():
        set_range(quantizer, *_range(seen[name], quantizer, method))
    qat.set_phase(prepared, observers=True, bn_frozen=True)


@contextmanager
def _watched(prepared: nn.Module, look: Callable[[str, Tensor], None]) -> Iterator[None]:
    def watcher(name: str) -> Callable[..., None]:
        return lambda _module, inputs: look(name, inputs[0].detach())

    handles = [
        quantizer.register_forward_pre_hook(watcher(name))
        for name, quantizer in activation_quantizers(prepared).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _range(seen: _Seen, quantizer: nn.Module, method: Method) -> tuple[float, float]:
    if seen.counts is None:
        return seen.low, seen.high
    if method == "percentile":
        share = seen.counts.cumsum(0) / seen.counts.sum()
        inside = seen.centres[(share >= _OUTSIDE) & (share <= 1 - _OUTSIDE)]
        if not len(inside):
            return seen.low, seen.high
        return min(float(inside[0]), 0.0), max(float(inside[-1]), 0.0)
    best, least = (seen.low, seen.high), float("inf")
    tried: set[tuple[float, int, int]] = set()
    for share in torch.linspace(1.0, _SMALLEST_SHARE, _TRIED, dtype=torch.float64).tolist():
        low, high = share * seen.low, share * seen.high
        # Many ranges fall on one power of two.
        grid = scale, qmin, qmax = grid_of_range(quantizer, low, high)
        if grid in tried:
            continue
        tried.add(grid)
        rounded = torch.round(seen.centres / scale).clamp(qmin, qmax) * scale
        error = float((seen.counts * (rounded - seen.centres).square()).sum())
        if error < least:
            best, least = (low, high), error
    return best
