"""The self-test: golden images must come out as recorded – pixels, logits and decision.

At power-on one vector of each kind runs: one that reaches the network, one that the gate stops, one
that cannot be read. A fault of the preprocessing, the runtime or the processor changes bits of any
image, so one inference finds it; all vectors run at installation and in `qdr-edge verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdr_edge.errors import SelfTestError
from qdr_edge.files import sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.bundle import Bundle
    from qdr_edge.decision import Decision
    from qdr_edge.manifest import GoldenVector


@dataclass(frozen=True)
class SelfTestResult:
    """What the self-test saw: vectors in all, those that ran through the network, worst logit."""

    vectors: int
    inferences: int
    largest_difference: float


@dataclass(frozen=True, eq=False)
class Look:
    """One image after the network, or the decision that kept it from getting there.

    Args:
        pixels: uint8 [3, S, S]; None if the image could not be read.
        logits: float32 [K]; None if the image never reached the network.
        decision: What the device answers.
        maps: float32 [K, h, w], where in the pixels each label's logit came from; None if they were
            not asked for or the image never reached the network.
    """

    pixels: NDArray[np.uint8] | None
    logits: NDArray[np.float32] | None
    decision: Decision
    maps: NDArray[np.float32] | None = None


def power_on_vectors(bundle: Bundle, target: str) -> tuple[GoldenVector, ...]:
    """The golden vectors that a device runs whenever it starts: the first of each kind.

    Args:
        bundle: Its manifest is verified.
        target: A vector reaches the network if logits of this target are recorded.
    """
    first: dict[str, GoldenVector] = {}
    for vector in bundle.manifest.golden:
        first.setdefault("network" if target in vector.logits else vector.outcome, vector)
    return tuple(first.values())


def compare_golden(
    bundle: Bundle, target: str, looks: Sequence[tuple[GoldenVector, Look]]
) -> SelfTestResult:
    """Compare what came out with what was recorded.

    Args:
        bundle: The bundle under test.
        target: The target that answered.
        looks: Golden vectors, each with what its image became.

    Raises:
        SelfTestError: a vector did not come out as recorded, or none tests the network.
    """
    inferences = 0
    largest = 0.0
    for vector, look in looks:
        digest = "" if look.pixels is None else sha256_bytes(look.pixels.tobytes())
        if digest != vector.preprocessed_sha256:
            what = "preprocessing gave other pixels"
            raise _mismatch(bundle, target, vector, what, "the same bytes")
        if look.logits is not None:
            largest = max(largest, _compare_logits(bundle, target, vector, look.logits))
            inferences += 1
        found = look.decision.outcome.value
        if found != vector.outcome:
            problem = f"outcome {found} {look.decision.reason}".strip()
            raise _mismatch(bundle, target, vector, problem, vector.outcome)
        positives = tuple(label.code for label in look.decision.findings)
        if positives != vector.positives:
            problem = f"positive: {' '.join(positives) or 'none'}"
            expected = " ".join(vector.positives) or "no label"
            raise _mismatch(bundle, target, vector, problem, expected)
    if inferences == 0:
        raise SelfTestError(
            "no golden vector tests the network",
            where=bundle.name,
            expected="at least one gradable golden image",
            fix="export the bundle again with validation images",
        )
    return SelfTestResult(len(looks), inferences, largest)


def _compare_logits(
    bundle: Bundle, target: str, vector: GoldenVector, logits: NDArray[np.float32]
) -> float:
    if target not in vector.logits:
        raise _mismatch(bundle, target, vector, f"no recorded logits for {target}", "some")
    recorded = [float(text) for text in vector.logits[target]]
    if len(recorded) != len(logits):
        problem = f"{len(logits)} logits"
        raise _mismatch(bundle, target, vector, problem, f"{len(recorded)}")
    tolerance = bundle.artefact(target).logit_tolerance
    differences = [abs(float(new) - old) for new, old in zip(logits, recorded, strict=True)]
    # `not <=` rather than `>`: a NaN must fail.
    if not all(difference <= tolerance for difference in differences):
        worst = max(range(len(recorded)), key=lambda k: differences[k])
        code = bundle.manifest.labels.codes[worst]
        problem = f"logit of {code} is {float(logits[worst])!r}"
        raise _mismatch(
            bundle, target, vector, problem, f"{recorded[worst]!r} within {tolerance:g}"
        )
    return max(differences)


def _mismatch(
    bundle: Bundle, target: str, vector: GoldenVector, what: str, expected: str
) -> SelfTestError:
    return SelfTestError(
        f"golden vector {vector.name}: {what}",
        where=f"{bundle.name}: target {target}",
        expected=expected,
        fix="do not use this device with this bundle; try another --target, see `qdr-edge doctor`",
    )
