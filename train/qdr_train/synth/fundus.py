"""Paint the fundus of one eye as one camera would see it; the findings add their signs."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from .anatomy import Eye, sample_site
from .canvas import Canvas, Image, View, blurred, noise_field
from .fundus_signs import DEEP, SUPERFICIAL, Sign, foveal_reflex_loss, vein_occlusion
from .streams import EyeStreams, uniform
from .vessels import Vessel


def paint_fundus(
    eye: Eye, findings: Mapping[str, float], view: View, streams: EyeStreams, scan: int
) -> Image:
    """Paint the reflectance of a right eye (the caller mirrors a left one).

    Args:
        eye: the anatomy.
        findings: label code -> severity.
        view: where the camera looks.
        streams: the eye's random streams.
        scan: exposure number.

    Returns:
        float32 RGB [work, work, 3], before camera and field of view.
    """
    canvas = Canvas(view, eye.colour)
    _paint_background(canvas, eye, streams.open("choroid"), streams.open(scan, "texture"))
    _paint_disc(canvas, eye, streams.open("disc"))
    _paint_sheen(canvas, eye, streams.open("sheen"))
    _paint_macula(canvas, eye, streams.open("macula"), foveal_reflex_loss(findings))
    _apply(DEEP, canvas, findings, streams)
    tree = list(eye.vessels)
    if "RVO" in findings:
        tree = vein_occlusion(tree, findings["RVO"], streams.open("RVO"))
    _paint_vessels(canvas, tree)
    _apply(SUPERFICIAL, canvas, findings, streams)
    return canvas.rgb


def _apply(
    signs: Mapping[str, Sign], canvas: Canvas, findings: Mapping[str, float], streams: EyeStreams
) -> None:
    for code, sign in signs.items():
        if code in findings:
            sign(canvas, findings[code], sample_site(streams, code), streams.open(code))


def _paint_background(
    canvas: Canvas, eye: Eye, choroid_rng: np.random.Generator, rng: np.random.Generator
) -> None:
    shape = canvas.x.shape
    mottle = 0.05 * noise_field(rng, shape, 5) + 0.030 * noise_field(rng, shape, 22)
    grain = 0.020 * noise_field(rng, shape, 110)
    canvas.absorb(mottle + grain, (0.55, 1.0, 0.9))
    # The posterior pole reflects more than the periphery, and the nasal side most.
    pole = np.exp(-(((canvas.x - 9.0) / 13.0) ** 2 + (canvas.y / 11.0) ** 2))
    canvas.absorb((-0.16 * pole).astype(np.float32), (0.8, 1.1, 0.8))
    radius = np.hypot(canvas.x, canvas.y)
    fade = np.clip((radius - 2.0) / 9.0, 0.15, 1.0)
    choroid = _choroidal_vessels(canvas.view, choroid_rng) - np.float32(0.35)
    canvas.absorb(
        (-0.34 * np.float32(eye.tessellation) * choroid * fade).astype(np.float32),
        (0.65, 1.15, 0.7),
    )


def _choroidal_vessels(view: View, rng: np.random.Generator) -> Image:
    # Broad, crowded bands that run from the posterior pole outwards: seen where there is little
    # pigment. Half resolution is enough, they lie deep and out of focus.
    side = view.work // 2
    mask = np.zeros((side, side), np.uint8)
    for _ in range(110):
        angle, start = uniform(rng, 0.0, 2 * np.pi), uniform(rng, 0.0, 17.0)
        heading = angle + np.cumsum(0.20 * rng.standard_normal(14))
        steps = 0.9 * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        place = np.array([4.0 + start * np.cos(angle), start * np.sin(angle)])
        pixels = view.to_pixels(place + np.cumsum(steps, axis=0)) * 0.5
        thick = max(1, round(uniform(rng, 0.35, 0.95) * view.scale * 0.5))
        line = np.round(pixels * 16).astype(np.int32)
        cv2.polylines(mask, [line], False, int(rng.integers(110, 255)), thick, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.16 * view.scale * 0.5))
    large = cv2.resize(soft, (view.work, view.work), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large.astype(np.float32) * np.float32(1 / 255))


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
    canvas.add(0.09 * halo, (1.0, 0.85, 0.5))
    rim = canvas.shape(rng, (x, y), (rx, ry), angle=eye.disc_tilt, rough=0.03, soft=0.22)
    if rim:
        warm = uniform(rng, 0.0, 1.0)
        canvas.blend(0.90 * rim[0], (1.06, 0.60 + 0.14 * warm, 0.34 + 0.16 * warm), rim[1])
    cup = canvas.shape(
        rng,
        (x + 0.12 * rx, y + 0.04 * ry),
        (rx * eye.cup, ry * eye.cup),
        rough=0.05,
        soft=0.55,
    )
    if cup:
        canvas.blend(0.92 * cup[0], (1.20, 1.06, 0.76), cup[1])


def _paint_sheen(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    if eye.sheen <= 0.02:
        return
    # Nerve-fibre bundles leave the disc towards the upper and lower temporal arcades.
    dx, dy = canvas.x - np.float32(eye.disc[0]), canvas.y - np.float32(eye.disc[1])
    reach = np.hypot(dx, dy)
    bundle = np.abs(dy) / np.sqrt(np.maximum(0.3, -dx) + 0.6)
    band = np.exp(-(((bundle - 1.6) / 0.75) ** 2)) * np.exp(-(((reach - 6.0) / 6.0) ** 2))
    band *= np.clip(-dx / 2.0, 0.0, 1.0)  # none on the nasal side
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
    canvas.absorb(depth * (0.60 * wide + 0.85 * deep), (0.58, 1.0, 0.9))
    spot = np.exp(-((radius / 0.35) ** 2))
    reflex = eye.sheen * uniform(rng, 0.2, 1.0) * (1.0 - reflex_loss)
    ring = np.exp(-(((radius - 2.6) / 0.45) ** 2))
    canvas.add(np.float32(reflex) * (0.28 * spot + 0.045 * ring), (1.0, 0.95, 0.7))


def _paint_vessels(canvas: Canvas, tree: list[Vessel]) -> None:
    veins = draw_vessels(canvas.view, [v for v in tree if v.vein], 1.0)
    arteries = draw_vessels(canvas.view, [v for v in tree if not v.vein], 1.0)
    reflex = draw_vessels(canvas.view, [v for v in tree if v.widths[0] > 0.24], 0.28)
    soft = max(0.35, 0.045 * canvas.view.scale)
    canvas.absorb(blurred(arteries, soft), (0.10, 0.46, 0.38))
    canvas.absorb(blurred(veins, soft), (0.27, 0.72, 0.48))
    canvas.add(0.075 * reflex, (1.0, 0.75, 0.55))


def draw_vessels(view: View, tree: list[Vessel], width: float) -> Image:
    """Rasterise vessels at twice the work size, in short pieces of one width, then average."""
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
            level = int(255 * min(1.0, max(0.22, thick / (0.22 * view.scale * 2.0))))
            cv2.polylines(mask, [chunk], False, level, max(1, round(thick)), cv2.LINE_AA, 4)
    small = cv2.resize(mask, (view.work, view.work), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32) * np.float32(1 / 255))
