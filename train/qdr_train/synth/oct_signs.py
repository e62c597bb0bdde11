"""What each label looks like in an OCT B-scan: it bends, fills or adds to the section."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .anatomy import MM_PER_DEGREE, Site
from .section import Blob, Line, Section
from .streams import normal, uniform

Sign = Callable[[Section, float, Site, np.random.Generator], None]


def _raise_to(line: Line, shape: NDArray[Any]) -> Line:
    return np.maximum(line, shape.astype(np.float32))


def _drusen(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Bumps of the pigment epithelium, grey inside.
    for _ in range(int(4 + 8 * severity)):
        centre = normal(rng, 0.0, 1.25)
        half = uniform(rng, 0.11, 0.17 + 0.16 * severity)
        height = uniform(rng, 28, 45 + 55 * severity)
        section.epithelium_lift = _raise_to(
            section.epithelium_lift, height * section.hump(centre, half, 2.4)
        )
        section.lift_level = np.maximum(
            section.lift_level, 0.52 * section.hump(centre, 2 * half, 4)
        )
        section.ellipsoid = section.ellipsoid * (1 - 0.45 * section.hump(centre, half))


def _wet_lesion(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # A broad, uneven elevation of the epithelium with dense tissue below, breaks in it, and
    # bright material above it.
    centre = 0.8 * site[0] * MM_PER_DEGREE
    half = 0.9 + 0.9 * severity
    uneven = 1.0 + 0.40 * section.ripple(rng, 16)
    lift = (45 + 95 * severity) * section.hump(centre, half, 4) * np.clip(uneven, 0.25, 1.8)
    section.epithelium_lift = _raise_to(section.epithelium_lift, lift)
    section.lift_level = np.maximum(section.lift_level, 0.60 * section.hump(centre, 1.2 * half, 6))
    material = centre + normal(rng, 0.0, 0.35)
    clump = (40 + 85 * severity) * section.hump(material, 0.45 * half, 2.5)
    section.gap = _raise_to(section.gap, clump * np.clip(1 + 0.3 * section.ripple(rng, 24), 0.3, 2))
    section.gap_level = np.maximum(section.gap_level, 0.68 * section.hump(material, 0.6 * half, 6))
    section.ellipsoid = section.ellipsoid * (1 - 0.95 * section.hump(centre, half, 6))
    section.outer_nuclear = section.outer_nuclear * (1 - 0.30 * section.hump(centre, half))


def _new_vessels(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # A spindle of bright tissue on the epithelium with fuzzy borders, shading what is below.
    centre = 1.1 * site[0] * MM_PER_DEGREE
    half = 0.42 + 0.45 * severity
    body = (60 + 90 * severity) * section.hump(centre, half, 2.2)
    section.gap = _raise_to(section.gap, body)
    section.gap_level = np.maximum(section.gap_level, 0.82 * section.hump(centre, 1.3 * half, 6))
    section.ellipsoid = section.ellipsoid * (1 - 0.9 * section.hump(centre, half, 4))
    section.epithelium_lift = _raise_to(
        section.epithelium_lift, 20 * severity * section.hump(centre, 0.7 * half)
    )


def _serous_dome(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # One large blister of clear fluid under the retina, outer segments hanging from its roof.
    centre = 0.8 * site[0] * MM_PER_DEGREE
    half = 1.15 + 0.85 * severity
    dome = (95 + 175 * severity) * section.dome(centre, half)
    section.gap = _raise_to(section.gap, dome)
    section.photoreceptor = section.photoreceptor + 18 * severity * section.hump(centre, half, 4)
    section.choroid = section.choroid * 1.25


def _epithelial_dome(
    section: Section, severity: float, site: Site, rng: np.random.Generator
) -> None:
    # A steep smooth dome of the pigment epithelium, dark inside, Bruch's membrane flat below it.
    centre = 1.6 * site[0] * MM_PER_DEGREE
    half = 0.42 + 0.40 * severity
    dome = (90 + 150 * severity) * np.sqrt(section.dome(centre, half))
    inside = section.dome(centre, half) > 0
    section.epithelium_lift = _raise_to(section.epithelium_lift, dome)
    section.lift_level = np.where(inside, np.float32(0.16), section.lift_level).astype(np.float32)


def _fluid(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Dark pockets: cysts in the nuclear layers that swell the retina, often a shallow cleft below.
    centre = 0.8 * site[0] * MM_PER_DEGREE
    swell = (30 + 75 * severity) * section.hump(centre, 1.1)
    section.outer_nuclear = section.outer_nuclear + 0.65 * swell
    section.inner_nuclear = section.inner_nuclear + 0.35 * swell
    for _ in range(int(5 + 8 * severity)):
        outer = rng.random() < 0.6
        near = normal(rng, centre, 0.38 if outer else 0.75)
        tall = uniform(rng, 22, 36 + 44 * severity) * (1.0 if outer else 0.6)
        wide = uniform(rng, 0.06, 0.10 + 0.11 * severity)
        depth = uniform(rng, 0.62, 0.76) if outer else uniform(rng, 0.36, 0.48)
        section.blobs.append(Blob(near, depth, wide, tall, 0.035))
    if rng.random() < 0.45:
        cleft = (22 + 38 * severity) * section.dome(
            normal(rng, centre, 0.3), uniform(rng, 0.5, 0.9)
        )
        section.gap = _raise_to(section.gap, cleft)


def _diabetic_changes(
    section: Section, severity: float, site: Site, rng: np.random.Generator
) -> None:
    # Small bright foci in the inner layers, fibre-layer swellings, a slightly thickened edge.
    for _ in range(int(6 + 11 * severity)):
        section.blobs.append(
            Blob(normal(rng, 0.0, 1.5), uniform(rng, 0.28, 0.62), 0.035, uniform(rng, 8, 13), 0.92)
        )
    for _ in range(int(1 + 2 * severity)):
        centre = normal(rng, 0.0, 1.6)
        swelling = section.hump(centre, uniform(rng, 0.16, 0.28))
        section.rnfl = section.rnfl + (25 + 30 * severity) * swelling
        section.light = section.light * (1 - 0.45 * section.hump(centre, 0.2))
    for _ in range(int(1 + 2 * severity)):
        section.blobs.append(
            Blob(normal(rng, 0.4, 0.9), uniform(rng, 0.38, 0.46), 0.055, uniform(rng, 10, 18), 0.06)
        )


def _lipid(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # Very bright specks at the outer plexiform layer with thin shadows.
    for _ in range(int(3 + 5 * severity)):
        section.blobs.append(
            Blob(
                normal(rng, 0.0, 1.1),
                uniform(rng, 0.52, 0.62),
                uniform(rng, 0.03, 0.05 + 0.03 * severity),
                uniform(rng, 8, 12 + 6 * severity),
                1.0,
                shadow=0.30,
            )
        )


def _membrane(section: Section, severity: float, site: Site, rng: np.random.Generator) -> None:
    # A bright line on a wrinkled surface; the pit is pulled flat.
    centre = 1.3 * site[0] * MM_PER_DEGREE
    extent = section.hump(centre, 1.6 + 0.9 * severity, 6)
    folds = section.ripple(rng, uniform(rng, 22, 34))
    section.membrane = np.maximum(section.membrane, extent * (0.6 + 0.4 * severity))
    section.surface = section.surface + (4 + 8 * severity) * extent * folds
    section.membrane_gap = section.membrane_gap + (3 + 9 * severity) * extent * np.maximum(
        -folds, 0
    )
    fill = severity * section.hump(0.0, 0.55)
    section.inner_nuclear = section.inner_nuclear + 34 * fill
    section.outer_plexiform = section.outer_plexiform + 18 * fill
    section.outer_nuclear = section.outer_nuclear + 26 * fill
    section.ganglion = section.ganglion + 14 * fill


def _vein_occlusion(
    section: Section, severity: float, site: Site, rng: np.random.Generator
) -> None:
    # One side of the fovea is swollen, its inner layers bright and blurred together, shadow below.
    temporal = -1.0 if rng.random() < 0.5 else 1.0
    side = 1.0 / (1.0 + np.exp(-temporal * section.x / np.float32(0.30)))
    reach = side * np.exp(-((section.x / np.float32(2.6)) ** 2))
    section.inner_level = (section.inner_level * (1 + 0.45 * severity * reach)).astype(np.float32)
    section.inner_nuclear = section.inner_nuclear + 55 * severity * reach
    section.ganglion = section.ganglion + 18 * severity * reach
    section.outer_nuclear = section.outer_nuclear + 30 * severity * reach
    section.light = (section.light * (1 - 0.50 * severity * side)).astype(np.float32)
    for _ in range(int(2 + 3 * severity)):
        section.blobs.append(
            Blob(temporal * uniform(rng, 0.3, 2.0), uniform(rng, 0.36, 0.46), 0.10, 17, 0.07)
        )


SIGNS: dict[str, Sign] = {
    "CSC": _serous_dome,
    "AMD": _drusen,
    "WAMD": _wet_lesion,
    "CNV": _new_vessels,
    "PED": _epithelial_dome,  # after the tissue of wet disease, which would fill the dome
    "FLD": _fluid,
    "RVO": _vein_occlusion,
    "DR": _diabetic_changes,
    "EXU": _lipid,
    "MEM": _membrane,
}
