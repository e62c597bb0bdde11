"""A B-scan as geometry: layer thicknesses along the scan line, what lies between and in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .anatomy import Eye
from .canvas import noise_field

Line = NDArray[np.float32]


@dataclass(frozen=True)
class Blob:
    """A cyst, a lipid focus or a patch inside the retina."""

    x: float  # mm from the fovea
    depth: float  # 0 at the inner limiting membrane .. 1 at the photoreceptor tips
    half_width: float  # mm
    half_height: float  # micrometres
    level: float  # display level 0 .. 1 inside
    shadow: float = 0.0  # share of light it takes from what lies below


@dataclass
class Section:
    """One scan line of a right eye (nasal is +x); micrometres, one value a column."""

    x: Line  # [columns] mm from the fovea
    bruch: Line  # depth of Bruch's membrane below the top of the picture
    rnfl: Line
    ganglion: Line
    inner_plexiform: Line
    inner_nuclear: Line
    outer_plexiform: Line
    outer_nuclear: Line
    photoreceptor: Line  # ellipsoid zone to outer-segment tips
    choroid: Line
    epithelium_lift: Line  # between Bruch's membrane and the pigment epithelium
    lift_level: Line  # display level of what fills it
    gap: Line  # between the pigment epithelium and the retina
    gap_level: Line
    ellipsoid: Line  # 1 intact .. 0 lost
    inner_level: Line  # factor on the brightness of the inner layers
    membrane: Line  # 0 none .. 1 bright line on the retina
    membrane_gap: Line  # micrometres between membrane and retina (folds bridge the valleys)
    surface: Line  # ripple of the retinal surface
    light: Line  # transmission from above, one value a column
    blobs: list[Blob] = field(default_factory=list)

    def hump(self, centre: float, half_width: float, power: float = 2.0) -> Line:
        """A smooth hump of height 1; a higher power has a flatter top and steeper sides."""
        away = np.abs((self.x - np.float32(centre)) / np.float32(half_width))
        return np.asarray(np.exp(-(away ** np.float32(power))), dtype=np.float32)

    def dome(self, centre: float, half_width: float) -> Line:
        """A lens-shaped elevation of height 1 that meets the ground at a finite angle."""
        away = (self.x - np.float32(centre)) / np.float32(half_width)
        return np.clip(1.0 - away * away, 0.0, 1.0).astype(np.float32)

    def ripple(self, rng: np.random.Generator, cells: float) -> Line:
        """Smooth noise along the scan, deviation about 1."""
        field_ = noise_field(rng, (4, len(self.x)), cells)
        return np.asarray(field_[1], dtype=np.float32)


def healthy_section(
    eye: Eye,
    columns: int,
    width_mm: float,
    centre_mm: float,
    offset_mm: float,
    bruch_um: float,
    tilt: float,
) -> Section:
    """Lay out the healthy layers along a horizontal scan.

    Args:
        eye: anatomy.
        columns: picture columns.
        width_mm: scan length.
        centre_mm: where the scan's middle lies relative to the fovea, nasal positive.
        offset_mm: distance of the scan line from the foveal centre.
        bruch_um: depth of Bruch's membrane in the middle of the picture.
        tilt: micrometres per mm.

    Returns:
        A section of which every array has `columns` entries.
    """
    x = np.linspace(centre_mm - width_mm / 2, centre_mm + width_mm / 2, columns).astype(np.float32)
    r2 = x * x + np.float32(offset_mm * offset_mm)
    pit = np.float32(eye.pit) * np.exp(-r2 / np.float32(2 * 0.36**2))
    parafovea = np.exp(-(((np.sqrt(r2) - 1.05) / 0.75) ** 2))
    far = np.exp(-r2 / np.float32(2 * 2.3**2))
    scale = np.float32(eye.thickness)
    nasal = 1.0 / (1.0 + np.exp(-(x - 1.3) / 0.55))
    rise = bruch_um - np.float32(tilt) * (x - centre_mm)
    bruch = rise - np.float32(eye.curvature) * (x - centre_mm) ** 2 * 2.0
    zero, one = np.zeros_like(x), np.ones_like(x)
    return Section(
        x=x,
        bruch=bruch.astype(np.float32),
        rnfl=scale * ((16 + 34 * nasal) * (1 - 0.92 * pit)),
        ganglion=scale * (14 + 42 * parafovea) * (1 - 0.97 * pit),
        inner_plexiform=scale * (24 + 16 * parafovea) * (1 - 0.95 * pit),
        inner_nuclear=scale * (28 + 12 * parafovea) * (1 - 0.93 * pit),
        outer_plexiform=scale * (22 + 10 * parafovea) * (1 - 0.72 * pit),
        outer_nuclear=scale * (52 + 18 * far + 34 * pit),
        photoreceptor=scale * (34 + 14 * pit),
        choroid=np.float32(eye.choroid_um) * (1 - 0.10 * np.clip(x - 1.0, 0, 3)).astype(np.float32),
        epithelium_lift=zero.copy(),
        lift_level=0.25 * one,
        gap=zero.copy(),
        gap_level=zero.copy(),
        ellipsoid=one.copy(),
        inner_level=one.copy(),
        membrane=zero.copy(),
        membrane_gap=zero.copy(),
        surface=zero.copy(),
        light=one.copy(),
    )
