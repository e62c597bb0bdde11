"""Parity: does every form of a student decide as its reference does, image by image?

The rule is frozen before any form is compared. Two gates can fail a rung, and one failed rung
forbids sealing:

* decisions: none may flip where a form computes the reference's integers; elsewhere a stated share
  of all decisions may. A logit that is no number always fails.
* metric: the int8 network must not lose more mAP against its float twin than a stated drop. Only
  an interval beyond the limit fails, only one within it holds; for any other the images are too
  few, and the rung says so.

A rung whose runtime is not here is *unavailable*, which is never counted as passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.decision import DecisionRule, label_decisions, label_scores
from qdr_edge.metrics import Estimate, paired_map_difference
from qdr_export.emission import Emission
from qdr_export.proof.rungs import (
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
# How a rung counts: by its decisions, by its metric, or not at all.
GATES, METRIC, INFORMS = "gates", "metric", "informs"
RAN, UNAVAILABLE = "ran", "unavailable"
# What a gate says.
HELD, FAILED, UNSURE, UNGATED = "held", "failed", "cannot tell", ""
# A bootstrap of fewer patients is too narrow to judge by.
MIN_PATIENTS = 10
_CODES = 127
_BACKENDS = ("onnxruntime", "openvino", "native", "tensorrt")


@dataclass(frozen=True)
class Limits:
    """What the gates allow.

    Args:
        flips: Share of decisions that may flip where a form does not compute the very integers.
        drop: Points of mAP that int8 may cost against the float twin.
    """

    flips: float = 0.002
    drop: float = 2.0


@dataclass(frozen=True)
class Truth:
    """What is known of some of the compared images.

    Args:
        rows: Which of them, as positions.
        targets: Their labels, 0/1 [n, K].
        patients: Their patients, the unit of the bootstrap.
    """

    rows: NDArray[np.intp]
    targets: NDArray[np.uint8]
    patients: tuple[str, ...]


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
        role: "gates" if its decisions can forbid sealing, "metric" if its mAP can, "informs" if it
            is shown only.
        status: "ran" or "unavailable".
        runtime: What computed it.
        images: Images compared.
        exact: Images whose logits are all equal bit for bit.
        largest: Largest absolute difference of a logit.
        steps: The same in steps; a step is the reference's largest logit / 127.
        unequal: Share of logits that differ.
        decisions: Decisions compared: images times labels.
        flips: Every decision that differs.
        allowed: How many may.
        map_difference: mAP minus that of the reference, paired; None without labels.
        verdict: "held", "failed", "cannot tell", or "" of a rung that gates nothing.
        reason: Why it is unavailable, with the command that adds it; or why the verdict.
    """

    name: str
    role: str
    status: str
    runtime: str = ""
    images: int = 0
    exact: int = 0
    largest: float = 0.0
    steps: float = 0.0
    unequal: float = 0.0
    decisions: int = 0
    flips: tuple[Flip, ...] = ()
    allowed: int = 0
    map_difference: Estimate | None = None
    verdict: str = UNGATED
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with every flip."""
        difference = self.map_difference
        return {
            **asdict(self),
            "map_difference": None if difference is None else difference.to_dict(),
        }


@dataclass(frozen=True)
class ParityReport:
    """All rungs of one student, in the order of the ladder; the reference is none of them."""

    rungs: tuple[Rung, ...]
    limits: Limits = field(default_factory=Limits)
    logit_step: float = 0.0

    @property
    def failures(self) -> tuple[Rung, ...]:
        """Rungs that forbid sealing."""
        return tuple(rung for rung in self.rungs if rung.verdict == FAILED)

    def rung(self, name: str) -> Rung:
        """The rung of a form."""
        return next(rung for rung in self.rungs if rung.name == name)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with every flip."""
        return {
            "rungs": [rung.to_dict() for rung in self.rungs],
            "limits": asdict(self.limits),
            "logit_step": self.logit_step,
        }

    def summary(self) -> list[dict[str, Any]]:
        """The rungs with the number of flips in place of the list."""
        return [{**rung.to_dict(), "flips": len(rung.flips)} for rung in self.rungs]


def compare_rungs(
    outputs: Outputs,
    emission: Emission,
    rule: DecisionRule,
    images: Sequence[str],
    *,
    exact: bool = True,
    limits: Limits | None = None,
    truth: Truth | None = None,
) -> ParityReport:
    """Compare every form with the reference under a frozen rule.

    Args:
        outputs: Logits of all forms.
        emission: The artefacts, for those that could not run.
        rule: The frozen operating point.
        images: Name of each image, for the list of exceptions.
        exact: The network has power-of-two scales and no layer in float: a target that keeps
            every rounding then computes the reference's integers.
        limits: What the gates allow.
        truth: Labels of some of the images.
    """
    compare = Comparison(outputs, rule, images, limits or Limits(), truth)
    rungs = [compare.twin(FLOAT_TWIN, outputs.versions[FLOAT_TWIN])]
    for name in TRAINER_PROBES:
        gates = name == TRAINER
        if name in outputs.logits:
            runtime = "ONNX Runtime, at import" if name == SOURCE else "torch"
            rungs.append(compare.rung(name, runtime, exact=exact, gates=gates))
        elif gates and SOURCE not in outputs.logits:
            reason = "the images are not those the checkpoint's probe is of, or it has none"
            rungs.append(Rung(name, GATES, UNAVAILABLE, reason=reason))
    for name in ladder_order({n: a.backend for n, a in emission.artefacts.items()}):
        artefact = emission.artefacts[name]
        same = exact and not artefact.profile.tolerance_steps
        if name in outputs.logits:
            rungs.append(compare.rung(name, outputs.versions[name], exact=same))
            continue
        here = artefact.availability
        reason = f"{here.reason}; install with `{here.install}`" if here.install else here.reason
        rungs.append(Rung(name, GATES, UNAVAILABLE, reason=reason))
        if (stand_in := as_written(name)) in outputs.logits:
            rungs.append(compare.rung(stand_in, outputs.versions[stand_in], gates=False))
    return compare.report(rungs)


def ladder_order(backends: Mapping[str, str]) -> list[str]:
    """Targets in the order of the ladder, of their backends by name."""
    rank = {backend: place for place, backend in enumerate(_BACKENDS)}
    return sorted(backends, key=lambda name: (rank.get(backends[name], len(rank)), name))


def rounding_steps(checkpoint: Checkpoint) -> int:
    """How many steps of a logit a runtime may be away from the reference; 0 demands equal bits."""
    return 0 if computes_integers(checkpoint) else ROUNDING_STEPS


def computes_integers(checkpoint: Checkpoint) -> bool:
    """Whether every runtime that keeps every rounding computes the reference's integers."""
    exact = checkpoint.scheme is not None and checkpoint.scheme.power_of_two
    return exact and not checkpoint.graph.float_layers


@dataclass(frozen=True)
class Comparison:
    """What every rung of a ladder is compared with, and by which rule.

    Args:
        outputs: Logits of all forms, the reference among them.
        rule: The frozen operating point.
        images: Name of each image.
        limits: What the gates allow.
        truth: Labels of some of the images.
        sealed_step: The step that a bundle states; None takes the images' own.
    """

    outputs: Outputs
    rule: DecisionRule
    images: Sequence[str]
    limits: Limits
    truth: Truth | None = None
    sealed_step: float | None = None

    @property
    def logit_step(self) -> float:
        """The unit of a difference, as bundles state it: the largest reference logit / 127."""
        if self.sealed_step is not None:
            return self.sealed_step
        return float(np.abs(self.outputs.logits[REFERENCE]).max(initial=0.0)) / _CODES

    def report(self, rungs: Iterable[Rung]) -> ParityReport:
        """The ladder of these rungs."""
        return ParityReport(tuple(rungs), self.limits, self.logit_step)

    def rung(self, name: str, runtime: str, *, exact: bool = False, gates: bool = True) -> Rung:
        """Compare a form's decisions.

        Args:
            name: The form.
            runtime: What computed it.
            exact: It must decide as the reference on every image.
            gates: A failure forbids sealing.
        """
        rung, broken = self._compare(name, runtime)
        if not gates:
            return rung
        allowed = 0 if exact else int(self.limits.flips * rung.decisions)
        reason = ""
        if broken:
            reason = f"{broken} logits are no numbers"
        elif len(rung.flips) > allowed:
            reason = f"{len(rung.flips)} of {rung.decisions} decisions flip, {allowed} may"
        verdict = FAILED if reason else HELD
        return replace(rung, role=GATES, allowed=allowed, verdict=verdict, reason=reason)

    def twin(self, name: str, runtime: str) -> Rung:
        """Compare the float twin: its decisions inform, what int8 costs in mAP gates."""
        rung, _ = self._compare(name, runtime)
        if rung.map_difference is None:
            return rung
        patients = len(set(self.truth.patients)) if self.truth else 0
        verdict, reason = metric_verdict(rung.map_difference, self.limits.drop, patients)
        return replace(rung, role=METRIC, verdict=verdict, reason=reason)

    def _compare(self, name: str, runtime: str) -> tuple[Rung, int]:
        """The rung without a verdict, and how many logits are no numbers."""
        rule, reference = self.rule, self.outputs.logits[REFERENCE]
        logits = self.outputs.logits[name]
        not_finite = ~np.isfinite(logits)
        # A logit that is no number is a flip: NaN would compare as "no flip" for a negative label.
        broken = not_finite
        if rule.labels.exclusive:
            broken = np.broadcast_to(broken.any(axis=1, keepdims=True), logits.shape)
        finite = np.where(broken, 0, logits)
        differ = label_decisions(reference, rule) != label_decisions(finite, rule)
        expected = label_scores(reference, rule.labels)
        found = np.where(broken, np.inf, label_scores(finite, rule.labels))
        distance = np.where(broken, np.inf, np.abs(reference.astype(np.float64) - finite))
        largest = float(distance.max(initial=0.0))
        step = self.logit_step
        return Rung(
            name=name,
            role=INFORMS,
            status=RAN,
            runtime=runtime,
            images=len(logits),
            exact=int((reference == logits).all(axis=1).sum()),
            largest=largest,
            steps=largest / step if step else (np.inf if largest else 0.0),
            unequal=float((reference != logits).mean()) if logits.size else 0.0,
            decisions=logits.size,
            flips=tuple(
                Flip(
                    self.images[i],
                    rule.labels.codes[k],
                    float(expected[i, k]),
                    float(found[i, k]),
                    float(rule.logit_thresholds[k]),
                )
                for i, k in np.argwhere(differ | broken)
            ),
            map_difference=self._map_difference(expected, found),
        ), int(not_finite.sum())

    def _map_difference(
        self, reference: NDArray[np.float64], scores: NDArray[np.float64]
    ) -> Estimate | None:
        truth = self.truth
        if truth is None or not len(truth.rows) or not np.isfinite(scores[truth.rows]).all():
            return None
        a, b = scores[truth.rows], reference[truth.rows]
        # Equal scores need no resampling to differ by nothing.
        resamples = 0 if np.array_equal(a, b) else 1000
        found = paired_map_difference(a, b, truth.targets, truth.patients, n_bootstrap=resamples)
        return found if resamples else replace(found, low=found.value, high=found.value)


def metric_verdict(twin_minus_int8: Estimate, limit: float, patients: int) -> tuple[str, str]:
    """Whether int8 costs more mAP than allowed, and why that is the verdict.

    Args:
        twin_minus_int8: mAP of the float twin minus that of the reference, with its interval.
        limit: Points of mAP, 0..100.
        patients: Of how many the images are.
    """
    value, low, high = (
        100 * x for x in (twin_minus_int8.value, twin_minus_int8.low, twin_minus_int8.high)
    )
    if not np.isfinite([low, high]).all():
        return UNSURE, f"n = {twin_minus_int8.n} gives the drop of mAP no interval"
    if patients < MIN_PATIENTS:
        return (
            UNSURE,
            f"resamples of {patients} patients are no interval; {MIN_PATIENTS} are needed",
        )
    drop = f"int8 costs {value:.2f} points of mAP ({low:.2f} to {high:.2f}), {limit:g} may be lost"
    if low > limit:
        return FAILED, drop
    if high <= limit:
        return HELD, drop
    return UNSURE, f"{drop}: n = {twin_minus_int8.n} is too small to tell"
