"""All that happens to an image before the network: decode, preprocess, gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from qdr_edge.decision import Decision, Outcome, rejected
from qdr_edge.errors import BundleError, CompatibilityError, ImageError, RecipeError
from qdr_edge.gate import GateLimits, check
from qdr_edge.preprocess import PreprocessSpec, load_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.bundle import Bundle

    Image = str | Path | bytes | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image that is ready for the network, or the decision that keeps it from getting there.

    Args:
        pixels: uint8 [3, S, S]; None if the image could not be read.
        rejected: INVALID_INPUT or UNGRADABLE; None if the network is to decide.
    """

    pixels: NDArray[np.uint8] | None
    rejected: Decision | None


class Intake:
    """A bundle's preprocessing contract and gate."""

    def __init__(self, bundle: Bundle) -> None:
        """Read them from a verified manifest.

        Raises:
            BundleError: the contract does not match its hash or the model, or the gate is damaged.
            CompatibilityError: this software implements another version of the contract.
        """
        self.spec = _contract(bundle)
        # GateLimits checks the tree itself and raises BundleError.
        gates = cast("Mapping[str, Sequence[str]]", bundle.manifest.decision.gates)
        self.limits = GateLimits.from_dict(gates)

    def take(self, image: Image) -> Prepared:
        """Prepare one image.

        Args:
            image: a path, the content of an image file, or pixels, uint8 [H, W, 3] RGB.
        """
        modality = self.spec.modality
        try:
            pixels = load_image(image, self.spec)
        except ImageError as error:
            # Not str(error): a result travels further than a terminal, a path need not.
            reason = f"{error.what}; expected {error.expected}" if error.expected else error.what
            return Prepared(None, rejected(Outcome.INVALID_INPUT, reason, modality))
        gate = check(pixels, modality, self.limits)
        if gate.outcome is not None:
            return Prepared(pixels, rejected(gate.outcome, gate.reason, modality))
        return Prepared(pixels, None)


def _contract(bundle: Bundle) -> PreprocessSpec:
    """The preprocessing contract, checked against its hash, the model's size and the modality."""
    manifest = bundle.manifest
    try:
        spec = PreprocessSpec.from_dict(dict(manifest.preprocess.spec))
    except RecipeError as error:
        raise CompatibilityError(
            f"preprocessing contract: {error.what}",
            where=bundle.name,
            expected=error.expected,
            fix="use the qdr-edge release that exported the bundle, or export it again",
        ) from error
    if (
        spec.sha256 != manifest.preprocess.sha256
        or spec.size != manifest.input.size
        or spec.modality != manifest.modality
    ):
        raise BundleError(
            "the preprocessing contract contradicts its hash, the model's size or the modality",
            where=bundle.name,
            expected=f"a {manifest.modality} contract for {manifest.input.size} px",
            fix="export the bundle again",
        )
    return spec
