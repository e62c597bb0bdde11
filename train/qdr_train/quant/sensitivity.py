"""Which layers a quantized network pays for: each in float alone, each in int8 alone.

*Except*: all of the network is quantized but the weights of one layer, which is exactly what the
recipe's `exclude` makes of that layer. *Only*: nothing is quantized but the weights and the output
of one layer. A layer that costs much alone but gains nothing as an exception is one whose output
range, not whose weights, is the trouble: learned scales may help it, exclusion cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.decision import label_scores
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate, paired_map_difference
from qdr_train.data.images import Images, predict
from qdr_train.models import Classifier
from qdr_train.quant import qat

# A layer is worth naming if its exclusion takes this share of the logits' error away ...
_MATTERING_ERROR = 0.10
# ... in a network that decides at least this share of the labels otherwise than in float.
_MATTERING_FLIPS = 0.01
_SUGGESTED = 5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Effect:
    """What a partly quantized network does to the answers.

    Args:
        rms: Root mean square of the logits' difference from float.
        flips: Labels of images decided otherwise than in float, at threshold 0.
        map_change: mAP minus that of what it is compared with, images resampled together.
    """

    rms: float
    flips: int
    map_change: Estimate


@dataclass(frozen=True)
class LayerEffect:
    """One layer.

    Args:
        name: As `exclude` takes it.
        macs_share: Its share of the network's multiply-accumulates.
        except_it: All but this layer's weights in int8, compared with everything in int8.
        only_it: This layer alone in int8, compared with float.
    """

    name: str
    macs_share: float
    except_it: Effect
    only_it: Effect


@dataclass(frozen=True)
class Scan:
    """A network's layers, the most rewarding exclusion first.

    Args:
        images: Images looked at.
        decisions: Labels times images.
        whole: Everything in int8, compared with float.
        layers: Every layer in int8.
    """

    images: int
    decisions: int
    whole: Effect
    layers: tuple[LayerEffect, ...]

    def suggestion(self) -> tuple[str, ...]:
        """Layers whose exclusion would change the answers measurably; none if nothing matters."""
        costly = self.whole.flips >= _MATTERING_FLIPS * self.decisions
        worst = [
            layer.name
            for layer in self.layers
            if layer.except_it.map_change.low > 0
            or (costly and layer.except_it.rms <= (1 - _MATTERING_ERROR) * self.whole.rms)
        ]
        return tuple(worst[:_SUGGESTED])

    @property
    def in_float(self) -> float:
        """Share of the multiply-accumulates of layers that are in float already."""
        return max(0.0, 1 - sum(layer.macs_share for layer in self.layers))

    def within(self, budget: float) -> tuple[str, ...]:
        """Layers to keep in float, the one that takes most of the logits' error away first.

        Args:
            budget: Share of the multiply-accumulates that may be in float, those of layers that
                are in float already among them, 0..1.
        """
        chosen, spent = [], self.in_float
        for layer in self.layers:  # the most rewarding first
            rewards = layer.except_it.rms < self.whole.rms
            if rewards and spent + layer.macs_share <= budget + _ROUNDING:
                chosen.append(layer.name)
                spent += layer.macs_share
        return tuple(chosen)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""

        def effect(value: Effect) -> dict[str, Any]:
            change = value.map_change.to_dict()
            return {"rms": value.rms, "flips": value.flips, "map_change": change}

        return {
            "format": "qdr-sensitivity",
            "version": 1,
            "images": self.images,
            "decisions": self.decisions,
            "int8": effect(self.whole),
            "layers": [
                {
                    "name": layer.name,
                    "macs_share": layer.macs_share,
                    "except": effect(layer.except_it),
                    "only": effect(layer.only_it),
                }
                for layer in self.layers
            ],
            "suggested_exclude": list(self.suggestion()),
        }


def scan_layers(
    prepared: Classifier,
    images: Images,
    labels: LabelSet,
    device: torch.device,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scan:
    """Quantize all but each layer, and each layer alone.

    Args:
        prepared: A trained network with fake quantization; left in evaluation with all of it on.
        images: Validation images.
        labels: The K labels.
        device: Where the network is.
        seed: Of the bootstrap.
        progress: Called with (passes over the images done, passes).
    """
    qat.set_phase(prepared.eval(), observers=False, bn_frozen=True)
    layers = _layers(prepared)
    passes = 2 + 2 * len(layers)
    done = 0

    def answers() -> NDArray[np.float32]:
        nonlocal done
        logits = predict(prepared, images, device)
        done += 1
        progress(done, passes)
        return logits

    targets = images.targets.numpy().astype(np.uint8)

    def effect(logits: NDArray[np.float32], beside: NDArray[np.float32]) -> Effect:
        scores, others = label_scores(logits, labels), label_scores(beside, labels)
        change = paired_map_difference(
            scores, others, targets, images.patients, n_bootstrap=500, seed=seed
        )
        difference = logits.astype(np.float64) - in_float
        flips = int(((scores > 0) != (label_scores(in_float, labels) > 0)).sum())
        return Effect(float(np.sqrt(np.square(difference).mean())), flips, change)

    macs = _macs(prepared, images, device)
    whole = answers()
    with _quantized(prepared, ()):
        in_float = answers()
    found = []
    for name, layer in layers.items():
        weights, output = layer.weight_fake_quant, layer.activation_post_process
        with _switched(weights, on=False):
            without = answers()
        with _quantized(prepared, (weights, output)):
            alone = answers()
        share = macs[name] / sum(macs.values())
        found.append(LayerEffect(name, share, effect(without, whole), effect(alone, in_float)))
    found.sort(key=lambda layer: layer.except_it.rms)
    return Scan(len(images), whole.size, effect(whole, in_float), tuple(found))


def _layers(prepared: nn.Module) -> Mapping[str, Any]:
    """The convolutions and linear layers that compute in int8."""
    return {
        name: module
        for name, module in prepared.named_modules()
        if hasattr(getattr(module, "weight_fake_quant", None), "fake_quant_enabled")
    }


def _macs(prepared: nn.Module, images: Images, device: torch.device) -> Mapping[str, int]:
    """Multiply-accumulates of one image, by layer."""
    macs: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # [1, C, H, W] or [1, K]: each place takes every weight of its channel once
            macs[name] = int(cast(Tensor, module.weight).numel() * output[0, 0].numel())

        return hook

    layers = [(n, m) for n, m in prepared.named_modules() if hasattr(m, "weight_fake_quant")]
    handles = [module.register_forward_hook(count(name)) for name, module in layers]
    predict(prepared, images.select(torch.zeros(1, dtype=torch.int64)), device)
    for handle in handles:
        handle.remove()
    return macs


def _switch(quantizer: Any, on: bool) -> None:
    # The head's output has no quantizer.
    if hasattr(quantizer, "enable_fake_quant"):
        quantizer.enable_fake_quant(on)


@contextmanager
def _switched(quantizer: nn.Module, *, on: bool) -> Iterator[None]:
    _switch(quantizer, on)
    try:
        yield
    finally:
        _switch(quantizer, not on)


@contextmanager
def _quantized(prepared: nn.Module, quantizers: tuple[nn.Module, ...]) -> Iterator[None]:
    """Only these quantize; afterwards all do."""
    everything = list(prepared.modules())
    for module in everything:
        _switch(module, on=False)
    for module in quantizers:
        _switch(module, on=True)
    try:
        yield
    finally:
        for module in everything:
            _switch(module, on=True)
