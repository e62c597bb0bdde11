"""The retinal vessel tree in degrees of visual angle: arcades, branches, tortuosity, congestion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .streams import normal, uniform

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Vessel:
    """One unbranched stretch of vessel."""

    points: Float  # [n, 2] x, y in degrees; fovea at the origin, nasal is +x, y points down
    widths: Float  # [n] degrees
    vein: bool


def grow_tree(rng: np.random.Generator, disc: tuple[float, float], calibre: float) -> list[Vessel]:
    """Grow the vessels of a right eye.

    Args:
        rng: the eye's vessel stream.
        disc: centre of the optic disc in degrees.
        calibre: width factor, about 0.85 .. 1.15.

    Returns:
        Vessels from large to small; arteries and veins of the four arcades with their branches.
    """
    tree: list[Vessel] = []
    reach = {-1: normal(rng, 11.6, 1.5), 1: normal(rng, 11.6, 1.5)}
    wander = abs(normal(rng, 0.24, 0.09))
    for up in (-1, 1):
        for vein in (True, False):
            width = calibre * (uniform(rng, 0.37, 0.48) if vein else uniform(rng, 0.27, 0.34))
            spread = reach[up] * (1.0 + (0.05 if vein else -0.07) + normal(rng, 0.0, 0.09))
            main = _temporal(rng, disc, up, spread, width, wander, vein)
            tree.append(main)
            tree += _branches(rng, main, up, depth=0)
            main = _nasal(rng, disc, up, width * uniform(rng, 0.6, 0.85), wander, vein)
            tree.append(main)
            tree += _branches(rng, main, up, depth=1)
    for _ in range(int(rng.integers(1, 4))):
        tree.append(_papillomacular(rng, disc, calibre))
    return tree


def _wobble(rng: np.random.Generator, count: int, amplitude: float, step: float) -> Float:
    # Smooth displacement along a vessel: a few sines of 4-13 degrees wavelength.
    along = np.arange(count) * step
    total = np.zeros(count)
    for _ in range(3):
        wavelength = uniform(rng, 3.5, 13.0)
        total += np.sin(2 * np.pi * (along / wavelength + rng.random())) * rng.random()
    return np.asarray(amplitude * total * np.minimum(1.0, along / 3.0))


def _displace(points: Float, shift: Float) -> Float:
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    return np.asarray(points + shift[:, None] * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1))


def _temporal(
    rng: np.random.Generator,
    disc: tuple[float, float],
    up: int,
    spread: float,
    width: float,
    wander: float,
    vein: bool,
) -> Vessel:
    count = 64
    along = np.linspace(0.0, 1.0, count)
    run = uniform(rng, 33.0, 40.0) * along**1.6
    # The arcades leave the disc steeply, run around the macula and bend back towards the
    # horizontal raphe beyond it.
    bend = 1.0 - uniform(rng, -0.15, 0.75) * (run / 30.0) ** 2
    rise = spread * np.tanh((run / uniform(rng, 5.5, 8.5)) ** 0.72) * bend
    start_x = disc[0] + normal(rng, 0.5, 0.3)
    points = np.stack([start_x - run, disc[1] * (1 - along) + up * rise], axis=1)
    points = _displace(points, _wobble(rng, count, wander * (1.0 if vein else 1.25), 0.7))
    return Vessel(points, width * (1.0 - 0.68 * along), vein)


def _nasal(
    rng: np.random.Generator,
    disc: tuple[float, float],
    up: int,
    width: float,
    wander: float,
    vein: bool,
) -> Vessel:
    heading = up * np.deg2rad(uniform(rng, 50.0, 80.0))
    turn = -up * np.deg2rad(uniform(rng, 0.5, 1.6))
    start = (disc[0] + normal(rng, 0.6, 0.2), disc[1] + 0.3 * up)
    points = _walk(start, heading, turn, 40, 0.55)
    points = _displace(points, _wobble(rng, 40, wander, 0.55))
    return Vessel(points, width * np.linspace(1.0, 0.45, 40), vein)


def _walk(
    start: tuple[float, float], heading: float, turn: float | Float, count: int, step: float
) -> Float:
    angles = heading + np.cumsum(np.broadcast_to(turn, (count,)))
    moves = step * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    return np.asarray(np.asarray(start)[None] + path[:count])


def _branches(rng: np.random.Generator, main: Vessel, up: int, depth: int) -> list[Vessel]:
    found: list[Vessel] = []
    count = len(main.points)
    gap = 6.5 if depth == 0 else 10.0
    place = 6.0 + float(rng.random()) * gap
    outward = bool(rng.random() < 0.5)
    while place < count - 6:
        index = int(place)
        direction = main.points[index + 1] - main.points[index - 1]
        heading = float(np.arctan2(direction[1], direction[0]))
        parent = float(main.widths[index])
        side = 1.0 if outward else -1.0
        # For a vessel that runs temporally above the fovea, outward is a turn to the right.
        turn = side * (-up) * (1.0 if direction[0] < 0 else -1.0)
        heading += turn * np.deg2rad(uniform(rng, 24.0, 58.0))
        length = int(rng.integers(18, 46)) if depth == 0 else int(rng.integers(8, 22))
        # Branches straighten back along their parent, and wander.
        bend = -turn * np.deg2rad(uniform(rng, -0.9, 1.5)) + np.deg2rad(7.0) * _wobble(
            rng, length, 1.0, 0.45
        )
        points = _walk(
            (float(main.points[index, 0]), float(main.points[index, 1])),
            heading,
            bend,
            length,
            0.45,
        )
        points = _keep_half(_avoid_fovea(points), up)
        if len(points) >= 5:
            width = parent * uniform(rng, 0.38, 0.78)
            taper = np.linspace(1.0, 0.35, len(points))
            branch = Vessel(points, np.maximum(width * taper, 0.04), main.vein)
            found.append(branch)
            if depth < 2:
                found += _branches(rng, branch, up, depth + 1)
        outward = not outward if rng.random() < 0.7 else outward
        place += gap * uniform(rng, 0.6, 1.5)
    return found


def _avoid_fovea(points: Float) -> Float:
    # No vessel enters the foveal avascular zone.
    near = np.flatnonzero(np.hypot(points[:, 0], points[:, 1]) < 1.6)
    return points[: int(near[0])] if len(near) else points


def _keep_half(points: Float, up: int) -> Float:
    # The halves of the temporal retina are drained apart: nothing crosses the horizontal raphe.
    across = np.flatnonzero((points[:, 1] * up < 0.4) & (points[:, 0] < 11.0))
    return points[: int(across[0])] if len(across) else points


def _papillomacular(rng: np.random.Generator, disc: tuple[float, float], calibre: float) -> Vessel:
    heading = np.pi + normal(rng, 0.0, 0.45)
    points = _walk((disc[0] - 1.5, disc[1]), heading, normal(rng, 0.0, 0.02), 26, 0.45)
    points = _avoid_fovea(_displace(points, _wobble(rng, 26, 0.15, 0.45)))
    widths = calibre * uniform(rng, 0.10, 0.18) * np.linspace(1.0, 0.4, len(points))
    return Vessel(points, np.maximum(widths, 0.05), bool(rng.random() < 0.5))


def congest(tree: list[Vessel], rng: np.random.Generator, up: int, severity: float) -> list[Vessel]:
    """Dilate and twist the veins of one half of the retina, as behind a vein occlusion.

    Args:
        tree: vessels of the eye.
        rng: stream of the finding.
        up: -1 superior, +1 inferior, 0 both halves (central occlusion).
        severity: (0, 1].

    Returns:
        A new list; arteries and the other half are unchanged.
    """
    changed = []
    for vessel in tree:
        inside = up == 0 or float(np.mean(vessel.points[:, 1])) * up > 0
        if not (vessel.vein and inside):
            changed.append(vessel)
            continue
        count = len(vessel.points)
        phase = 2 * np.pi * rng.random()
        wave = np.sin(np.arange(count) * 1.05 + phase) * np.minimum(1.0, np.arange(count) / 6.0)
        points = _displace(vessel.points, 0.38 * severity * wave)
        changed.append(
            replace(vessel, points=points, widths=vessel.widths * (1.0 + 0.75 * severity))
        )
    return changed
