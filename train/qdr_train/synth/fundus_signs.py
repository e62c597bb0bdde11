"""What each label looks like in a fundus photograph.

DEEP signs lie under the retinal vessels, SUPERFICIAL signs over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from .anatomy import Site
from .canvas import Canvas, Image, noise_field
from .streams import uniform
from .vessels import Vessel, congest

Sign = Callable[[Canvas, float, Site, np.random.Generator], None]

BLOOD = (0.42, 1.25, 1.0)
EXUDATE = (1.08, 0.95, 0.50)
COTTON = (0.98, 0.92, 0.72)
DISC = (15.4, -1.4)  # the mean place; fibres and veins fan out from it


def _spots(
    rng: np.random.Generator, count: int, centre: tuple[float, float], spread: float
) -> NDArray[np.float64]:
    return np.asarray(centre) + spread * rng.standard_normal((count, 2)).clip(-2.2, 2.2)


def _drusen(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Soft yellow dots, largest and most confluent around the fovea.
    count = int(32 + 60 * severity)
    points = _spots(rng, count, (0.6 * site[0], 0.5 * site[1]), 3.1)
    radii = (0.24 + 0.17 * severity) * np.exp(0.45 * rng.standard_normal(count).clip(-2, 2))
    strength = rng.uniform(0.45, 1.0, count)
    mask = canvas.dots(points, radii, strength=strength, blur=0.12)
    canvas.blend((0.36 + 0.46 * severity) * mask, (1.02, 0.84, 0.44))
    if severity > 0.75:
        # Advanced dry disease: a patch of atrophy with a sharp pale edge.
        patch = canvas.shape(rng, (1.0 * site[0], 0.8 * site[1]), (1.7, 1.4), rough=0.3, soft=0.25)
        if patch:
            canvas.blend(0.38 * patch[0], (0.98, 0.72, 0.48), patch[1])


def _wet_lesion(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Dirty grey-yellow fibrovascular tissue under the macula with blood along its border.
    centre = (0.8 * site[0], 0.7 * site[1])
    size = 1.9 + 2.4 * severity
    tissue = canvas.shape(rng, centre, (size, 0.8 * size), rough=0.25, soft=0.8)
    mottle = np.clip(1.0 + 0.35 * noise_field(rng, canvas.x.shape, 30), 0.2, 1.4)
    if tissue:
        mask, where = tissue
        canvas.blend(
            np.clip((0.40 + 0.30 * severity) * mask * mottle[where], 0, 0.9),
            (0.66, 0.57, 0.34),
            where,
        )
    for _ in range(int(2 + 3 * severity)):
        angle = uniform(rng, 0.0, 2 * np.pi)
        reach = size * uniform(rng, 0.55, 1.05)
        place = (centre[0] + reach * np.cos(angle), centre[1] + 0.8 * reach * np.sin(angle))
        long = uniform(rng, 0.7, 1.0 + 1.3 * severity)
        bleed = canvas.shape(
            rng, place, (long, 0.55 * long), angle=angle + np.pi / 2, rough=0.4, soft=0.6
        )
        if bleed:
            mask, where = bleed
            canvas.absorb((0.55 + 0.45 * severity) * mask * mottle[where], BLOOD, where)


def _grey_membrane(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # New vessels under the retina: a grey-green plaque with a darker pigmented rim.
    centre = (1.1 * site[0], 0.9 * site[1])
    size = 1.4 + 1.5 * severity
    state = rng.bit_generator.state
    rim = canvas.shape(rng, centre, (1.5 * size, 1.3 * size), rough=0.22, soft=0.7)
    rng.bit_generator.state = state  # the same outline, smaller
    core = canvas.shape(rng, centre, (size, 0.88 * size), rough=0.22, soft=0.9)
    mottle = np.clip(1.0 + 0.25 * noise_field(rng, canvas.x.shape, 34), 0.3, 1.3)
    strength = 0.38 + 0.48 * severity
    if rim and core:
        canvas.absorb(0.55 * strength * rim[0], (1.0, 0.55, 0.5), rim[1])
        canvas.blend(
            np.clip(strength * core[0] * mottle[core[1]], 0, 0.9), (0.36, 0.39, 0.24), core[1]
        )


def _serous_dome(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # A blister of clear fluid: hardly a change of hue, a faint halo where its edge turns the light.
    centre = (0.8 * site[0], 0.6 * site[1])
    size = 2.8 + 2.2 * severity
    away = canvas.distance(*centre) / np.float32(size)
    canvas.absorb(0.10 * severity * np.exp(-(away**6)), (0.5, 1.0, 1.2))
    canvas.add(0.035 * severity * np.exp(-(((away - 1.0) / 0.10) ** 2)), (1.0, 0.9, 0.6))


def _epithelial_dome(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    centre = (1.6 * site[0], 0.5 * site[1])
    size = 1.1 + 0.9 * severity
    away = canvas.distance(*centre) / np.float32(size)
    canvas.add(0.035 * severity * np.exp(-(away**4)), (1.0, 0.72, 0.3))
    canvas.absorb(0.05 * severity * np.exp(-(((away - 1.05) / 0.14) ** 2)), (1.0, 1.0, 1.0))


def _clear_fluid(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Thickened, slightly greyer macula; the foveal shade fades. Nearly invisible without stereo.
    away = canvas.distance(0.8 * site[0], 0.6 * site[1])
    mask = np.exp(-((away / np.float32(2.2 + 1.5 * severity)) ** 2))
    canvas.add(0.028 * severity * mask, (0.7, 1.0, 0.9))


def _diabetic_spots(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Microaneurysms, dot and blot haemorrhages all over the posterior pole.
    spread = 7.0
    count = int(14 + 34 * severity)
    points = _spots(rng, count, (2.0, 0.0), spread)
    dots = canvas.dots(points, rng.uniform(0.12, 0.24, count))
    count = int(5 + 17 * severity)
    points = _spots(rng, count, (2.0, 0.0), spread)
    radii = rng.uniform(0.28, 0.40 + 0.45 * severity, count)
    turns = rng.uniform(0.0, np.pi, count)
    blots = canvas.dots(
        points, radii, strength=rng.uniform(0.5, 1, count), stretch=1.45, angles=turns, blur=0.10
    )
    canvas.absorb(np.maximum(0.85 * dots, (0.6 + 0.4 * severity) * blots), BLOOD)
    count = int(rng.integers(1, 3) + 4 * severity)
    angles = rng.uniform(0.0, 2 * np.pi, count)
    reach = rng.uniform(5.5, 11.0, count)
    for angle, away in zip(angles, reach, strict=True):
        place = (5.0 + away * np.cos(angle), away * np.sin(angle))
        size = uniform(rng, 0.55, 1.15)
        spot = canvas.shape(
            rng, place, (size, 0.62 * size), angle=uniform(rng, 0, np.pi), rough=0.3, soft=0.9
        )
        if spot:
            canvas.blend((0.45 + 0.35 * severity) * spot[0], COTTON, spot[1])


def _hard_exudates(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Waxy yellow lipid with sharp edges, in rings around leaking vessels and in a macular star.
    points: list[NDArray[np.float64]] = []
    for _ in range(int(2 + rng.integers(0, 2) + 1.6 * severity)):
        angle = uniform(rng, 0.0, 2 * np.pi)
        away = uniform(rng, 1.8, 5.0)
        centre = np.array([away * np.cos(angle), away * np.sin(angle)])
        count = int(10 + 18 * severity)
        turn = rng.uniform(0.0, 2 * np.pi * uniform(rng, 0.45, 1.0), count) + angle
        ring = uniform(rng, 0.8, 2.0) + 0.38 * rng.standard_normal(count)
        points.append(centre + np.stack([ring * np.cos(turn), ring * np.sin(turn)], axis=1))
    place = np.concatenate(points)
    radii = (0.13 + 0.07 * severity) * np.exp(0.5 * rng.standard_normal(len(place)).clip(-2, 2))
    strength = rng.uniform(0.55, 1.0, len(place))
    angles = rng.uniform(0, np.pi, len(place))
    mask = canvas.dots(place, radii, strength=strength, stretch=1.35, angles=angles, blur=0.03)
    canvas.blend((0.60 + 0.38 * severity) * mask, EXUDATE)


def _cellophane(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    # A membrane on the retina: patchy glistening sheen and fine folds towards its centre.
    centre = (1.3 * site[0], 1.0 * site[1])
    size = 2.8 + 1.8 * severity
    patch = canvas.shape(rng, centre, (size, 0.8 * size), rough=0.25, soft=0.9)
    grid = rng.standard_normal((6, 48)).astype(np.float32)
    bumps = noise_field(rng, canvas.x.shape, 26)
    if patch is None:
        return
    mask, where = patch
    dx, dy = canvas.x[where] - np.float32(centre[0]), canvas.y[where] - np.float32(centre[1])
    # Folds run towards the centre of the pull: noise that is long along the radius.
    lane = (np.arctan2(dy, dx) / np.pi + 1.0) * 20 + 2 + 1.2 * bumps[where]
    reach = np.hypot(dx, dy)
    ridged = cv2.remap(
        cv2.resize(grid, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC),
        lane.astype(np.float32) * 8,
        (reach * np.float32(5.5 * 8 / size)).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    striae = np.clip(1.0 - 2.2 * np.abs(ridged), 0.0, 1.0) * np.clip(reach / 1.2, 0.0, 1.0)
    sheen = mask * (0.30 + 0.40 * np.maximum(bumps[where], 0.0) + 0.45 * striae)
    canvas.add(((0.05 + 0.15 * severity) * sheen).astype(np.float32), (0.85, 1.0, 0.95), where)


def _flame_bleeding(canvas: Canvas, severity: float, site: Site, rng: np.random.Generator) -> None:
    up = occluded_half(rng)
    count = int((90 + 120 * severity) * (1.7 if up == 0 else 1.0))
    x, y = DISC
    reach = rng.uniform(3.5, 21.0, count)
    if up == 0:
        angle = rng.uniform(0.0, 2 * np.pi, count)
    else:
        # The drained sector: from the arcade towards the macula, fanning out from the disc.
        angle = np.pi + up * -np.deg2rad(rng.uniform(12.0, 78.0, count))
    points = np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)
    points += 0.5 * rng.standard_normal((count, 2))
    # Flames follow the nerve fibres, which run along the radius from the disc.
    turns = angle + 0.22 * rng.standard_normal(count) + canvas.view.rotation
    radii = rng.uniform(0.12, 0.20 + 0.18 * severity, count)
    flames = canvas.dots(
        points,
        0.85 * radii,
        strength=rng.uniform(0.45, 1.0, count),
        stretch=uniform(rng, 4.0, 5.0),
        angles=turns,
        blur=0.12,
    )
    blots = canvas.dots(
        points[: count // 3] + 0.9, radii[: count // 3] * 1.9, stretch=1.2, blur=0.06
    )
    # Blood spread thin between the flames dims the whole sector.
    spread = canvas.dots(points, np.full(count, 1.3), strength=np.full(count, 0.5), blur=1.0)
    canvas.absorb((0.15 + 0.35 * severity) * spread, BLOOD)
    drops: Image = np.maximum(flames, blots)
    canvas.absorb((0.65 + 0.35 * severity) * drops, BLOOD)
    for _ in range(int(1 + 3 * severity)):
        index = int(rng.integers(0, count))
        size = uniform(rng, 0.5, 1.1)
        spot = canvas.shape(
            rng,
            (float(points[index, 0]), float(points[index, 1])),
            (size, 0.65 * size),
            rough=0.3,
            soft=0.9,
        )
        if spot:
            canvas.blend((0.4 + 0.3 * severity) * spot[0], COTTON, spot[1])


def occluded_half(rng: np.random.Generator) -> int:
    """The half an occluded vein drained: -1 superior (commonest), +1 inferior, 0 both."""
    pick = rng.random()
    return -1 if pick < 0.48 else (1 if pick < 0.80 else 0)


def vein_occlusion(tree: list[Vessel], severity: float, rng: np.random.Generator) -> list[Vessel]:
    """Vessels of an eye with a vein occlusion; the stream is the finding's own, from its start."""
    return congest(tree, rng, occluded_half(rng), severity)


def foveal_reflex_loss(findings: Mapping[str, float]) -> float:
    """How much of the foveal light reflex macular disease takes away, 0 .. 1."""
    macular = ("AMD", "WAMD", "CSC", "MEM", "FLD", "CNV", "PED")
    return max((findings[code] for code in macular if code in findings), default=0.0)


DEEP: dict[str, Sign] = {
    "PED": _epithelial_dome,
    "CNV": _grey_membrane,
    "WAMD": _wet_lesion,
    "AMD": _drusen,
    "CSC": _serous_dome,
    "FLD": _clear_fluid,
}
SUPERFICIAL: dict[str, Sign] = {
    "RVO": _flame_bleeding,
    "DR": _diabetic_spots,
    "EXU": _hard_exudates,
    "MEM": _cellophane,
}
