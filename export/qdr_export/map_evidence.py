"""What a bundle says of its maps: bit-equal where, and how like the float network's?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdr_edge.decision import DecisionRule, label_decisions
from qdr_export.map_agreement import MapAgreement, compare_maps
from qdr_export.run_folder import Student
from qdr_export.rungs import FLOAT_TWIN, REFERENCE, Outputs

WITHOUT_MAPS = "the TensorRT targets carry no maps"


@dataclass(frozen=True)
class MapEvidence:
    """Maps of the validation images.

    Args:
        images: How many.
        equal: By runtime, images whose maps all equal the reference's bit for bit.
        agreement: Int8 maps against those of the float twin.
    """

    images: int
    equal: Mapping[str, int]
    agreement: MapAgreement

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        agreement = self.agreement
        return {
            "images": self.images,
            "equal": dict(self.equal),
            "pairs": agreement.pairs,
            "grid": list(agreement.grid),
            "correlation": agreement.correlation.to_dict(),
            "same_peak": agreement.same_peak.to_dict(),
        }


def judge_maps(student: Student, outputs: Outputs, rule: DecisionRule) -> MapEvidence | None:
    """Compare the maps of the validation images; None of a network without maps."""
    if REFERENCE not in outputs.maps:
        return None
    reference = outputs.maps[REFERENCE]
    images = len(reference)
    positive = label_decisions(outputs.logits[REFERENCE][:images], rule)
    return MapEvidence(
        images,
        equal_maps(outputs),
        compare_maps(
            reference,
            outputs.maps[FLOAT_TWIN],
            positive,
            student.samples.select(split="val").patients(),
        ),
    )


def equal_maps(outputs: Outputs) -> dict[str, int]:
    """By runtime, images whose maps all equal the reference's bit for bit."""
    reference = outputs.maps[REFERENCE]
    return {
        name: int((maps == reference).all(axis=(1, 2, 3)).sum())
        for name, maps in outputs.maps.items()
        if name not in (REFERENCE, FLOAT_TWIN)
    }
