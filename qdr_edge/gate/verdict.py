"""The verdict on measured features, and limits fitted to the user's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from qdr_edge.decision import Outcome
from qdr_edge.gate.features import FEATURES, GateFeatures, check_modality, measure
from qdr_edge.gate.limits import SPANS, GateLimits, default_limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIT_AT_LEAST = 30
_STRICTER_AT_LEAST = 100
# How much further out than the outermost image kept an end stands, in distances to the median.
_KIND_MARGIN, _QUALITY_MARGIN = 0.25, 0.1


@dataclass(frozen=True)
class GateResult:
    """What the gate says of an image.

    Args:
        outcome: None if it is gradable, else INVALID_INPUT or UNGRADABLE.
        reason: Why, in one line; "" if it is gradable.
        margin: How far inside its limits the worst feature of quality lies, in units of that
            feature (`Span.unit`), or how far outside the worst feature of any sort. Negative if
            and only if the image is rejected; the one number that ranks images by gradability.
    """

    outcome: Outcome | None
    reason: str
    margin: float


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
    ("flat", "high", _INVALID, "large parts are of one even tone: a drawing or a damaged file"),
    ("structure", "high", _INVALID, "edges too strong for {kind}"),
    ("contrast", "high", _INVALID, "contrast too strong for {kind}"),
    ("brightness", "high", _UNGRADABLE, "too bright"),
    ("contrast", "low", _UNGRADABLE, "too little contrast"),
    ("detail", "low", _UNGRADABLE, "too blurred"),
    ("grain", "low", _UNGRADABLE, "too blurred"),
    ("detail", "high", _UNGRADABLE, "too noisy"),
    ("visible", "low", _UNGRADABLE, "too little of the field shows detail"),
    ("layers", "low", _UNGRADABLE, "the layers are too weak, interrupted or cut off"),
)
_KIND = {"fundus": "a fundus photograph", "oct": "an OCT scan"}


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
    check_modality(modality)
    outcome, reason, margin = None, "", float("inf")
    for name, end, kind, text in _RULES:
        value, index = getattr(features, name), FEATURES.index(name)
        bound = limits.low[index] if end == "low" else limits.high[index]
        inside = value - bound if end == "low" else bound - value
        if not inside >= 0:  # written so that NaN is inside of nothing
            inside = inside if inside < 0 else -float("inf")
            if outcome is None:
                outcome = kind
                sign = "at least" if end == "low" else "at most"
                said = text.format(kind=_KIND[modality])
                reason = f"{said} ({name} {value:.2f}, expected {sign} {bound:.2f})"
        elif kind is _INVALID:
            continue  # more of the right kind is no better quality
        margin = min(margin, inside / SPANS[modality][name].unit)
    return GateResult(outcome, reason, margin)


def fit_limits(
    features: Sequence[GateFeatures], modality: str, rejection_rate: float = 0.01
) -> GateLimits:
    """The limits that reject at most a stated share of the user's own gradable images.

    Limits of kind are the defaults, widened where these images need it: that a few images do not
    show something is no reason to call it invalid. Limits of quality are widened where the
    defaults reject too many and made stricter where they reject too few, to where together they
    reject the stated share; a little further out, so that about as many of the next images are.
    All move within fixed bounds only: unusable images among the given ones do not open the gate,
    and clean ones do not close it to another camera. Fewer than 30 images leave the defaults as
    they are, fewer than 100 make none stricter.

    Args:
        features: Of gradable images of the modality.
        modality: "fundus" or "oct".
        rejection_rate: Share of the images that may be rejected, 0..0.5; within the bounds no
            more is.
    """
    if not 0 <= rejection_rate <= 0.5:
        raise ValueError(f"rejection_rate {rejection_rate} is not in 0..0.5")
    limits = default_limits(modality)
    if len(features) < _FIT_AT_LEAST:
        return limits
    ordered = _ordered(features)
    # The ends of kind may reject a part of the rate, the ends of quality what is left of it.
    share = rejection_rate / (2 * len(FEATURES))
    rank = int(share * len(features))
    limits = _moved(limits, ordered, modality, _INVALID, rank, outwards=True)
    allowed = int(rejection_rate * len(features))

    def rejected(by: GateLimits) -> int:
        return sum(judge(entry, modality, by).outcome is not None for entry in features)

    # All ends of quality move the same way: none is opened for what another one shuts out.
    outwards = rejected(limits) > allowed
    if not outwards and len(features) < _STRICTER_AT_LEAST:
        return limits

    def candidate(rank: int) -> GateLimits:
        return _moved(limits, ordered, modality, _UNGRADABLE, rank, outwards=outwards)

    # The more images each end rejects, the more they reject together.
    rank, too_many = 0, allowed + 1
    while too_many - rank > 1:
        middle = (rank + too_many) // 2
        if rejected(candidate(middle)) <= allowed:
            rank = middle
        else:
            too_many = middle
    return candidate(rank) if outwards or rejected(candidate(rank)) <= allowed else limits


def _ordered(features: Sequence[GateFeatures]) -> dict[str, list[float]]:
    columns = zip(*(astuple(entry) for entry in features), strict=True)
    return {name: sorted(column) for name, column in zip(FEATURES, columns, strict=True)}


def _moved(
    limits: GateLimits,
    ordered: Mapping[str, Sequence[float]],
    modality: str,
    outcome: Outcome,
    rank: int,
    *,
    outwards: bool,
) -> GateLimits:
    """The limits with the ends of one outcome behind `rank` values at each.

    They move outwards only, or inwards only, and no further than their bounds.
    """
    low, high = list(limits.low), list(limits.high)
    margin = _KIND_MARGIN if outcome is _INVALID else _QUALITY_MARGIN
    for name, side, kind, _ in _RULES:
        if kind is not outcome:
            continue
        column, index = ordered[name], FEATURES.index(name)
        middle = column[len(column) // 2]
        reached = column[rank] if side == "low" else column[-1 - rank]
        place = reached - margin * (middle - reached)
        span = SPANS[modality][name]
        end = span.low if side == "low" else span.high
        first, last = sorted((end.default, end.widest if outwards else end.strictest))
        moved = min(max(place, first), last)
        if side == "low":
            low[index] = moved
        else:
            high[index] = moved
    return GateLimits(tuple(low), tuple(high))
