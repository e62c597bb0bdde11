"""Quantization schemes: the numeric policy, as a plain value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qdr_edge.errors import RecipeError

INPUT_ZERO_POINT = 128
"""Pixels are uint8; the network's int8 input code is pixel − 128."""

INPUT_SCALE = 2.0**-6
"""The real value of one input step: the network sees (pixel − 128) / 64, in [−2, 2)."""


@dataclass(frozen=True)
class QuantScheme:
    """How a network is quantized.

    Codes from below 0 are int8 and symmetric: zero point 0 everywhere. Codes from 0 are uint8, and
    every activation has a zero point of its own.

    Args:
        name: Name in recipes and manifests.
        activation_qmin: Smallest activation code.
        activation_qmax: Largest activation code.
        weight_qmax: Weights lie in −weight_qmax..weight_qmax, per output channel.
        power_of_two: Every scale is a power of two, so that requantization is a shift.
    """

    name: str
    activation_qmin: int
    activation_qmax: int
    weight_qmax: int
    power_of_two: bool

    @property
    def unsigned(self) -> bool:
        """Whether activation codes are uint8 with zero points."""
        return self.activation_qmin == 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> QuantScheme:
        """The scheme of a JSON object."""
        return cls(**value)

    @classmethod
    def named(cls, name: str) -> QuantScheme:
        """A scheme by its name.

        Raises:
            RecipeError: There is none of that name.
        """
        for scheme in SCHEMES:
            if scheme.name == name:
                return scheme
        known = ", ".join(scheme.name for scheme in SCHEMES)
        raise RecipeError(f"unknown quantization scheme {name!r}", expected=f"one of {known}")


EXACT = QuantScheme("exact", -128, 127, 64, True)
"""Bit-identical on every backend; |w| ≤ 64 cannot saturate on x86 without VNNI."""

EXACT_WIDE = QuantScheme("exact-wide", -128, 127, 127, True)
"""As exact with one bit more for weights, where every device has VNNI or is Arm: on x86 without
VNNI it needs slower kernels (qdr_edge.runtime.saturation)."""

PORTABLE = QuantScheme("portable", -128, 127, 127, False)
"""Free scales: a little more resolution, backends agree to a few steps."""

U8 = QuantScheme("u8", 0, 255, 127, False)
"""Asymmetric uint8 activations: most resolution, for CPUs only. TensorRT has no form of it, and on
x86 without VNNI it needs slower kernels."""

SCHEMES = (EXACT, EXACT_WIDE, PORTABLE, U8)
