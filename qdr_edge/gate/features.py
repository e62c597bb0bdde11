"""What the gate measures. Sums are of integers, so that every machine finds the same numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODALITIES = ("fundus", "oct")
_SIDE = 128
_LIT = 24
_BLACK = 12
_WHITE = 240
_RIM = 12
# Two box filters of 5 and of 19 px smooth like a Gaussian of 2 and of 8 px, in whole numbers.
_FINE, _COARSE = 5, 19
_FINE_ONE, _COARSE_ONE = _FINE**4, _COARSE**4
_CELLS = 8
_VISIBLE_DETAIL = 1.5
_EDGE_ROWS = 7
_COLOUR_STEPS = 4096


@dataclass(frozen=True)
class GateFeatures:
    """What the gate measures, on the image reduced to at most 128x128 px; levels are 0..255.

    Args:
        structure: Mean contrast at 2..8 px, where vessels and layers live.
        grain: Contrast below 2 px over `structure`; high for noise and for text,
            low for blur, whatever the contrast.
        redness: Mean of (R - B) / (R + G + B) over lit pixels; 0 for gray.
        warmth: Share of lit pixels with R >= G >= B, as blood and skin have.
        corners: Share of the corners that is lit; 0 for a whole disc.
        fill: Share of the inscribed disc that is lit.
        bands: Share of the gradient energy that is vertical; 1 for horizontal layers.
        backdrop: Median level of the whole image.
        brightness: Median level inside the lit region.
        contrast: Standard deviation of the level inside the lit region.
        detail: Mean contrast below 2 px; low for a blurred picture.
        visible: Share of the lit region, in cells of an eighth of the side, that shows detail.
        layers: Level by which four of five columns rise above what touches their upper and lower
            end; low for a weak scan, for missing columns and for a retina that is cut off.
        flat: Share of the lit pixels, at full size, in stretches of one even tone, which no
            camera takes and damaged or drawn pictures have.
    """

    structure: float
    grain: float
    redness: float
    warmth: float
    corners: float
    fill: float
    bands: float
    backdrop: float
    brightness: float
    contrast: float
    detail: float
    visible: float
    layers: float
    flat: float


FEATURES = tuple(entry.name for entry in fields(GateFeatures))


def measure(image: NDArray[np.uint8], modality: str) -> GateFeatures:
    """Measure a preprocessed image.

    Args:
        image: uint8 [3, S, S], as `preprocess` gives it.
        modality: "fundus" or "oct"; the features are the same for both.

    Returns:
        Finite numbers, for every image.
    """
    import cv2
    import numpy as np

    check_modality(modality)
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{image.dtype} {image.shape} is not uint8 [3, S, S]")
    full = cv2.merge(list(image))  # [3, S, S] -> [S, S, 3]
    # Never enlarged: an enlarged image would measure as blurred.
    side = min(_SIDE, image.shape[1])
    rgb = np.asarray(cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    level = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)

    red, green, blue = (np.asarray(channel, dtype=np.uint8) for channel in cv2.split(rgb))
    lit = np.asarray(cv2.max(cv2.max(red, green), blue)) > _LIT
    corners, disc = _corners_and_disc(side)
    # The rim of the disc would count as an edge in every feature of contrast.
    core = cv2.erode(lit.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=0) > 0
    if np.count_nonzero(core) < 64:
        core = np.ones_like(lit)
    count = int(np.count_nonzero(core))

    fine, coarse = _smoothed(level, _FINE), _smoothed(level, _COARSE)
    fine_contrast = np.abs(level.astype(np.int64) * _FINE_ONE - fine)  # x _FINE_ONE
    detail = int(fine_contrast[core].sum()) / (_FINE_ONE * count)
    band = np.abs(fine * _COARSE_ONE - coarse * _FINE_ONE)[core]
    structure = int(band.sum()) / (_FINE_ONE * _COARSE_ONE * count)
    inside = level[core].astype(np.int64)
    total, squares = int(inside.sum()), int(np.square(inside).sum())
    redness, warmth = _colour(red[lit], green[lit], blue[lit])
    return GateFeatures(
        structure=structure,
        grain=detail / (structure + 0.5),
        redness=redness,
        warmth=warmth,
        corners=_share(lit & corners, corners),
        fill=_share(lit & disc, disc),
        bands=_bands(level, fine),
        backdrop=float(np.median(level)),
        brightness=float(np.median(inside)),
        contrast=math.sqrt(count * squares - total * total) / count,
        detail=detail,
        visible=_visible(fine_contrast, core),
        layers=_layers(level),
        flat=_flat(full),
    )


def check_modality(modality: str) -> None:
    """Refuse a modality that the gate does not know.

    Raises:
        ValueError: It is neither "fundus" nor "oct".
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}")


def _smoothed(level: NDArray[np.uint8], width: int) -> NDArray[np.int64]:
    """The level through two box filters, times width**4."""
    import cv2
    import numpy as np

    once = cv2.boxFilter(level, cv2.CV_32S, (width, width), normalize=False)
    twice = cv2.boxFilter(once, cv2.CV_32S, (width, width), normalize=False)
    return np.asarray(twice, dtype=np.int64)


@lru_cache(maxsize=4)
def _corners_and_disc(side: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    import numpy as np

    axis = (np.arange(side) - (side - 1) / 2) * (2 / side)
    radius = np.hypot(axis[:, None], axis[None, :])
    return radius > 1.1, radius <= 0.97


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    import numpy as np

    return int(np.count_nonzero(part)) / max(1, int(np.count_nonzero(whole)))


def _colour(*lit: NDArray[np.uint8]) -> tuple[float, float]:
    """Redness and warmth of lit pixels, [n] of each colour."""
    import numpy as np

    red, green, blue = (channel.astype(np.int32) for channel in lit)
    if not red.size:
        return 0.0, 0.0
    steps = (red - blue) * _COLOUR_STEPS // (red + green + blue + 1)
    warm = (red >= green) & (green + 8 >= blue)
    redness = int(steps.sum(dtype=np.int64)) / (_COLOUR_STEPS * red.size)
    return redness, int(np.count_nonzero(warm)) / red.size


def _bands(level: NDArray[np.uint8], fine: NDArray[np.int64]) -> float:
    import numpy as np

    # A disc cut off above and below has two strong horizontal edges, its own ends: stay inside.
    rows = np.flatnonzero((level > _BLACK).any(axis=1))
    inner = fine[rows[0] + _RIM : rows[-1] - _RIM, _RIM:-_RIM] if rows.size > 2 * _RIM + 8 else fine
    down, across = np.diff(inner, axis=0), np.diff(inner, axis=1)
    vertical = int(np.square(down).sum()) / (_FINE_ONE**2 * down.size)
    horizontal = int(np.square(across).sum()) / (_FINE_ONE**2 * across.size)
    return vertical / (vertical + horizontal + 1e-3)


def _visible(fine_contrast: NDArray[np.int64], core: NDArray[np.bool_]) -> float:
    import numpy as np

    starts = np.arange(_CELLS) * len(core) // _CELLS

    def in_cells(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.add.reduceat(np.add.reduceat(values, starts, 0), starts, 1), np.int64)

    area = in_cells(core.astype(np.int64))
    detail = in_cells(fine_contrast * core)
    # Cells that lie half inside, and the middle one of a picture that has none.
    counted = area * 2 * _CELLS**2 >= core.size
    if not counted.any():
        return 0.0
    seen = detail[counted] >= _VISIBLE_DETAIL * _FINE_ONE * area[counted]
    return int(np.count_nonzero(seen)) / int(np.count_nonzero(counted))


def _layers(level: NDArray[np.uint8]) -> float:
    import cv2
    import numpy as np

    seen = level > _BLACK
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if min(rows.size, columns.size) < 2 * _EDGE_ROWS + 2:
        return 0.0
    scan = level[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    # White wedges, which a turned scan leaves above and below, are no tissue. Where the picture
    # begins, a wedge is mixed with the black around it.
    white = cv2.dilate((scan >= _WHITE).astype(np.uint8), np.ones((5, 1), np.uint8)) > 0
    wedge = np.logical_and.accumulate(white) | np.logical_and.accumulate(white[::-1])[::-1]
    wedge = cv2.dilate(wedge.astype(np.uint8), np.ones((5, 3), np.uint8)) > 0
    tissue = np.bincount(scan[~wedge], minlength=256).cumsum()
    scan[wedge] = np.searchsorted(tissue, tissue[-1] // 5)  # where a fifth is darker
    smooth = np.asarray(cv2.boxFilter(scan, cv2.CV_32S, (5, 3), normalize=False))  # x 15
    ends = np.maximum(smooth[:_EDGE_ROWS].min(axis=0), smooth[-_EDGE_ROWS:].min(axis=0))
    rise = np.sort(smooth[3:-3].max(axis=0) - ends)
    return int(rise[rise.size // 5]) / 15


def _flat(rgb: NDArray[np.uint8]) -> float:
    import cv2
    import numpy as np

    level = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    bend = cv2.convertScaleAbs(cv2.Laplacian(level, cv2.CV_16S, ksize=1))
    even = np.asarray(cv2.dilate(bend, np.ones((9, 9), np.uint8))) <= 2
    lit = np.asarray(level) > _LIT
    return _share(even & lit, lit)
