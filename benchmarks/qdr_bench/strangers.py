"""Pictures that are no retina, drawn from a seed: a network must never decide on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], Picture]
_SIDE = 480


def _bytes(picture: NDArray[Any]) -> Picture:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)


def _level(rng: np.random.Generator, value: float) -> Picture:
    """An even picture with a sensor's noise of 0..3 levels."""
    noise = rng.normal(0, rng.uniform(0, 3), (_SIDE, _SIDE, 3))
    return _bytes(value + noise)


def _even(rng: np.random.Generator) -> Picture:
    return np.full((_SIDE, _SIDE, 3), rng.integers(0, 256, 3), np.uint8)


def _noise(rng: np.random.Generator) -> Picture:
    coloured = rng.random() < 0.5
    shape = (_SIDE, _SIDE, 3 if coloured else 1)
    noise = rng.normal(rng.uniform(60, 190), rng.uniform(20, 80), shape)
    return np.broadcast_to(np.clip(noise, 0, 255), (_SIDE, _SIDE, 3)).astype(np.uint8)


def _text(rng: np.random.Generator) -> Picture:
    ground, ink = (255, 0) if rng.random() < 0.5 else (20, 230)
    picture = np.full((_SIDE, 640, 3), ground, np.uint8)
    letters = "abcdefghijklmnopqrstuvwxyz    ABCDEFGHIJ0123456789"
    step = int(rng.integers(16, 34))
    for row in range(step, _SIDE, step):
        line = "".join(rng.choice(list(letters), 60))
        scale = step / 34
        cv2.putText(
            picture, line, (8, row), cv2.FONT_HERSHEY_SIMPLEX, scale, (ink,) * 3, 1 + step // 24
        )
    return picture


def _photo_of_a_screen(rng: np.random.Generator) -> Picture:
    """Text on a screen, taken at an angle: pixel grid, uneven light, a dark bezel, sensor noise."""
    screen = _text(rng).astype(np.float32)
    screen[:, ::3] *= rng.uniform(0.6, 0.9)
    height, width = screen.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    bent = corners * 0.8 + 50 + rng.uniform(-25, 25, (4, 2))
    turn = cv2.getPerspectiveTransform(corners, bent.astype(np.float32))
    photo = cv2.warpPerspective(screen, turn, (640, 480), borderValue=(12, 12, 14))
    y, x = np.mgrid[:480, :640]
    light = rng.uniform(0.5, 1.0) + 0.4 * np.sin(x / 400 + rng.uniform(0, 6)) * np.cos(y / 300)
    tint = rng.uniform(0.85, 1.1, 3)
    photo = photo * light[..., None] * tint + rng.normal(0, 4, photo.shape)
    return _bytes(cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.5, 1.5)))


def _gradient(rng: np.random.Generator) -> Picture:
    """Sky, wall or skin: smooth light between two colours."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    angle = rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle) + 1) / 2
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    picture = first + (second - first) * along[..., None]
    return _bytes(picture + rng.normal(0, 2, picture.shape))


def _clouds(rng: np.random.Generator) -> Picture:
    """Colour with the spectrum of natural scenes, amplitude 1/f."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :])
    frequency[0, 0] = 1
    picture = np.empty((_SIDE, _SIDE, 3))
    shared = rng.normal(size=(_SIDE, _SIDE))
    for channel in range(3):
        white = shared + rng.uniform(0.1, 0.6) * rng.normal(size=shared.shape)
        scene = np.fft.irfft2(np.fft.rfft2(white) / frequency, shared.shape)
        spread = rng.uniform(25, 60)
        picture[..., channel] = rng.uniform(60, 180) + spread * scene / scene.std()
    return _bytes(picture)


def _landscape(rng: np.random.Generator) -> Picture:
    """Bright sky above textured ground."""
    scene = _clouds(rng).astype(np.float32)
    horizon = int(rng.uniform(0.3, 0.7) * _SIDE)
    scene[:horizon] = 0.25 * scene[:horizon] + np.array([110, 150, 200]) * rng.uniform(0.7, 1)
    return _bytes(scene)


def _ball(rng: np.random.Generator) -> Picture:
    """A red or orange ball on black: the colours and the outline of a fundus, and no vessel."""
    y, x = (np.mgrid[:_SIDE, :_SIDE] - _SIDE / 2) / (_SIDE / 2 * rng.uniform(0.8, 0.98))
    height = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    shade = np.clip(0.2 + 0.8 * height + 0.3 * x * rng.uniform(-1, 1), 0, 1.2)
    colour = np.array([rng.uniform(150, 240), rng.uniform(40, 120), rng.uniform(10, 50)])
    picture = colour * (shade * (height > 0))[..., None]
    return _bytes(picture + rng.normal(0, 1.5, picture.shape))


def _drawing(rng: np.random.Generator) -> Picture:
    """Shapes of even tone, as in charts and icons."""
    picture = np.full((_SIDE, _SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(rng.integers(4, 14))):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        one, two = (tuple(int(v) for v in rng.integers(0, _SIDE, 2)) for _ in range(2))
        if rng.random() < 0.5:
            cv2.rectangle(picture, one, two, colour, -1)
        else:
            cv2.circle(picture, one, int(rng.integers(10, 150)), colour, -1, cv2.LINE_AA)
    return picture


def _stripes(rng: np.random.Generator) -> Picture:
    """A striped cloth: all the gradient in one direction, as in layers."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(3, 30))
    picture = rng.uniform(60, 200, 3) + rng.uniform(20, 90) * wave[..., None]
    return _bytes(picture + rng.normal(0, 4, picture.shape))


STRANGERS: Mapping[str, Draw] = {
    "black": lambda rng: _level(rng, 0),
    "white": lambda rng: _level(rng, 255),
    "one even colour": _even,
    "noise": _noise,
    "screenshot of text": _text,
    "photo of a screen": _photo_of_a_screen,
    "smooth gradient": _gradient,
    "1/f scene": _clouds,
    "landscape": _landscape,
    "red ball on black": _ball,
    "drawing": _drawing,
    "stripes": _stripes,
}


def stranger(kind: str, seed: int) -> Picture:
    """One picture of a kind, uint8 RGB [H, W, 3]; the same for the same seed."""
    return STRANGERS[kind](np.random.default_rng([seed, *kind.encode()]))
