"""Does the import compute what the file computes? Both over the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.decision import DecisionRule, label_decisions, label_scores
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate, Evaluation, evaluate, paired_map_difference
from qdr_edge.samples import SampleSet

_STEPS = 127


@dataclass(frozen=True)
class Proof:
    """The original file beside the integer reference.

    Args:
        images: Images compared, validation and test.
        exact: Images whose logits are all equal bit for bit.
        largest: Largest absolute difference of a logit.
        step: A logit's step: the largest logit of the original / 127.
        share: Share of logits that differ by more than half a step.
        flips: Label decisions at threshold 0 that differ.
        decisions: Label decisions compared.
        source: The original on the validation images.
        reference: The integer reference there.
        difference: mAP of the reference minus mAP of the original, paired.
    """

    images: int
    exact: int
    largest: float
    step: float
    share: float
    flips: int
    decisions: int
    source: Evaluation
    reference: Evaluation
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "images": self.images,
            "exact": self.exact,
            "largest": self.largest,
            "step": self.step,
            "share_beyond_half_a_step": self.share,
            "flips_at_zero": self.flips,
            "decisions": self.decisions,
            "source_map": self.source.map.to_dict(),
            "reference_map": self.reference.map.to_dict(),
            "reference_minus_source_map": self.difference.to_dict(),
        }


def prove(
    source: NDArray[np.float32],
    reference: NDArray[np.float32],
    samples: SampleSet,
    labels: LabelSet,
) -> Proof:
    """Compare logits [M, K] of validation rows, then test rows."""
    apart = np.abs(source.astype(np.float64) - reference)
    step = float(np.abs(source).max(initial=0)) / _STEPS
    at_zero = DecisionRule(labels, 1.0, (0.0,) * len(labels))
    flips = label_decisions(source, at_zero) != label_decisions(reference, at_zero)
    validation = samples.select(split="val")
    targets, groups = validation.targets(), validation.patients()
    scores = [label_scores(form[: len(validation)], labels) for form in (source, reference)]
    evaluations = [evaluate(score, targets, labels, groups=groups) for score in scores]
    return Proof(
        images=len(source),
        exact=int((source == reference).all(axis=1).sum()),
        largest=float(apart.max(initial=0)),
        step=step,
        share=float((apart > step / 2).mean()),
        flips=int(flips.sum()),
        decisions=flips.size,
        source=evaluations[0],
        reference=evaluations[1],
        difference=paired_map_difference(scores[1], scores[0], targets, groups),
    )
