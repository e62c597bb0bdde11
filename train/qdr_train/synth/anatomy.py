"""One eye before any disease: disc, macula, pigment, vessels, layers; for both modalities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .streams import EyeStreams, normal, stream, uniform
from .vessels import Vessel, grow_tree

# Fundus pigment from lightly to darkly pigmented eyes, linear reflectance in RGB.
PIGMENTS = np.array(
    [
        [0.80, 0.47, 0.30],
        [0.76, 0.40, 0.21],
        [0.70, 0.33, 0.14],
        [0.60, 0.27, 0.11],
        [0.50, 0.22, 0.10],
    ]
)
MM_PER_DEGREE = 0.29

# Where a finding sits: horizontal and vertical offset from its usual place, in units of that
# finding's own scatter. Fundus and OCT read the same site.
Site = tuple[float, float]


@dataclass(frozen=True)
class Eye:
    """Anatomy of a right eye (a left eye is its mirror image). Lengths in degrees unless said."""

    colour: tuple[float, float, float]
    pigment: float  # 0 light .. 1 dark
    tessellation: float  # visibility of the choroidal vessels, 0 .. 1
    disc: tuple[float, float]
    disc_radii: tuple[float, float]
    disc_tilt: float  # radians
    cup: float  # cup over disc diameter
    atrophy: float  # width of the crescent beside the disc
    fovea_depth: float
    fovea_radius: float
    sheen: float  # nerve-fibre reflex, 0 .. 1 (young eyes)
    vessels: tuple[Vessel, ...]
    thickness: float  # retinal thickness factor
    pit: float  # depth of the foveal pit, 0 .. 1
    choroid_um: float
    curvature: float  # of the OCT, micrometres per mm^2


def sample_eye(streams: EyeStreams) -> Eye:
    """Draw the anatomy of one eye; what both eyes of a person share comes from the person's stream.

    Args:
        streams: the eye's random streams.

    Returns:
        The eye, in the orientation of a right eye.
    """
    person = stream(streams.seed, streams.patient, "person")
    own = streams.open("anatomy")
    pigment = float(person.beta(1.6, 1.6))
    place = pigment * (len(PIGMENTS) - 1)
    low = min(int(place), len(PIGMENTS) - 2)
    mixed = PIGMENTS[low] + (place - low) * (PIGMENTS[low + 1] - PIGMENTS[low])
    colour = mixed * np.exp(0.05 * own.standard_normal(3).clip(-2, 2))
    size = normal(person, 3.35, 0.25)
    cup = float(np.clip(normal(person, 0.36, 0.14), 0.08, 0.72))
    calibre = normal(person, 1.0, 0.08)
    youth = float(person.random())
    tessellation = float(np.clip(person.beta(0.9, 2.4) * (1.2 - 0.5 * pigment), 0, 1))
    thickness = normal(person, 1.0, 0.05)
    choroid = normal(person, 250.0, 55.0, 1.6)
    disc = (normal(own, 15.4, 0.6), normal(own, -1.4, 0.6))
    return Eye(
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        pigment=pigment,
        tessellation=tessellation,
        disc=disc,
        disc_radii=(size * normal(own, 0.93, 0.05), size * normal(own, 1.05, 0.05)),
        disc_tilt=normal(own, 0.0, 0.2),
        cup=float(np.clip(cup + normal(own, 0.0, 0.03), 0.05, 0.75)),
        atrophy=max(0.0, normal(own, 0.1, 0.45)),
        fovea_depth=uniform(own, 0.38, 0.75),
        fovea_radius=uniform(own, 1.5, 2.4),
        sheen=max(0.0, youth - 0.35) * uniform(own, 0.7, 1.2),
        vessels=tuple(grow_tree(streams.open("vessels"), disc, calibre)),
        thickness=thickness,
        pit=uniform(own, 0.80, 1.0),
        choroid_um=choroid * normal(own, 1.0, 0.06),
        curvature=normal(own, 6.0, 5.0),
    )


def sample_site(streams: EyeStreams, code: str) -> Site:
    """The site of one finding of one eye, the same in both modalities; each part within -2 .. 2."""
    rng = streams.open(code, "site")
    return normal(rng, 0.0, 1.0), normal(rng, 0.0, 1.0)
