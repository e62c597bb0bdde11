"""A modality's images as arrays, and the one place where pixels become a network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_edge.samples import SampleSet
from qdr_edge.scheme import INPUT_SCALE, INPUT_ZERO_POINT

Forward = Callable[[Tensor], Tensor]
PREDICT_BATCH = 32


@dataclass(frozen=True)
class Images:
    """Images of one modality and split.

    Args:
        pixels: uint8 [P, 3, S, S], the whole modality, usually memory-mapped.
        rows: Which of them belong to this split, int64 [N].
        targets: 0/1 float32 [N, K].
        patients: Patient of each image, N of them.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    targets: Tensor
    patients: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Tensor) -> Tensor:
        """Some images, uint8 [B, 3, S, S]; `chosen` indexes this split."""
        # Indexing with an array copies, so torch gets memory that it may write to.
        return torch.from_numpy(np.asarray(self.pixels[self.rows[chosen.numpy()]]))

    def select(self, chosen: Tensor) -> Images:
        """Some images as a split of their own; `chosen` indexes this one, int64 [B]."""
        patients = tuple(self.patients[row] for row in chosen.tolist())
        return Images(self.pixels, self.rows[chosen.numpy()], self.targets[chosen], patients)


def images_of(samples: SampleSet, pixels: NDArray[np.uint8], split: str) -> Images:
    """One split of a modality.

    Args:
        samples: All rows of the modality, in the order of `pixels`.
        pixels: uint8 [P, 3, S, S].
        split: "train", "val" or "test".
    """
    rows = np.flatnonzero([sample.split == split for sample in samples])
    targets = torch.from_numpy(samples.targets()[rows].astype(np.float32))
    return Images(pixels, rows, targets, tuple(samples[int(row)].patient for row in rows))


def network_input(pixels: Tensor) -> Tensor:
    """(pixel − 128) / 64 as float32: what the first operator sees."""
    # As scale * pixel - scale * zero point: exact, for the scale is a power of two, and made
    # with one new tensor.
    return (pixels * INPUT_SCALE).sub_(INPUT_SCALE * INPUT_ZERO_POINT)


def predict(
    forward: Forward, images: Images, device: torch.device, batch: int = PREDICT_BATCH
) -> NDArray[np.float32]:
    """Logits of all images without augmentation, float32 [N, K].

    Args:
        forward: A network in evaluation mode.
        images: What to show it.
        device: Where it computes.
        batch: Images at a time.
    """
    with torch.inference_mode():
        parts = [
            forward(network_input(images.take(chosen).to(device))).float().cpu().numpy()
            for chosen in torch.split(torch.arange(len(images)), batch)
        ]
    return np.concatenate(parts) if parts else np.zeros((0, images.targets.shape[1]), np.float32)


def refresh_batch_norm(model: nn.Module, images: Images, device: torch.device) -> None:
    """Set BatchNorm statistics of an untrained network from images, without learning."""
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over batches
    model.train()
    with torch.no_grad():
        for chosen in torch.split(torch.arange(len(images)), PREDICT_BATCH):
            model(network_input(images.take(chosen).to(device)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
