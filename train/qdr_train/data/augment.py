"""Augmentation of whole batches on pixel values: one affine resampling, then brightness, contrast.

Every draw comes from the generator that is passed in, so an epoch repeats from its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qdr_train.data.share import WHOLE, Share

PIXEL_MAX = 255.0


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; zero or 1..1 switches one off.

    Args:
        rotation: Largest angle to either side, degrees.
        flip: Probability of a horizontal flip.
        zoom: Largest share by which the view is narrowed or widened.
        shift: Largest shift along each axis, share of the image.
        brightness: Factor range.
        contrast: Factor range, about the image's mean.
        background: What lies outside the image: "black" (fundus) or "edge" (OCT).
    """

    rotation: float = 0.0
    flip: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    background: str = "black"


def augment(
    pixels: Tensor, ranges: Augmentation, generator: torch.Generator, share: Share = WHOLE
) -> Tensor:
    """Random views of a batch.

    Args:
        pixels: [N, 3, S, S], uint8 or float on the 0..255 scale.
        ranges: How far each change may go.
        generator: CPU generator; the only source of randomness.
        share: Which part of the batch the pixels are; the draws are those of the whole.

    Returns:
        Float32 [N, 3, S, S] on the 0..255 scale, whole numbers: a camera delivers bytes.
    """
    images = pixels.float()
    if _moves(ranges):
        theta = _affine(len(images), ranges, generator, share).to(images.device)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        padding = "zeros" if ranges.background == "black" else "border"
        images = F.grid_sample(
            images, grid, mode="bilinear", padding_mode=padding, align_corners=False
        )
    contrast = _uniform(len(images), *ranges.contrast, generator, share).to(images.device)
    brightness = _uniform(len(images), *ranges.brightness, generator, share).to(images.device)
    mean = images.mean(dim=(1, 2, 3))
    # (x - mean) * contrast + mean, then * brightness, as one multiply-add per pixel.
    scale = contrast * brightness
    offset = mean * (1 - contrast) * brightness
    images = torch.addcmul(offset.view(-1, 1, 1, 1), images, scale.view(-1, 1, 1, 1))
    return images.round_().clamp_(0.0, PIXEL_MAX)


def _moves(ranges: Augmentation) -> bool:
    return any((ranges.rotation, ranges.flip, ranges.zoom, ranges.shift))


def _affine(count: int, ranges: Augmentation, generator: torch.Generator, share: Share) -> Tensor:
    """Output-to-input maps in the -1..1 frame of grid_sample, float [N, 2, 3]."""
    angle = _uniform(count, -ranges.rotation, ranges.rotation, generator, share) * (math.pi / 180)
    zoom = _uniform(count, 1 - ranges.zoom, 1 + ranges.zoom, generator, share)
    mirrored = share.rand(count, generator) < ranges.flip
    # grid_sample spans 2 over the image, so a shift by share s is 2 s.
    shift = _uniform(2 * count, -2 * ranges.shift, 2 * ranges.shift, generator, share)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    sign = torch.where(mirrored, -1.0, 1.0)
    turn = torch.stack((cosine * sign, -sine, sine * sign, cosine), dim=1).view(count, 2, 2)
    return torch.cat((turn, shift.view(count, 2, 1)), dim=2)


def _uniform(
    count: int, low: float, high: float, generator: torch.Generator, share: Share
) -> Tensor:
    return low + (high - low) * share.rand(count, generator)
