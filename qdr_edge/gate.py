"""The gate: is this a picture of the right kind, and good enough to decide on?

Eleven features of the preprocessed image, each with an interval. Outside the interval of a feature
of *kind* (colour, field of view, layers, grain) the input is INVALID_INPUT; outside one of
*quality* (exposure, contrast, detail) it is UNGRADABLE. The gate knows nothing of diseases. It
stops the wrong modality, screenshots, noise and most everyday pictures; it is no proof that
what passes is a retina. The default limits hold for networks of 64 px and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

from qdr_edge.decision import Outcome
from qdr_edge.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE = 128
_LIT = 24
_BLACK = 12
_RIM = 12
_FIT_AT_LEAST = 30
_FIT_MARGIN = 0.25


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


FEATURES = tuple(entry.name for entry in fields(GateFeatures))


@dataclass(frozen=True)
class GateLimits:
    """The closed interval of each feature that passes.

    Args:
        low: One lower end for each feature, in the order of `GateFeatures`.
        high: One upper end for each feature.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.low) == len(self.high) == len(FEATURES):
            raise _bad_limits(f"{len(self.low)} and {len(self.high)} ends")
        # Written so that NaN fails too.
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise _bad_limits("an interval without a value in it")

    def to_dict(self) -> dict[str, list[str]]:
        """A JSON object; floats as text, so that they survive unchanged."""
        return {
            name: [repr(float(low)), repr(float(high))]
            for name, low, high in zip(FEATURES, self.low, self.high, strict=True)
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Sequence[str]]) -> GateLimits:
        """The limits of a JSON object.

        Raises:
            BundleError: A feature is missing or unknown, or an interval is malformed.
        """
        if set(value) != set(FEATURES):
            raise _bad_limits(f"features {', '.join(sorted(value))}")
        try:
            pairs = [(float(value[name][0]), float(value[name][1])) for name in FEATURES]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise _bad_limits(repr(error)) from error
        return cls(tuple(low for low, _ in pairs), tuple(high for _, high in pairs))


@dataclass(frozen=True)
class GateResult:
    """What the gate says of an image.

    Args:
        outcome: None if it is gradable, else INVALID_INPUT or UNGRADABLE.
        reason: Why, in one line; "" if it is gradable.
    """

    outcome: Outcome | None
    reason: str


_INF = float("inf")
# Chosen on public photographs and scans: at 224 px 1.6 % of 1,068 fundus photographs and none of
# 125 OCT scans are refused, and every image offered as the other modality is.
_DEFAULTS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "fundus": {
        "structure": (0.5, _INF),
        "grain": (0.17, 1.8),
        "redness": (0.05, 0.70),
        "warmth": (0.45, 1.0),
        "corners": (0.0, 0.70),
        "fill": (0.60, 1.0),
        "bands": (0.02, 0.78),
        "backdrop": (0.0, 235.0),
        "brightness": (36.0, 225.0),
        "contrast": (6.0, 75.0),
        "detail": (1.1, 25.0),
    },
    "oct": {
        "structure": (0.5, 40.0),
        "grain": (0.25, 1.3),
        "redness": (-0.02, 0.02),
        "warmth": (0.0, 1.0),
        "corners": (0.0, 0.85),
        "fill": (0.05, 0.97),
        "bands": (0.66, 1.0),
        "backdrop": (0.0, 64.0),
        "brightness": (36.0, 125.0),
        "contrast": (10.0, 90.0),
        "detail": (3.0, 25.0),
    },
}

# How far `fit_limits` may go: a training set with unusable images in it must not teach the gate
# to pass an empty picture, the dark, or the other modality.
_WIDEST: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "fundus": {
        "structure": (0.3, _INF),
        "grain": (0.15, 2.2),
        "redness": (0.02, 1.0),
        "warmth": (0.3, 1.0),
        "bands": (0.0, 0.85),
        "brightness": (24.0, 240.0),
        "contrast": (4.0, 100.0),
        "detail": (0.7, 35.0),
    },
    "oct": {
        "structure": (0.3, 55.0),
        "grain": (0.18, 1.8),
        "redness": (-0.02, 0.02),
        "bands": (0.60, 1.0),
        "backdrop": (0.0, 90.0),
        "brightness": (28.0, 160.0),
        "contrast": (7.0, 100.0),
        "detail": (1.5, 35.0),
    },
}

_INVALID, _UNGRADABLE = Outcome.INVALID_INPUT, Outcome.UNGRADABLE
# In the order asked: an empty picture first, then noise; a picture too dark to judge its kind is
# ungradable before its kind is asked. (feature, "low" or "high", outcome, text)
_RULES: tuple[tuple[str, str, Outcome, str], ...] = (
    ("structure", "low", _INVALID, "an empty or even picture"),
    ("grain", "high", _INVALID, "noise, text or line art"),
    ("brightness", "low", _UNGRADABLE, "too dark"),
    ("redness", "low", _INVALID, "too little red for {kind}"),
    ("redness", "high", _INVALID, "too coloured for {kind}"),
    ("warmth", "low", _INVALID, "not the colours of {kind}"),
    ("bands", "low", _INVALID, "no horizontal layers"),
    ("bands", "high", _INVALID, "horizontal layers"),
    ("backdrop", "high", _INVALID, "no dark background"),
    ("corners", "high", _INVALID, "the corners are lit, no field of view"),
    ("fill", "low", _INVALID, "hardly anything in the field of view"),
    ("fill", "high", _INVALID, "lit all over"),
    ("structure", "high", _INVALID, "edges too strong for {kind}"),
    ("contrast", "high", _INVALID, "contrast too strong for {kind}"),
    ("brightness", "high", _UNGRADABLE, "too bright"),
    ("contrast", "low", _UNGRADABLE, "too little contrast"),
    ("detail", "low", _UNGRADABLE, "too blurred"),
    ("grain", "low", _UNGRADABLE, "too blurred"),
    ("detail", "high", _UNGRADABLE, "too noisy"),
)
_KIND = {"fundus": "a fundus photograph", "oct": "an OCT scan"}


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

    _check_modality(modality)
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{image.dtype} {image.shape} is not uint8 [3, S, S]")
    rgb = np.ascontiguousarray(image.transpose(1, 2, 0))  # [3, S, S] -> [S, S, 3]
    # Never enlarged: an enlarged image would measure as blurred.
    side = min(_SIDE, image.shape[1])
    rgb = np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    level = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.float32)

    lit = rgb.max(axis=2) > _LIT
    axis = (np.arange(side) - (side - 1) / 2) * (2 / side)
    radius = np.hypot(axis[:, None], axis[None, :])
    # The rim of the disc would count as an edge in every feature of contrast.
    core = cv2.erode(lit.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=0) > 0
    if np.count_nonzero(core) < 64:
        core = np.ones_like(lit)

    fine = np.asarray(cv2.GaussianBlur(level, (0, 0), 2), dtype=np.float32)
    coarse = np.asarray(cv2.GaussianBlur(level, (0, 0), 8), dtype=np.float32)
    detail = float(np.abs(level - fine)[core].mean())
    structure = float(np.abs(fine - coarse)[core].mean())
    # A disc cut off above and below has two strong horizontal edges, its own ends: stay inside.
    rows = np.flatnonzero((level > _BLACK).any(axis=1))
    inner = fine[rows[0] + _RIM : rows[-1] - _RIM, _RIM:-_RIM] if rows.size > 2 * _RIM + 8 else fine
    vertical = float(np.square(np.diff(inner, axis=0)).mean())
    horizontal = float(np.square(np.diff(inner, axis=1)).mean())

    red, green, blue = np.moveaxis(rgb[lit].astype(np.float32), 1, 0)
    warm = (red >= green) & (green + 8 >= blue)
    return GateFeatures(
        structure=structure,
        grain=detail / (structure + 0.5),
        redness=float(((red - blue) / (red + green + blue + 1)).mean()) if red.size else 0.0,
        warmth=float(warm.mean()) if red.size else 0.0,
        corners=float(lit[radius > 1.1].mean()),
        fill=float(lit[radius <= 0.97].mean()),
        bands=vertical / (vertical + horizontal + 1e-3),
        backdrop=float(np.median(level)),
        brightness=float(np.median(level[core])),
        contrast=float(level[core].std()),
        detail=detail,
    )


def default_limits(modality: str) -> GateLimits:
    """Limits that pass nearly all retinal images of a modality, whatever the camera."""
    _check_modality(modality)
    limits = _DEFAULTS[modality]
    return GateLimits(
        tuple(limits[name][0] for name in FEATURES), tuple(limits[name][1] for name in FEATURES)
    )


def fit_limits(
    features: Sequence[GateFeatures], modality: str, rejection_rate: float = 0.01
) -> GateLimits:
    """The default limits, widened where the user's own gradable images need it.

    They are never narrowed: what a few validation images do not show is no reason to refuse a
    patient. They are widened within fixed bounds only, so that unusable images among the given
    ones do not open the gate. Fewer than 30 images leave the defaults as they are.

    Args:
        features: Of gradable images of the modality.
        modality: "fundus" or "oct".
        rejection_rate: Share of the images that may be rejected, 0..0.5; within the bounds no
            more is.
    """
    import numpy as np

    if not 0 <= rejection_rate <= 0.5:
        raise ValueError(f"rejection_rate {rejection_rate} is not in 0..0.5")
    limits = default_limits(modality)
    if len(features) < _FIT_AT_LEAST:
        return limits
    values = np.array([astuple(entry) for entry in features])  # [N, F]
    # Each of the 2 F ends may reject an equal part.
    share = rejection_rate / (2 * len(FEATURES))
    middle = np.median(values, axis=0)
    low = np.quantile(values, share, axis=0, method="lower")
    high = np.quantile(values, 1 - share, axis=0, method="higher")
    low, high = low - _FIT_MARGIN * (middle - low), high + _FIT_MARGIN * (high - middle)
    widest = [_WIDEST[modality].get(name, (-_INF, _INF)) for name in FEATURES]
    low = np.minimum(limits.low, np.maximum(low, [bound[0] for bound in widest]))
    high = np.maximum(limits.high, np.minimum(high, [bound[1] for bound in widest]))
    return GateLimits(tuple(low.tolist()), tuple(high.tolist()))


def check(image: NDArray[np.uint8], modality: str, limits: GateLimits) -> GateResult:
    """Whether an image may be decided on.

    Args:
        image: uint8 [3, S, S], as `preprocess` gives it.
        modality: "fundus" or "oct", what the network was trained for.
        limits: The intervals.
    """
    return judge(measure(image, modality), modality, limits)


def judge(features: GateFeatures, modality: str, limits: GateLimits) -> GateResult:
    """The verdict on features that are measured already."""
    for name, end, outcome, text in _RULES:
        value = getattr(features, name)
        index = FEATURES.index(name)
        bound = limits.low[index] if end == "low" else limits.high[index]
        if not (value >= bound if end == "low" else value <= bound):
            sign = "at least" if end == "low" else "at most"
            reason = text.format(kind=_KIND[modality])
            return GateResult(
                outcome, f"{reason} ({name} {value:.2f}, expected {sign} {bound:.2f})"
            )
    return GateResult(None, "")


def _check_modality(modality: str) -> None:
    if modality not in _DEFAULTS:
        raise ValueError(f"unknown modality {modality!r}")


def _bad_limits(what: str) -> BundleError:
    return BundleError(
        what, where="gate limits", expected=f"[low, high] for each of {', '.join(FEATURES)}"
    )
