"""What int8 cost a network, on the validation images of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.decision import label_scores
from qdr_edge.metrics import Estimate, paired_map_difference
from qdr_train.engine.run_folder import open_run
from qdr_train.engine.selection import mean_average_precision


@dataclass(frozen=True)
class Comparison:
    """int8 beside the same weights in float.

    Args:
        images: Validation images.
        in_float: mAP in float; NaN where no label has both positives and negatives.
        in_int8: mAP of what ships.
        change: mAP of int8 minus that in float, images resampled together by patient.
        flips: Labels of images whose score changes its sign.
        decisions: Labels times images.
    """

    images: int
    in_float: float
    in_int8: float
    change: Estimate
    flips: int
    decisions: int

    def __str__(self) -> str:
        low, high = self.change.low, self.change.high
        return (
            f"validation mAP: float {100 * self.in_float:.1f}, int8 {100 * self.in_int8:.1f}; "
            f"difference {100 * self.change.value:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] "
            f"(paired, 95 %, n = {self.images}); {self.flips} of {self.decisions} scores change "
            "their sign"
        )


def comparison(run: Path, stage: str) -> Comparison:
    """Compare a finished stage's int8 answers with its float ones.

    Args:
        run: Run directory.
        stage: A quantized student.
    """
    opened, checkpoint = open_run(run), load_checkpoint(run / stage)
    samples = opened.samples.select(checkpoint.modality, "val")
    targets = samples.targets().astype(np.uint8)
    int8, in_float = (
        label_scores(checkpoint.probe[f"{form}_logits"][: len(samples)], checkpoint.labels)
        for form in ("reference", "float")
    )
    patients = tuple(sample.patient for sample in samples)
    change = paired_map_difference(int8, in_float, targets, patients, seed=opened.recipe.seed)
    return Comparison(
        images=len(samples),
        in_float=mean_average_precision(in_float, targets),
        in_int8=mean_average_precision(int8, targets),
        change=change,
        flips=int(((int8 > 0) != (in_float > 0)).sum()),
        decisions=targets.size,
    )
