"""Fundus cameras: field of view, light, colour, blur, noise, and how an exposure goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .canvas import Image, View, blurred, noise_field
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
    Camera(
        name="cfp-a",
        fov=(43, 47),
        gains=(1.0, 1.0, 1.0),
        gamma=1.0,
        saturation=1.0,
        blur=0.030,
        noise=0.010,
        jpeg_quality=92,
        cut=0.0,
        notch=False,
        rim=(0.9, 0.8, 0.5),
        rim_strength=0.05,
    ),
    Camera(
        name="cfp-b",
        fov=(43, 47),
        gains=(1.12, 0.90, 0.62),
        gamma=1.05,
        saturation=1.15,
        blur=0.035,
        noise=0.012,
        jpeg_quality=90,
        cut=0.05,
        notch=True,
        rim=(0.9, 0.4, 0.1),
        rim_strength=0.0,
    ),
    Camera(
        name="cfp-c",
        fov=(44, 50),
        gains=(0.90, 1.00, 1.40),
        gamma=0.92,
        saturation=0.72,
        blur=0.050,
        noise=0.016,
        jpeg_quality=88,
        cut=0.0,
        notch=False,
        rim=(0.8, 0.75, 0.7),
        rim_strength=0.12,
    ),
    Camera(
        name="cfp-d",
        fov=(36, 42),
        gains=(0.93, 1.05, 0.85),
        gamma=1.10,
        saturation=0.90,
        blur=0.045,
        noise=0.014,
        jpeg_quality=85,
        cut=0.04,
        notch=False,
        rim=(0.5, 0.6, 0.35),
        rim_strength=0.14,
    ),
    Camera(
        name="cfp-e",
        fov=(31, 36),
        gains=(1.05, 0.97, 0.95),
        gamma=1.0,
        saturation=1.05,
        blur=0.028,
        noise=0.009,
        jpeg_quality=94,
        cut=0.0,
        notch=False,
        rim=(0.7, 0.5, 0.3),
        rim_strength=0.03,
    ),
)


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
        camera.rim_strength * uniform(rng, 0.5, 3.2)
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
        image = blurred(image, sigma)
    mask = _field_of_view(view, camera, rng)
    image = np.clip(image, 0.0, 1.6)
    image = image / (1.0 + 0.12 * image * image)  # film-like shoulder instead of hard clipping
    image = np.power(image, np.float32(camera.gamma)) * mask[..., None]
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    noise = rng.standard_normal(small.shape, dtype=np.float32)
    noise = 0.6 * noise + 0.4 * noise.mean(axis=2, keepdims=True)
    level = np.float32(camera.noise * uniform(rng, 0.6, 1.5))
    small += level * noise * (0.25 + 0.75 * np.sqrt(np.clip(small, 0.0, 1.0)))
    return np.asarray(np.clip(small * 255.0 + 0.5, 0.0, 255.0), dtype=np.uint8)


def _illumination(rng: np.random.Generator, across: Image, down: Image) -> Image:
    # Flash falls off from a point near the middle; its place differs with every alignment.
    x0, y0 = normal(rng, 0.08, 0.26), normal(rng, 0.0, 0.22)
    fall = uniform(rng, 0.22, 0.75)
    distance = (across - np.float32(x0)) ** 2 + (down - np.float32(y0)) ** 2
    tilt = across * np.float32(normal(rng, 0, 0.09)) + down * np.float32(normal(rng, 0, 0.07))
    gain = uniform(rng, 0.80, 1.28)
    uneven = np.float32(uniform(rng, 0.02, 0.10)) * noise_field(rng, distance.shape, 2.5)
    light = np.exp(-np.float32(fall) * distance) + tilt + uneven
    return np.asarray(np.float32(gain) * np.clip(light, 0.05, 1.5), np.float32)


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
        image = blurred(image, float(0.35 + 0.5 * rng.random()) * view.scale)
    if fault == "blur":
        sigma = float(level) ** 1.5 * uniform(rng, 0.7, 1.2) * view.scale
        return blurred(image, max(0.4, sigma))
    if fault == "dark":
        return np.asarray(image * (1.0 - 0.90 * level))
    if fault == "bright":
        return np.asarray(image * (1.0 + 2.6 * level) + 0.30 * level)
    if fault == "haze":
        veil = (
            0.85
            * level
            * np.clip(1.0 + 0.3 * noise_field(rng, (view.work, view.work), 3), 0.4, 1.2)
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
    lidded = image * (1 - shade[..., None]) + shade[..., None] * glare
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
    return np.asarray(lidded * (1.0 - 0.75 * soft[..., None]), dtype=np.float32)


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
        # A small tab above the cut edge marks which way is up.
        half, top = 0.02 * view.work, middle - view.radius + cut * 2 * view.radius
        tab = np.array([[middle - half, top + 1], [middle + half, top + 1], [middle, top - half]])
        cv2.fillConvexPoly(mask, np.round(tab * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return blurred(mask.astype(np.float32) * np.float32(1 / 255), max(0.4, 0.003 * view.work))
