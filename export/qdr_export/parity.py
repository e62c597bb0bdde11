"""Parity: does every form of a student decide as its reference does, image by image?

The rule is frozen before any form is compared. A rung that gates and flips one decision fails the
export; a rung whose runtime is not here is *unavailable*, which is never counted as passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.decision import DecisionRule, label_decisions, label_scores
from qdr_export.emission import Emission
from qdr_export.rungs import (
    FLOAT_TWIN,
    REFERENCE,
    SOURCE,
    TRAINER,
    TRAINER_PROBES,
    Outputs,
    as_written,
)

# A scheme with free scales, and a layer in float, round differently from runtime to runtime.
ROUNDING_STEPS = 3
# How a rung counts.
GATES, INFORMS = "gates", "informs"
RAN, UNAVAILABLE = "ran", "unavailable"


@dataclass(frozen=True)
class Flip:
    """One label of one image that a form decides otherwise than the reference.

    Logits are as thresholds see them: the log-odds, where labels exclude each other.
    """

    image: str
    label: str
    reference_logit: float
    logit: float
    threshold: float


@dataclass(frozen=True)
class Rung:
    """One form of the student compared with the reference.

    Args:
        name: The form.
        role: "gates" if a flip forbids sealing, "informs" if it is shown only.
        status: "ran" or "unavailable".
        runtime: What computed it.
        images: Images compared.
        exact: Images whose logits are all equal bit for bit.
        largest: Largest absolute difference of a logit.
        flips: Every decision that differs.
        reason: Why it is unavailable, and the command that adds it.
    """

    name: str
    role: str
    status: str
    runtime: str = ""
    images: int = 0
    exact: int = 0
    largest: float = 0.0
    flips: tuple[Flip, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ParityReport:
    """All rungs of one student."""

    rungs: tuple[Rung, ...]

    @property
    def failures(self) -> tuple[Rung, ...]:
        """Rungs that forbid sealing."""
        return tuple(rung for rung in self.rungs if rung.role == GATES and rung.flips)

    def rung(self, name: str) -> Rung:
        """The rung of a form."""
        return next(rung for rung in self.rungs if rung.name == name)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with every flip."""
        return {"rungs": [asdict(rung) for rung in self.rungs]}

    def summary(self) -> list[dict[str, Any]]:
        """The rungs with the number of flips in place of the list."""
        return [{**asdict(rung), "flips": len(rung.flips)} for rung in self.rungs]


def compare_rungs(
    outputs: Outputs, emission: Emission, rule: DecisionRule, images: Sequence[str]
) -> ParityReport:
    """Compare every form with the reference under a frozen rule.

    Args:
        outputs: Logits of all forms.
        emission: The artefacts, for those that could not run.
        rule: The frozen operating point.
        images: Name of each image, for the list of exceptions.
    """
    rungs = []
    for name in TRAINER_PROBES:
        role = GATES if name == TRAINER else INFORMS
        if name in outputs.logits:
            runtime = "ONNX Runtime, at import" if name == SOURCE else "torch"
            rungs.append(_rung(name, role, runtime, outputs, rule, images))
        elif role == GATES and SOURCE not in outputs.logits:
            reason = "the images are not those the checkpoint's probe is of, or it has none"
            rungs.append(Rung(name, role, UNAVAILABLE, reason=reason))
    for name, artefact in emission.artefacts.items():
        if name in outputs.logits:
            rungs.append(_rung(name, GATES, outputs.versions[name], outputs, rule, images))
            continue
        here = artefact.availability
        reason = f"{here.reason}; install with `{here.install}`" if here.install else here.reason
        rungs.append(Rung(name, GATES, UNAVAILABLE, reason=reason))
        if (stand_in := as_written(name)) in outputs.logits:
            version = outputs.versions[stand_in]
            rungs.append(_rung(stand_in, INFORMS, version, outputs, rule, images))
    version = outputs.versions[FLOAT_TWIN]
    rungs.append(_rung(FLOAT_TWIN, INFORMS, version, outputs, rule, images))
    return ParityReport(tuple(rungs))


def rounding_steps(checkpoint: Checkpoint) -> int:
    """How many steps of a logit a runtime may be away from the reference; 0 demands equal bits."""
    exact = checkpoint.scheme is not None and checkpoint.scheme.power_of_two
    return 0 if exact and not checkpoint.graph.float_layers else ROUNDING_STEPS


def _rung(
    name: str,
    role: str,
    runtime: str,
    outputs: Outputs,
    rule: DecisionRule,
    images: Sequence[str],
) -> Rung:
    reference, logits = outputs.logits[REFERENCE], outputs.logits[name]
    # A logit that is no number is a flip: NaN would compare as "no flip" for a negative label.
    broken = ~np.isfinite(logits)
    if rule.labels.exclusive:
        broken = np.broadcast_to(broken.any(axis=1, keepdims=True), logits.shape)
    finite = np.where(broken, 0, logits)
    differ = label_decisions(reference, rule) != label_decisions(finite, rule)
    flipped = np.argwhere(differ | broken)
    expected = label_scores(reference, rule.labels)
    found = np.where(broken, np.inf, label_scores(finite, rule.labels))
    return Rung(
        name=name,
        role=role,
        status=RAN,
        runtime=runtime,
        images=len(logits),
        exact=int((reference == logits).all(axis=1).sum()),
        largest=float(
            np.where(broken, np.inf, np.abs(reference.astype(np.float64) - finite)).max(initial=0.0)
        ),
        flips=tuple(
            Flip(
                images[i],
                rule.labels.codes[k],
                float(expected[i, k]),
                float(found[i, k]),
                float(rule.logit_thresholds[k]),
            )
            for i, k in flipped
        ),
    )
