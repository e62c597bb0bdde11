"""Paint the healthy fundus of one eye as one camera would see it, and let the findings add their signs."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from .anatomy import Eye
from .canvas import Canvas, Image, View, noise_field
from .fundus_signs import DEEP, SUPERFICIAL, Sign, foveal_reflex_loss, vein_occlusion
from .streams import stream, uniform
from .vessels import Vessel


def paint_fundus(
    eye: Eye, findings: Mapping[str, float], view: View, key: tuple[int, ...], side: str, scan: int
) -> Image:
    """Paint the reflectance of a right eye.

    Args:
        eye: the anatomy.
        findings: label code -> severity.
        view: where the camera looks.
        key: (seed, patient); with `side` it names the streams of the eye, with `scan` of the exposure.
        side: "R" or "L" (names streams only; the caller mirrors).
        scan: exposure number.

    Returns:
        float32 RGB [work, work, 3], before camera and field of view.
    """
    seed, *path = key
    canvas = Canvas(view, eye.colour)
    texture = stream(seed, *path, side, scan, "texture")
    _paint_background(canvas, eye, texture)
    _paint_disc(canvas, eye, stream(seed, *path, side, "disc"))
    _paint_sheen(canvas, eye, stream(seed, *path, side, "sheen"))
    _paint_macula(canvas, eye, stream(seed, *path, side, "macula"), foveal_reflex_loss(findings))
    _apply(DEEP, canvas, eye, findings, seed, path, side)
    tree = list(eye.vessels)
    if "RVO" in findings:
        tree = vein_occlusion(tree, findings["RVO"], stream(seed, *path, side, "RVO"))
    _paint_vessels(canvas, tree)
    _apply(SUPERFICIAL, canvas, eye, findings, seed, path, side)
    return canvas.rgb


def _apply(
    signs: Mapping[str, Sign],
    canvas: Canvas,
    eye: Eye,
    findings: Mapping[str, float],
    seed: int,
    path: list[int],
    side: str,
) -> None:
    for code, sign in signs.items():
        if code in findings:
            sign(canvas, eye, findings[code], stream(seed, *path, side, code))


def _paint_background(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    shape = canvas.x.shape
    mottle = 0.05 * noise_field(rng, shape, 5) + 0.030 * noise_field(rng, shape, 22)
    grain = 0.020 * noise_field(rng, shape, 110)
    canvas.absorb(mottle + grain, (0.55, 1.0, 0.9))
    # Choroidal vessels shine through where there is little pigment: ridged noise, stretched
    # along the radius from the posterior pole, absent under the macula.
    radius = np.hypot(canvas.x, canvas.y)
    angle = np.arctan2(canvas.y, canvas.x)
    grid = rng.standard_normal((9, 40)).astype(np.float32)
    polar_x = (angle * np.float32(36 / (2 * np.pi)) + np.float32(20)).astype(np.float32)
    polar_y = (radius * np.float32(0.22) + 1).astype(np.float32)
    warp = noise_field(rng, shape, 14)
    fine = cv2.resize(grid, (40 * 6, 9 * 6), interpolation=cv2.INTER_CUBIC)
    ridged = cv2.remap(
        fine,
        (polar_x + 0.45 * warp) * 6,
        (polar_y + 0.25 * warp) * 6,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    choroid = np.clip(1.0 - 1.6 * np.abs(ridged), -0.6, 1.0).astype(np.float32)
    fade = np.clip((radius - 3.0) / 7.0, 0.0, 1.0)
    canvas.absorb(-0.20 * np.float32(eye.tessellation) * choroid * fade, (0.8, 1.1, 0.7))


def _paint_disc(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    x, y = eye.disc
    rx, ry = eye.disc_radii
    if eye.atrophy > 0.15:
        crescent = canvas.shape(
            rng,
            (x - 0.8 * eye.atrophy, y),
            (rx + eye.atrophy, ry + 0.3 * eye.atrophy),
            rough=0.06,
            soft=0.22,
        )
        if crescent:
            canvas.blend(0.45 * crescent[0], (0.95, 0.74, 0.50), crescent[1])
    halo = np.exp(-((canvas.distance(x, y) / np.float32(rx * 1.7)) ** 2))
    canvas.add(0.10 * halo, (1.0, 0.85, 0.5))
    rim = canvas.shape(rng, (x, y), (rx, ry), angle=eye.disc_tilt, rough=0.03, soft=0.22)
    if rim:
        warm = uniform(rng, 0.0, 1.0)
        canvas.blend(0.90 * rim[0], (1.02, 0.66 + 0.10 * warm, 0.36 + 0.12 * warm), rim[1])
    cup = canvas.shape(
        rng,
        (x + 0.12 * rx, y + 0.04 * ry),
        (rx * eye.cup, ry * eye.cup),
        rough=0.05,
        soft=0.55,
    )
    if cup:
        canvas.blend(0.85 * cup[0], (1.12, 0.97, 0.68), cup[1])


def _paint_sheen(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    if eye.sheen <= 0.02:
        return
    # Nerve-fibre bundles leave the disc towards the upper and lower temporal arcades.
    dx, dy = canvas.x - np.float32(eye.disc[0]), canvas.y - np.float32(eye.disc[1])
    reach = np.hypot(dx, dy)
    bundle = np.abs(dy) / np.sqrt(np.maximum(0.3, -dx) + 0.6)
    band = np.exp(-(((bundle - 1.6) / 0.75) ** 2)) * np.exp(-(((reach - 6.0) / 6.0) ** 2))
    lanes = rng.standard_normal((1, 90)).astype(np.float32)
    lane = np.clip((np.sign(dy) * bundle + 4.0) * 11.0, 0, 88).astype(np.float32)
    striae = cv2.remap(lanes, lane, np.zeros_like(lane), cv2.INTER_LINEAR)
    glow = np.float32(0.10 * eye.sheen) * band * (1.0 + 0.45 * striae)
    canvas.add(np.maximum(glow, 0.0).astype(np.float32), (0.75, 1.0, 0.85))


def _paint_macula(canvas: Canvas, eye: Eye, rng: np.random.Generator, reflex_loss: float) -> None:
    radius = canvas.distance(0.0, 0.0)
    wide = np.exp(-((radius / np.float32(2.1 * eye.fovea_radius)) ** 2))
    deep = np.exp(-((radius / np.float32(0.75 * eye.fovea_radius)) ** 2))
    depth = np.float32(eye.fovea_depth)
    canvas.absorb(depth * (0.55 * wide + 0.75 * deep), (0.62, 1.0, 0.9))
    spot = np.exp(-((radius / 0.35) ** 2))
    reflex = eye.sheen * uniform(rng, 0.2, 1.0) * (1.0 - reflex_loss)
    ring = np.exp(-(((radius - 2.6) / 0.45) ** 2))
    canvas.add(np.float32(reflex) * (0.28 * spot + 0.045 * ring), (1.0, 0.95, 0.7))


def _paint_vessels(canvas: Canvas, tree: list[Vessel]) -> None:
    veins = draw_vessels(canvas.view, [v for v in tree if v.vein], 1.0)
    arteries = draw_vessels(canvas.view, [v for v in tree if not v.vein], 1.0)
    reflex = draw_vessels(canvas.view, [v for v in tree if v.widths[0] > 0.24], 0.28)
    soft = max(0.35, 0.045 * canvas.view.scale)
    veins, arteries = (cv2.GaussianBlur(m, (0, 0), soft) for m in (veins, arteries))
    canvas.absorb(arteries, (0.16, 0.60, 0.50))
    canvas.absorb(veins, (0.34, 0.86, 0.62))
    canvas.add(0.075 * reflex, (1.0, 0.75, 0.55))


def draw_vessels(view: View, tree: list[Vessel], width: float) -> Image:
    """Rasterise vessels at twice the work size in short pieces of constant width, then average down."""
    side = view.work * 2
    mask = np.zeros((side, side), np.uint8)
    piece = 5
    for vessel in tree:
        pixels: NDArray[np.float64] = view.to_pixels(vessel.points) * 2.0 + 0.5
        if (pixels.max(axis=0) < 0).any() or (pixels.min(axis=0) > side).any():
            continue
        fixed = np.round(pixels * 16).astype(np.int32)
        for start in range(0, len(fixed) - 1, piece):
            chunk = fixed[start : start + piece + 1]
            thick = float(vessel.widths[start]) * view.scale * 2.0 * width
            # Below one pixel the line keeps its width and loses contrast instead.
            level = int(255 * min(1.0, max(0.25, thick / 1.6)))
            cv2.polylines(mask, [chunk], False, level, max(1, round(thick)), cv2.LINE_AA, 4)
    small = cv2.resize(mask, (view.work, view.work), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32) * np.float32(1 / 255))
