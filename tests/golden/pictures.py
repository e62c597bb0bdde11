"""Small pictures drawn from integers: the inputs of the preprocessing goldens.

No library draws or filters here, so that the inputs are the same bytes everywhere and forever.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noise(height: int, width: int, seed: int) -> NDArray[np.int64]:
    """Integers 0..255 from a linear congruential generator, [height, width]."""
    index = np.arange(height * width, dtype=np.uint64) + np.uint64(seed * 1_000_003)
    mixed = index * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) & np.uint64(255)).astype(np.int64).reshape(height, width)


def fundus(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """A red disc with a bright spot and dark lines on black, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    y, x = 2 * y - height + 1, 2 * x - width + 1
    side = min(height, width)
    squared = y * y + x * x
    disc = 10 * squared < 9 * side * side
    level = 180 - 60 * squared // (side * side) + noise(height, width, seed) // 16
    vessel = ((x * x // side + 3 * y) % (side // 2)) < side // 16
    spot = (3 * x - side) ** 2 + 9 * y * y < side * side // 12
    red = np.where(spot, level + 60, level - 40 * vessel)
    green = np.where(spot, level + 10, level * 5 // 9 - 45 * vessel)
    blue = np.where(spot, level - 40, level // 4 - 10 * vessel)
    rgb = np.stack([red, green, blue], axis=2) * disc[:, :, None] + 2
    return np.clip(rgb, 0, 255).astype(np.uint8)


def oct_scan(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """Bright bent layers over a dark ground with speckle, gray, uint8 [height, width]."""
    y, x = np.mgrid[:height, :width]
    centre = height * 4 // 10 + (2 * x - width) ** 2 * height // (14 * width * width)
    depth = y - centre
    thick = height // 4
    inside = (depth >= 0) & (depth < thick)
    layer = np.where((depth * 6 // max(1, thick)) % 2 == 0, 150, 90)
    level = np.where(inside, layer, np.where(depth < 0, 14, 40 - depth * 30 // height))
    return np.clip(level * (128 + noise(height, width, seed)) // 256, 0, 255).astype(np.uint8)


def framed(gray: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
    """The picture inside a white frame."""
    return np.pad(gray, border, constant_values=255)


def constant(height: int, width: int, level: int) -> NDArray[np.uint8]:
    """One level everywhere."""
    return np.full((height, width, 3), level, dtype=np.uint8)
