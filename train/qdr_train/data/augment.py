"""Augmentation of whole batches on pixel values: one affine resampling, then brightness, contrast.

Every draw comes from the generator that is passed in, so an epoch repeats from its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
        uint8 [N, 3, S, S], on the device of the pixels.
    """
    theta = _affine(len(pixels), ranges, generator, share) if _moves(ranges) else None
    contrast = _uniform(len(pixels), *ranges.contrast, generator, share)
    brightness = _uniform(len(pixels), *ranges.brightness, generator, share)
    if pixels.device.type == "cpu" and pixels.dtype == torch.uint8:
        return _on_bytes(pixels, theta, contrast, brightness, ranges)
    images = pixels.float()
    if theta is not None:
        grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
        padding = "zeros" if ranges.background == "black" else "border"
        images = F.grid_sample(
            images, grid, mode="bilinear", padding_mode=padding, align_corners=False
        )
    contrast, brightness = contrast.to(images.device), brightness.to(images.device)
    mean = images.mean(dim=(1, 2, 3))
    # (x - mean) * contrast + mean, then * brightness, as one multiply-add per pixel.
    scale = contrast * brightness
    offset = mean * (1 - contrast) * brightness
    images = torch.addcmul(offset.view(-1, 1, 1, 1), images, scale.view(-1, 1, 1, 1))
    return images.round_().clamp_(0.0, PIXEL_MAX).to(torch.uint8)


def _on_bytes(
    pixels: Tensor,
    theta: Tensor | None,
    contrast: Tensor,
    brightness: Tensor,
    ranges: Augmentation,
) -> Tensor:
    """The same views image by image in OpenCV: several times faster than torch on a CPU."""
    source = pixels.numpy()
    result = np.empty_like(source)
    side = source.shape[-1]
    border = cv2.BORDER_CONSTANT if ranges.background == "black" else cv2.BORDER_REPLICATE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    levels = np.arange(PIXEL_MAX + 1)
    for index, image in enumerate(source):
        view = image
        if theta is not None:
            view, matrix = result[index], _in_pixels(theta[index].numpy(), side)
            for plane, out in zip(image, view, strict=True):
                cv2.warpAffine(plane, matrix, (side, side), out, flags, border)
        mean = cv2.mean(view.reshape(-1, side))[0]
        # Bytes to bytes: whatever happens to a level can be looked up.
        changed = (levels - mean) * float(contrast[index]) + mean
        table = np.rint(changed * float(brightness[index])).clip(0, PIXEL_MAX).astype(np.uint8)
        cv2.LUT(view.reshape(-1, side), table, result[index].reshape(-1, side))
    return torch.from_numpy(result)


def _in_pixels(theta: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """A map of the -1..1 frame of grid_sample as one of pixel numbers, [2, 3]."""
    turn, shift = theta[:, :2].astype(np.float64), theta[:, 2].astype(np.float64)
    middle = (side - 1) / 2
    offset = middle - turn.sum(axis=1) * middle + shift * side / 2
    return np.column_stack((turn, offset))


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
