"""Draw an OCT B-scan from a section: layers by depth, choroid, shadows, speckle, scanner faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .anatomy import Eye, sample_site
from .canvas import Image, blurred, noise_field
from .oct_signs import SIGNS
from .section import Line, Section, healthy_section
from .streams import EyeStreams, normal, uniform

ASPECT = 1.5


@dataclass(frozen=True)
class Scanner:
    """One OCT device. Which device scanned is drawn independently of any disease."""

    name: str
    width_mm: tuple[float, float]
    height_um: tuple[float, float]
    looks: float  # averaged frames: fewer means more speckle
    floor: float  # background level, 0 .. 1 of the display
    contrast: float
    depth_um: float  # penetration below the pigment epithelium
    grain: float  # lateral size of the speckle in pixels of a 384-wide scan


SCANNERS = (
    Scanner("oct-a", (5.8, 6.6), (1350, 1500), 3.0, 0.10, 1.00, 210.0, 0.9),
    Scanner("oct-b", (5.6, 6.2), (1250, 1400), 9.0, 0.05, 1.10, 170.0, 0.7),
    Scanner("oct-c", (7.5, 8.8), (1400, 1600), 4.5, 0.08, 0.92, 320.0, 0.8),
)


def choose_scanner(rng: np.random.Generator) -> Scanner:
    """Draw the scanner of one B-scan."""
    return SCANNERS[int(rng.choice(len(SCANNERS), p=[0.45, 0.35, 0.20]))]


def draw_oct(
    eye: Eye,
    findings: Mapping[str, float],
    scanner: Scanner,
    quality: int,
    streams: EyeStreams,
    scan: int,
    rows: int,
) -> NDArray[np.uint8]:
    """Scan a right eye (the caller mirrors a left one).

    Args:
        eye: the anatomy.
        findings: label code -> severity.
        scanner: device.
        quality: grade 0 good .. 3 ungradable.
        streams: the eye's random streams.
        scan: scan number.
        rows: picture height in pixels; the width is 1.5 times that.

    Returns:
        uint8 [rows, 1.5 rows].
    """
    columns = round(rows * ASPECT)
    aim = streams.open(scan, "scan line")
    height_um = uniform(aim, *scanner.height_um)
    section = healthy_section(
        eye,
        columns,
        uniform(aim, *scanner.width_mm),
        normal(aim, 0.05, 0.22),
        abs(normal(aim, 0.0, 0.09)),
        height_um * uniform(aim, 0.56, 0.66),
        normal(aim, 0.0, 26.0),
    )
    for code, sign in SIGNS.items():
        if code in findings:
            site = sample_site(streams, code)
            sign(section, findings[code], site, streams.open(code, "oct"))
    texture = streams.open(scan, "tissue")
    signal = _tissue(section, eye, scanner, height_um, rows, texture)
    fault = streams.open(scan, "fault")
    signal, looks = _degrade(signal, scanner.looks, quality, fault)
    return _speckle(signal, scanner, looks, streams.open(scan, "speckle"))


def _tissue(
    section: Section,
    eye: Eye,
    scanner: Scanner,
    height_um: float,
    rows: int,
    rng: np.random.Generator,
) -> Image:
    um = height_um / rows  # micrometres per row
    depth = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) * np.float32(um)
    columns = len(section.x)
    epithelium = section.bruch - section.epithelium_lift
    floor = epithelium - 20 - section.gap  # photoreceptor tips
    ellipsoid = floor - section.photoreceptor
    limiting = ellipsoid - 20
    # The outer nuclear layer yields to narrow bumps below it; the inner layers follow only the
    # broad shape.
    reach = 0.20 / float(section.x[1] - section.x[0])
    broad = _smooth(limiting, reach)
    outer_nuclear = np.minimum(broad - section.outer_nuclear, limiting - 12)
    outer_nuclear = np.minimum(outer_nuclear, _smooth(outer_nuclear, 0.4 * reach))
    outer_plexiform = outer_nuclear - section.outer_plexiform
    inner_nuclear = outer_plexiform - section.inner_nuclear
    inner_plexiform = inner_nuclear - section.inner_plexiform
    ganglion = inner_plexiform - section.ganglion
    surface = ganglion - section.rnfl - section.surface
    inner = section.inner_level
    one = np.ones(columns, np.float32)
    zone = section.ellipsoid
    # Boundary and the display level below it, from the vitreous down.
    layers: list[tuple[Line, Line]] = [
        (surface, 0.62 * inner),
        (ganglion, 0.42 * inner),
        (inner_plexiform, 0.50 * inner),
        (inner_nuclear, 0.32 * inner),
        (outer_plexiform, 0.48 * inner),
        (outer_nuclear, 0.25 * one),
        (limiting, 0.36 * one),
        (limiting + 7, 0.27 * one),
        (ellipsoid, 0.30 + 0.48 * zone),
        (ellipsoid + 17, 0.36 + 0.08 * zone),
        (floor, 0.03 + section.gap_level),
        (epithelium - 20, 0.88 * one),
        (epithelium, section.lift_level),
        (section.bruch, 0.46 * one),
    ]
    soft = np.float32(max(3.0, 1.1 * um))
    image = np.full((rows, columns), 0.0, np.float32)
    before = np.zeros(columns, np.float32)
    for boundary, level in layers:
        below = np.asarray(level, np.float32)
        step = np.clip((depth - boundary.astype(np.float32)) * (1 / soft) + np.float32(0.5), 0, 1)
        image += step * (below - before)
        before = below
    inside = np.clip((depth - surface) * (1 / soft) + np.float32(0.5), 0, 1).astype(np.float32)
    streaks = 1.0 + 0.10 * noise_field(rng, (rows, columns), 60)
    streaks += 0.07 * cv2.resize(noise_field(rng, (rows, 24), 90), (columns, rows))
    image *= np.where(depth < section.bruch, streaks, 1.0).astype(np.float32)
    if (section.epithelium_lift > 5).any():
        line = np.exp(-(((depth - section.bruch) / max(4.0, um)) ** 2))
        image += 0.30 * line * np.clip(section.epithelium_lift / 30, 0, 1)
    image = _choroid(image, section, depth, scanner, um, rng)
    light = _vessel_shadows(section, eye, rng) * section.light
    image *= np.where(depth > inner_plexiform + 10, light, np.sqrt(light)).astype(np.float32)
    _draw_blobs(image, section, surface, floor, um)
    if section.membrane.any():
        lift = surface - section.membrane_gap
        line = np.exp(-(((depth - lift - 4) / max(9.0, 1.3 * um)) ** 2))
        image = np.maximum(image, (1.05 * section.membrane * line).astype(np.float32))
    _posterior_vitreous(image, surface, depth, um, rng)
    haze = 0.025 * np.clip(noise_field(rng, (rows, columns), 3) * 0.5 + 0.6, 0, 1)
    return np.asarray(image + haze * (1 - inside), dtype=np.float32)


def _smooth(line: Line, sigma: float) -> Line:
    padded = cv2.GaussianBlur(line[None, :], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(padded[0], dtype=np.float32)


def _choroid(
    image: Image,
    section: Section,
    depth: Image,
    scanner: Scanner,
    um: float,
    rng: np.random.Generator,
) -> Image:
    rows, columns = image.shape
    under = depth - section.bruch
    # Dark vessel lumens in brighter stroma, larger with depth.
    fine = noise_field(rng, (rows, columns), columns * um / 36.0)
    large = noise_field(rng, (rows, columns), columns * um / 85.0)
    share = np.clip(under / 130.0, 0, 1)
    lumen = 1.0 / (1.0 + np.exp(-4.0 * ((1 - share) * fine + share * large - 0.15)))
    pattern = 1.15 - 0.62 * lumen * np.clip(under / 18.0, 0, 1)
    fade = np.exp(-np.maximum(under, 0) / np.float32(scanner.depth_um))
    sclera = np.clip((under - section.choroid) / 40.0, 0, 1)
    below = fade * (pattern * (1 - sclera) + 0.75 * sclera)
    # The epithelium, and what is dense above it, takes light from everything below.
    dense = np.clip(1.0 - 0.55 * section.gap_level * np.clip(section.gap / 60, 0, 1), 0.2, 1)
    boost = 1.0 + 0.25 * (1 - section.ellipsoid) * (section.gap_level < 0.1)
    return np.asarray(np.where(under > 0, image * below * dense * boost, image), dtype=np.float32)


def _vessel_shadows(section: Section, eye: Eye, rng: np.random.Generator) -> Line:
    light = np.ones(len(section.x), np.float32)
    for _ in range(int(rng.integers(4, 9))):
        place = uniform(rng, float(section.x[0]), float(section.x[-1]))
        if abs(place) < 0.5:
            continue
        light *= 1 - uniform(rng, 0.15, 0.5) * section.hump(place, uniform(rng, 0.03, 0.07))
    return light


def _draw_blobs(image: Image, section: Section, surface: Line, floor: Line, um: float) -> None:
    columns = len(section.x)
    mm = float(section.x[1] - section.x[0])
    mask = np.zeros(image.shape, np.uint8)
    for blob in section.blobs:
        col = (blob.x - float(section.x[0])) / mm
        if not 0 <= col < columns:
            continue
        top, bottom = float(surface[int(col)]), float(floor[int(col)])
        row = (top + blob.depth * (bottom - top)) / um - 0.5
        half = (max(1.0, blob.half_width / mm), max(1.0, blob.half_height / um))
        reach = (int(half[0] + 3), int(half[1] + 3))
        rows = slice(max(0, int(row) - reach[1]), max(0, int(row) + reach[1] + 1))
        cols = slice(max(0, int(col) - reach[0]), int(col) + reach[0] + 1)
        if image[rows, cols].size == 0:
            continue
        mask[rows, cols] = 0
        centre = (round(col * 16), round(row * 16))
        axes = (round(half[0] * 16), round(half[1] * 16))
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA, 4)
        part = mask[rows, cols].astype(np.float32) * np.float32(1 / 255)
        image[rows, cols] += part * (np.float32(blob.level) - image[rows, cols])
        if blob.shadow:
            start = min(image.shape[0], int(row + half[1]))
            image[start:, cols] *= np.float32(1 - blob.shadow)


def _posterior_vitreous(
    image: Image, surface: Line, depth: Image, um: float, rng: np.random.Generator
) -> None:
    # In some eyes the detached vitreous face floats as a faint line above the retina.
    shown = rng.random() < 0.3
    height = uniform(rng, 60.0, 220.0)
    slope = normal(rng, 0.0, 60.0)
    if not shown:
        return
    run = np.linspace(-1, 1, len(surface), dtype=np.float32)
    face = surface.min() - height + slope * run + 30 * np.cos(2.5 * run)
    face = np.minimum(face, surface - 10)
    line = np.exp(-(((depth - face) / max(5.0, um)) ** 2))
    image += (0.16 * line).astype(np.float32)


def _degrade(
    image: Image, looks: float, quality: int, rng: np.random.Generator
) -> tuple[Image, float]:
    if quality == 0:
        return image, looks
    amount = {1: uniform(rng, 0.15, 0.3), 2: uniform(rng, 0.38, 0.55), 3: uniform(rng, 0.86, 1.0)}
    level = amount[quality]
    rows, columns = image.shape
    fault = ("weak", "blur", "cut", "blink")[int(rng.choice(4, p=[0.45, 0.20, 0.20, 0.15]))]
    if quality == 3 and fault == "blur":
        fault = "weak"
    if fault == "weak":
        return np.asarray(image * np.float32(1 - 0.88 * level)), max(1.0, looks * (1 - 0.7 * level))
    if fault == "blur":
        return blurred(image, 0.012 * rows * level + 0.3), looks
    if fault == "cut":
        shift = int(rows * (0.10 + 0.55 * level if level > 0.8 else 0.22 * level))
        moved = np.zeros_like(image)
        if rng.random() < 0.6:
            moved[: rows - shift] = image[shift:]
        else:
            moved[shift:] = image[: rows - shift]
        return moved, looks
    gone = np.ones(columns, np.float32)
    for _ in range(1 + int(3 * level)):
        width = int(columns * (0.04 + 0.22 * level))
        start = int(rng.integers(0, max(1, columns - width)))
        gone[start : start + width] *= np.float32(max(0.03, 1 - 1.2 * level))
    return np.asarray(image * gone), looks


def _speckle(
    image: Image, scanner: Scanner, looks: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    columns = image.shape[1]
    contrast = scanner.contrast * uniform(rng, 0.88, 1.12)
    floor = scanner.floor * uniform(rng, 0.7, 1.3)
    # The display is logarithmic: multiplicative speckle on a power scale of two decades, a
    # detector floor that is itself speckled, then the logarithm.
    power = np.power(np.float32(10.0), 2.2 * image) - 1.0
    grain = rng.standard_gamma(looks, image.shape, dtype=np.float32) / np.float32(looks)
    sigma = scanner.grain * columns / 384
    soft = cv2.GaussianBlur(grain, (0, 0), sigma * 0.7, sigmaY=sigma * 0.5)
    grain = np.maximum(1.0 + (soft - 1.0) * np.float32(1.5), 0.02)
    dark = rng.standard_gamma(1.2, image.shape, dtype=np.float32) / np.float32(1.2)
    signal = power * grain + np.float32(10 ** (2.2 * floor) - 1.0) * dark
    shown = np.log10(1.0 + signal) / np.float32(2.2) * contrast
    return np.asarray(np.clip(shown * 255.0 + 0.5, 0.0, 255.0), dtype=np.uint8)
