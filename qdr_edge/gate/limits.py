"""The interval of each feature that passes, and how far data may move its ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdr_edge.errors import BundleError, CompatibilityError
from qdr_edge.gate.features import FEATURES, check_modality

GATE_VERSION = 2
"""Version of the features: limits fitted for other features mean nothing for these."""

_VERSION_KEY = "version"
_INF = float("inf")


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
        """A JSON object; numbers as text, so that they survive unchanged."""
        ends = {
            name: [repr(float(low)), repr(float(high))]
            for name, low, high in zip(FEATURES, self.low, self.high, strict=True)
        }
        return {_VERSION_KEY: [str(GATE_VERSION)], **ends}

    @classmethod
    def from_dict(cls, value: Mapping[str, Sequence[str]]) -> GateLimits:
        """The limits of a JSON object.

        Raises:
            BundleError: A feature is missing or unknown, or an interval is malformed.
            CompatibilityError: They were fitted for another version of the features.
        """
        # The first version wrote none.
        version = value.get(_VERSION_KEY, ["1"] if "structure" in value else [str(GATE_VERSION)])
        if list(version) != [str(GATE_VERSION)]:
            raise CompatibilityError(
                f"limits of image-quality gate version {' '.join(map(str, version))}",
                where="gate limits",
                expected=f"version {GATE_VERSION}, the one this software measures",
                fix="export the run again, or use the version of qdr-edge that sealed the bundle",
            )
        names = set(value) - {_VERSION_KEY}
        if names != set(FEATURES):
            raise _bad_limits(f"features {', '.join(sorted(names))}")
        try:
            pairs = [(float(value[name][0]), float(value[name][1])) for name in FEATURES]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise _bad_limits(repr(error)) from error
        return cls(tuple(low for low, _ in pairs), tuple(high for _, high in pairs))


@dataclass(frozen=True)
class End:
    """One end of an interval, and how far images of the user's own may move it.

    Args:
        default: Where it stands without such images.
        widest: Furthest outwards: a training set with unusable images in it must not teach the
            gate to pass an empty picture, the dark, or the other modality.
        strictest: Furthest inwards: clean images of one camera are no reason to refuse another's.
    """

    default: float
    widest: float
    strictest: float


@dataclass(frozen=True)
class Span:
    """Both ends of a feature, and the unit in which a margin to them counts.

    Args:
        low: Lower end.
        high: Upper end.
        unit: About the way from a barely gradable image to a usual one.
    """

    low: End
    high: End
    unit: float


def _end(default: float, widest: float | None = None, strictest: float | None = None) -> End:
    return End(
        default,
        default if widest is None else widest,
        default if strictest is None else strictest,
    )


_NO_LOW, _NO_HIGH = _end(-_INF), _end(_INF)
_NONE, _ALL = _end(0.0), _end(1.0)
_ANY = Span(_NO_LOW, _NO_HIGH, 1.0)

# Defaults chosen on public photographs and scans at 224 px and on drawn ones; their shares are
# printed by benchmarks/gate.py.
SPANS: Mapping[str, Mapping[str, Span]] = {
    "fundus": {
        "structure": Span(_end(0.5, 0.3), _NO_HIGH, 2.2),
        "grain": Span(_end(0.22, 0.15, 0.50), _end(1.8, 2.2), 0.3),
        "redness": Span(_end(0.05, 0.02), _end(0.70, 1.0), 0.1),
        "warmth": Span(_end(0.45, 0.3), _ALL, 0.1),
        "corners": Span(_NONE, _end(0.70, 1.0), 0.1),
        "fill": Span(_end(0.60, 0.0), _ALL, 0.1),
        "bands": Span(_end(0.02, 0.0), _end(0.78, 0.85), 0.06),
        "backdrop": Span(_NONE, _end(235.0, 255.0), 26.0),
        "brightness": Span(_end(36.0, 24.0, 50.0), _end(225.0, 240.0, 190.0), 26.0),
        "contrast": Span(_end(6.0, 4.0, 12.0), _end(75.0, 100.0), 6.0),
        "detail": Span(_end(1.1, 0.7, 3.0), _end(25.0, 35.0, 18.0), 1.8),
        "visible": Span(_end(0.25, 0.1, 0.85), _ALL, 0.15),
        "layers": _ANY,
        "flat": Span(_NONE, _end(0.10), 0.05),
    },
    "oct": {
        "structure": Span(_end(0.5, 0.3), _end(40.0, 55.0), 3.0),
        "grain": Span(_end(0.25, 0.18, 0.40), _end(1.3, 1.8), 0.1),
        "redness": Span(_end(-0.02), _end(0.02), 0.01),
        "warmth": _ANY,
        "corners": Span(_NONE, _end(0.85, 1.0), 0.1),
        "fill": Span(_end(0.05, 0.0), _end(0.97, 1.0), 0.15),
        "bands": Span(_end(0.66, 0.60), _ALL, 0.05),
        "backdrop": Span(_NONE, _end(64.0, 90.0), 10.0),
        "brightness": Span(_end(36.0, 28.0, 45.0), _end(125.0, 160.0, 110.0), 12.0),
        "contrast": Span(_end(10.0, 7.0, 15.0), _end(90.0, 100.0), 8.0),
        "detail": Span(_end(3.0, 1.5, 5.0), _end(25.0, 35.0, 20.0), 2.3),
        "visible": _ANY,
        "layers": Span(_end(36.0, 24.0, 60.0), _NO_HIGH, 25.0),
        "flat": Span(_NONE, _end(0.10), 0.05),
    },
}


def default_limits(modality: str) -> GateLimits:
    """Limits that pass nearly all retinal images of a modality, whatever the camera."""
    check_modality(modality)
    spans = [SPANS[modality][name] for name in FEATURES]
    return GateLimits(
        tuple(span.low.default for span in spans), tuple(span.high.default for span in spans)
    )


def _bad_limits(what: str) -> BundleError:
    return BundleError(
        what, where="gate limits", expected=f"[low, high] for each of {', '.join(FEATURES)}"
    )
