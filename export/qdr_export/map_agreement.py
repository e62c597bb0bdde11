"""Do int8 maps show the same place as the float network's?

Each pair of an image and a label that is positive by the rule is compared: the correlation of the
two maps over all positions, and whether their highest positions are the same or neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bootstrap import PatientWeights, ratio
from qdr_edge.metrics import Estimate

_RESAMPLES = 1000
_NEIGHBOUR = 1.5  # positions, so that diagonal ones count


@dataclass(frozen=True)
class MapAgreement:
    """Int8 maps against float maps, with 95 % intervals by patient.

    Args:
        pairs: Compared pairs of an image and a positive label.
        correlation: Mean Pearson correlation over positions.
        same_peak: Share of pairs whose highest positions are the same or neighbours.
        grid: Height and width of a map.
    """

    pairs: int
    correlation: Estimate
    same_peak: Estimate
    grid: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def compare_maps(
    int8: NDArray[np.float32],
    real: NDArray[np.float32],
    positive: NDArray[np.bool_],
    patients: Sequence[str],
) -> MapAgreement:
    """Compare the maps of positive labels.

    Args:
        int8: [N, K, h, w].
        real: [N, K, h, w], of the float twin.
        positive: [N, K], which maps a device would show.
        patients: Of each image, length N.
    """
    images, labels, height, width = int8.shape
    a = int8.reshape(images, labels, -1).astype(np.float64)
    b = real.reshape(images, labels, -1).astype(np.float64)
    centred = [x - x.mean(axis=2, keepdims=True) for x in (a, b)]
    spread = np.sqrt((centred[0] ** 2).sum(axis=2) * (centred[1] ** 2).sum(axis=2))
    correlation = ratio((centred[0] * centred[1]).sum(axis=2), spread)
    peaks = [np.stack(np.divmod(x.argmax(axis=2), width)) for x in (a, b)]
    near = np.hypot(*(peaks[0] - peaks[1])) <= _NEIGHBOUR
    # A constant map points nowhere: it has no correlation and its peak is no agreement.
    correlation, near = np.nan_to_num(correlation), near & (spread > 0)

    weights = PatientWeights(images, list(patients), _RESAMPLES, seed=0)
    shown = weights.rows @ positive.sum(axis=1).astype(np.float64)

    def mean(values: NDArray[Any]) -> Estimate:
        of_image = np.where(positive, values, 0).sum(axis=1)
        return Estimate.of(ratio(weights.rows @ of_image, shown), int(positive.sum()))

    return MapAgreement(
        int(positive.sum()), mean(correlation), mean(near.astype(np.float64)), (height, width)
    )
