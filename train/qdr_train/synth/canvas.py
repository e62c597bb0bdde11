"""A fundus painted in degrees of visual angle: coordinate maps, noise, lesions as soft shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = Sequence[float]


def noise_field(rng: np.random.Generator, shape: tuple[int, int], cells: float) -> Image:
    """Smooth unit-variance noise.

    Args:
        rng: stream of the stage.
        shape: (rows, columns).
        cells: number of independent cells along the longer side.

    Returns:
        float32 [rows, columns], mean about 0, deviation about 1.
    """
    longest = max(shape)
    grid = [max(4, round(cells * side / longest) + 3) for side in shape]
    coarse = rng.standard_normal((grid[0], grid[1])).astype(np.float32)
    field = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field * 1.35, dtype=np.float32)


def blurred(image: Image, sigma: float) -> Image:
    """Gaussian blur of a float32 picture; `sigma` in pixels, > 0."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float32)


@dataclass(frozen=True)
class View:
    """Where the camera looked: the affine map from retina degrees to work pixels."""

    centre: tuple[float, float]  # degrees, what lies in the middle of the picture
    fov: float  # degrees across the field of view
    rotation: float  # radians
    work: int  # work image side in pixels
    radius: float  # field-of-view radius in work pixels

    @property
    def scale(self) -> float:
        """Work pixels per degree."""
        return 2.0 * self.radius / self.fov

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map [n, 2] degrees to [n, 2] work pixels (x, y)."""
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        moved = (np.asarray(points) - np.asarray(self.centre)) * self.scale
        turned = moved @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + (self.work - 1) / 2.0)

    def degree_maps(self) -> tuple[Image, Image]:
        """The retinal position, in degrees, of every work pixel."""
        axis = (np.arange(self.work, dtype=np.float32) - (self.work - 1) / 2.0) / self.scale
        cos, sin = np.float32(np.cos(self.rotation)), np.float32(np.sin(self.rotation))
        across, down = axis[None, :], axis[:, None]
        x = across * cos + down * sin + np.float32(self.centre[0])
        y = -across * sin + down * cos + np.float32(self.centre[1])
        return x.astype(np.float32), y.astype(np.float32)


class Canvas:
    """Reflectance of the retina, float32 RGB in about 0 .. 1, with the positions of its pixels."""

    def __init__(self, view: View, colour: Colour) -> None:
        self.view = view
        self.x, self.y = view.degree_maps()
        self.rgb: Image = np.empty((view.work, view.work, 3), np.float32)
        self.rgb[:] = np.asarray(colour, np.float32)

    def distance(self, x: float, y: float) -> Image:
        """Distance of every pixel to a retinal point, degrees."""
        return np.asarray(np.hypot(self.x - np.float32(x), self.y - np.float32(y)), np.float32)

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """Rows and columns within `reach` degrees of a point; None when out of the picture."""
        col, row = self.view.to_pixels(np.array([[x, y]]))[0]
        pad = reach * self.view.scale + 2
        top, bottom = max(0, int(row - pad)), min(self.view.work, int(row + pad) + 1)
        left, right = max(0, int(col - pad)), min(self.view.work, int(col + pad) + 1)
        if top >= bottom or left >= right:
            return None
        return slice(top, bottom), slice(left, right)

    def absorb(
        self, mask: Image, density: Colour, where: tuple[slice, slice] | None = None
    ) -> None:
        """Darken by Beer-Lambert: rgb *= exp(-mask * density)."""
        part = self.rgb if where is None else self.rgb[where]
        for channel in range(3):
            part[..., channel] *= np.exp(mask * np.float32(-density[channel]))

    def blend(self, mask: Image, colour: Colour, where: tuple[slice, slice] | None = None) -> None:
        """Cover with a colour: rgb = rgb + mask * (colour - rgb)."""
        part = self.rgb if where is None else self.rgb[where]
        part += mask[..., None] * (np.asarray(colour, np.float32) - part)

    def add(self, mask: Image, colour: Colour, where: tuple[slice, slice] | None = None) -> None:
        """Add light: rgb += mask * colour."""
        part = self.rgb if where is None else self.rgb[where]
        part += mask[..., None] * np.asarray(colour, np.float32)

    def shape(
        self,
        rng: np.random.Generator,
        centre: tuple[float, float],
        radii: tuple[float, float],
        *,
        angle: float = 0.0,
        rough: float = 0.15,
        soft: float = 0.3,
    ) -> tuple[Image, tuple[slice, slice]] | None:
        """Mask of one irregular soft-edged ellipse.

        Args:
            rng: stream of the finding; drawn from even when the shape is out of the picture.
            centre: degrees.
            radii: degrees along and across `angle`.
            angle: radians.
            rough: relative size of the outline's irregularity.
            soft: width of the edge relative to the radius.

        Returns:
            The mask (0 .. 1) and its window, or None when it lies out of the picture.
        """
        waves = [
            (k, rough * float(rng.standard_normal()) / k, 2 * np.pi * float(rng.random()))
            for k in range(2, 7)
        ]
        where = self.window(*centre, max(radii) * (1.0 + 2.5 * rough + soft))
        if where is None:
            return None
        dx, dy = self.x[where] - np.float32(centre[0]), self.y[where] - np.float32(centre[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = (dx * cos + dy * sin) / np.float32(radii[0])
        across = (dy * cos - dx * sin) / np.float32(radii[1])
        theta = np.arctan2(across, along)
        edge = np.ones_like(theta)
        for k, size, phase in waves:
            edge += np.float32(size) * np.cos(k * theta + np.float32(phase))
        depth = (edge - np.hypot(along, across)) / np.float32(soft) + 0.5
        clipped = np.clip(depth, 0.0, 1.0)
        return (clipped * clipped * (3.0 - 2.0 * clipped)).astype(np.float32), where

    def dots(
        self,
        points: NDArray[np.float64],
        radii: NDArray[np.float64],
        *,
        strength: NDArray[np.float64] | None = None,
        stretch: float = 1.0,
        angles: NDArray[np.float64] | None = None,
        blur: float = 0.0,
    ) -> Image:
        """Mask of many small spots, drawn at twice the work size so that they keep sub-pixel size.

        Args:
            points: [n, 2] degrees.
            radii: [n] degrees.
            strength: [n] 0 .. 1, default 1.
            stretch: length over width of each spot.
            angles: [n] radians of the long axis in the picture, default 0.
            blur: edge softness, degrees.

        Returns:
            float32 mask 0 .. 1 of the whole picture.
        """
        side = self.view.work * 2
        mask = np.zeros((side, side), np.uint8)
        pixels = self.view.to_pixels(points) * 2.0 + 0.5
        for i, (col, row) in enumerate(pixels):
            if not (-side < col < 2 * side and -side < row < 2 * side):
                continue
            radius = max(0.6, float(radii[i]) * self.view.scale * 2.0)
            level = 255 if strength is None else int(255 * strength[i])
            axes = (round(radius * stretch * 16), round(radius * 16))
            tilt = 0.0 if angles is None else float(np.rad2deg(angles[i]))
            middle = (round(col * 16), round(row * 16))
            cv2.ellipse(mask, middle, axes, tilt, 0, 360, level, -1, cv2.LINE_AA, 4)
        small = cv2.resize(mask, (self.view.work,) * 2, interpolation=cv2.INTER_AREA)
        found = small.astype(np.float32) * np.float32(1 / 255)
        sigma = blur * self.view.scale
        return blurred(found, sigma) if sigma > 0.3 else found
