"""Fundus cameras: field of view, light, colour, blur, noise, and the ways an exposure goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Image, View, noise_field
from .streams import normal, uniform


@dataclass(frozen=True)
class Camera:
    """One camera model. Which camera took a picture is drawn independently of any disease."""

    name: str
    fov: tuple[float, float]  # degrees
    gains: tuple[float, float, float]  # RGB colour cast
    gamma: float
    saturation: float
    blur: float  # degrees
    noise: float
    jpeg_quality: int
    cut: float  # share of the height hidden at top and bottom
    notch: bool
    rim: tuple[float, float, float]  # colour of the haze at the border
    rim_strength: float


CAMERAS = (
    Camera("cfp-a", (43, 47), (1.0, 1.0, 1.0), 1.00, 1.0, 0.030, 0.010, 92, 0.0, False, (0.9, 0.8, 0.5), 0.05),
    Camera("cfp-b", (43, 47), (1.14, 0.88, 0.55), 1.05, 1.25, 0.035, 0.012, 90, 0.05, True, (0.9, 0.4, 0.1), 0.00),
    Camera("cfp-c", (44, 50), (0.90, 1.00, 1.40), 0.92, 0.72, 0.050, 0.016, 88, 0.0, False, (0.8, 0.75, 0.7), 0.12),
    Camera("cfp-d", (36, 42), (0.93, 1.05, 0.85), 1.10, 0.90, 0.045, 0.014, 85, 0.04, False, (0.5, 0.6, 0.35), 0.14),
    Camera("cfp-e", (31, 36), (1.05, 0.97, 0.95), 1.00, 1.05, 0.028, 0.009, 94, 0.0, True, (0.7, 0.5, 0.3), 0.03),
)  # fmt: skip


def choose_camera(rng: np.random.Generator) -> Camera:
    """Draw the camera of one exposure."""
    return CAMERAS[int(rng.choice(len(CAMERAS), p=[0.28, 0.24, 0.20, 0.16, 0.12]))]


def aim(rng: np.random.Generator, camera: Camera, size: int) -> View:
    """Point the camera: the macula is always in the picture, the disc nearly always."""
    fov = uniform(rng, *camera.fov)
    work = max(size, min(2 * size, 384))
    centre = (normal(rng, 4.3, 1.6), normal(rng, -0.3, 1.1))
    radius = work / 2 * uniform(rng, 0.955, 0.995)
    return View(centre, fov, np.deg2rad(normal(rng, 0.0, 3.5)), work, radius)


def expose(
    reflectance: Image,
    view: View,
    camera: Camera,
    quality: int,
    rng: np.random.Generator,
    size: int,
) -> NDArray[np.uint8]:
    """Turn reflectance into the photograph.

    Args:
        reflectance: float32 RGB [work, work, 3].
        view: where the camera looked.
        camera: camera model.
        quality: grade 0 good .. 3 ungradable.
        rng: stream of the exposure.
        size: side of the photograph in pixels.

    Returns:
        uint8 RGB [size, size, 3].
    """
    axis = (np.arange(view.work, dtype=np.float32) - (view.work - 1) / 2.0) / view.radius
    across, down = axis[None, :], axis[:, None]
    light = _illumination(rng, across, down)
    image = reflectance * light[..., None]
    radius = np.hypot(across, down)
    rim = np.clip((radius - 0.72) / 0.28, 0.0, 1.0) ** 2 * np.float32(
        camera.rim_strength * uniform(rng, 0.5, 2.0)
    )
    side = 1.0 + 0.6 * (across * normal(rng, 0, 1) + down * normal(rng, 0, 1))
    image += (rim * np.clip(side, 0.0, 2.0))[..., None] * np.asarray(camera.rim, np.float32)
    image = _degrade(image, across, down, view, quality, rng)
    gains = np.asarray(camera.gains) * np.exp(0.06 * rng.standard_normal(3).clip(-2, 2))
    image *= gains.astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + np.float32(camera.saturation * uniform(rng, 0.9, 1.1)) * (image - grey)
    sigma = camera.blur * view.scale * uniform(rng, 0.8, 1.6)
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    mask = _field_of_view(view, camera, rng)
    image = np.clip(image, 0.0, 1.6)
    image = image / (1.0 + 0.12 * image * image)  # film-like shoulder instead of hard clipping
    image = np.power(image, np.float32(camera.gamma)) * mask[..., None]
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    noise = rng.standard_normal(small.shape, dtype=np.float32)
    noise = 0.6 * noise + 0.4 * noise.mean(axis=2, keepdims=True)
    level = np.float32(camera.noise * uniform(rng, 0.6, 1.5))
    small += level * noise * (0.25 + 0.75 * np.sqrt(np.clip(small, 0.0, 1.0)))
    return np.clip(small * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)


def _illumination(rng: np.random.Generator, across: Image, down: Image) -> Image:
    # Flash falls off from a point near the middle; its place differs with every alignment.
    x0, y0 = normal(rng, 0.05, 0.22), normal(rng, 0.0, 0.18)
    fall = uniform(rng, 0.22, 0.58)
    distance = (across - np.float32(x0)) ** 2 + (down - np.float32(y0)) ** 2
    tilt = across * np.float32(normal(rng, 0, 0.09)) + down * np.float32(normal(rng, 0, 0.07))
    gain = uniform(rng, 0.82, 1.18)
    return np.asarray(np.float32(gain) * (np.exp(-np.float32(fall) * distance) + tilt), np.float32)


def _degrade(
    image: Image, across: Image, down: Image, view: View, quality: int, rng: np.random.Generator
) -> Image:
    if quality == 0:
        return image
    amount = {1: uniform(rng, 0.12, 0.25), 2: uniform(rng, 0.32, 0.50), 3: uniform(rng, 0.85, 1.0)}
    level = np.float32(amount[quality])
    faults = ["blur", "dark", "bright", "haze", "lash", "smear"]
    fault = faults[int(rng.choice(len(faults), p=[0.26, 0.20, 0.12, 0.22, 0.12, 0.08]))]
    if quality == 3:  # a picture is lost to a combination more often than to one fault
        image = cv2.GaussianBlur(image, (0, 0), float(0.35 + 0.5 * rng.random()) * view.scale)
    if fault == "blur":
        sigma = float(level) ** 1.5 * uniform(rng, 0.7, 1.2) * view.scale
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.4, sigma)))
    if fault == "dark":
        return np.asarray(image * (1.0 - 0.90 * level))
    if fault == "bright":
        return np.asarray(image * (1.0 + 2.6 * level) + 0.30 * level)
    if fault == "haze":
        veil = (
            0.85
            * level
            * np.clip(1.0 + 0.3 * noise_field(rng, across.shape[:0] + image.shape[:2], 3), 0.4, 1.2)
        )
        veil = np.clip(veil, 0.0, 0.96)[..., None]
        return np.asarray(image * (1 - veil) + veil * np.array([0.52, 0.47, 0.42], np.float32))
    if fault == "lash":
        return _eyelid(image, across, down, view, level, rng)
    spots = np.zeros(image.shape[:2], np.float32)
    for _ in range(2 + int(5 * level)):
        x0, y0 = normal(rng, 0, 0.5), normal(rng, 0, 0.5)
        width = uniform(rng, 0.10, 0.10 + 0.28 * float(level))
        spots += np.exp(-(((across - x0) ** 2 + (down - y0) ** 2) / np.float32(width * width)))
    return np.asarray(
        image
        + (0.85 * level * np.clip(spots, 0, 1.3))[..., None]
        * np.array([0.9, 0.88, 0.95], np.float32)
    )


def _eyelid(
    image: Image,
    across: Image,
    down: Image,
    view: View,
    level: np.float32,
    rng: np.random.Generator,
) -> Image:
    side = 1.0 if rng.random() < 0.7 else -1.0
    edge = np.float32(1.0 - 1.15 * level) - 0.18 * across * across
    shade = np.clip((side * down - edge) / np.float32(0.22) + 0.5, 0.0, 1.0)
    glare = np.array([0.88, 0.70, 0.50], np.float32) * np.float32(uniform(rng, 0.35, 1.0))
    image = image * (1 - shade[..., None]) + shade[..., None] * glare
    lashes = np.zeros(image.shape[:2], np.uint8)
    for _ in range(int(4 + 16 * level)):
        start = uniform(rng, -0.8, 0.8)
        bend = normal(rng, 0, 0.25)
        run = np.linspace(0.0, uniform(rng, 0.3, 0.9), 12)
        col = view.work / 2 + view.radius * (start + bend * run + 0.4 * bend * run * run)
        row = view.work / 2 + view.radius * side * (1.0 - run)
        line = np.round(np.stack([col, row], axis=1) * 16).astype(np.int32)
        cv2.polylines(lashes, [line], False, 255, max(1, round(0.012 * view.work)), cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(lashes, (0, 0), 0.012 * view.work).astype(np.float32) / 255.0
    return np.asarray(image * (1.0 - 0.75 * soft[..., None]))


def _field_of_view(view: View, camera: Camera, rng: np.random.Generator) -> Image:
    # Drawn as a polygon so that its edge is anti-aliased.
    mask = np.zeros((view.work, view.work), np.uint8)
    middle = (view.work - 1) / 2.0
    centre = (round(middle * 16), round(middle * 16))
    cv2.circle(mask, centre, round(view.radius * 16), 255, -1, cv2.LINE_AA, 4)
    cut = camera.cut * uniform(rng, 0.4, 1.5)
    if cut > 0.01:
        rows = round(middle - view.radius + cut * 2 * view.radius)
        mask[: max(0, rows)] = 0
        mask[view.work - max(0, rows) :] = 0
    if camera.notch:
        angle = uniform(rng, -0.25, 0.25) + (0.0 if rng.random() < 0.5 else np.pi / 2)
        tip = (middle + view.radius * np.cos(angle), middle + view.radius * np.sin(angle))
        point = (round(tip[0] * 16), round(tip[1] * 16))
        cv2.circle(mask, point, round(0.025 * view.work * 16), 0, -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255.0, (0, 0), max(0.4, 0.003 * view.work))
