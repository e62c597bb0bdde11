"""Open a bundle, prove that it still decides as it did when it was sealed, and screen images."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from qdr_edge.bundle import Bundle, OnStep, read_bundle
from qdr_edge.decision import Decision, Outcome, aggregate, decide, rejected
from qdr_edge.errors import (
    BackendError,
    BundleError,
    CompatibilityError,
    ImageError,
    RecipeError,
    SelfTestError,
)
from qdr_edge.files import sha256_bytes
from qdr_edge.gate import GateLimits, check
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import MapSession, Session, choose_target, open_bundle
from qdr_edge.runtime.pixels import no_maps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.keys import TrustStore
    from qdr_edge.manifest import GoldenVector

    Image = str | Path | bytes | NDArray[np.uint8]


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


def load(
    path: str | Path,
    *,
    target: str | None = None,
    threads: int = 0,
    allow_unsigned: bool = False,
    trust: TrustStore | None = None,
    minimum_security_version: int = 0,
    on_step: OnStep | None = None,
) -> Screener:
    """Verify a bundle, open its model and run the power-on self-test.

    Args:
        path: the `.qdr` file, or the folder of `qdr-edge install --root`: then the active bundle
            under the device's own rollback counter.
        target: which artefact; None takes the first that runs on this machine.
        threads: threads of one inference; 0 takes every core this process may use.
        allow_unsigned: accept a bundle without a signature, for tests.
        trust: accepted signers; None means this user's trust store.
        minimum_security_version: the device's rollback counter.
        on_step: called with a line for each step that held.

    Raises:
        BundleError: the bundle is malformed; SignatureError: unsigned, tampered or by a stranger;
            CompatibilityError: not for this software or machine.
        BackendError: the runtime is missing or refuses the model.
        SelfTestError: a golden vector did not come out as recorded.
    """
    file, content = Path(path), None
    if file.is_dir():
        from qdr_edge.slots import read_active

        active = read_active(file)
        file, content = active.path, active.content
        minimum_security_version = max(minimum_security_version, active.state.security_version)
    bundle = read_bundle(
        file if content is None else content,
        trust=trust,
        allow_unsigned=allow_unsigned,
        minimum_security_version=minimum_security_version,
        on_step=on_step,
        origin=file,
    )
    return open_screener(bundle, target=target, threads=threads, on_step=on_step)


def open_screener(
    bundle: Bundle,
    *,
    target: str | None = None,
    threads: int = 0,
    on_step: OnStep | None = None,
) -> Screener:
    """The second half of `load`, for a bundle that `read_bundle` verified: model and self-test.

    Raises:
        CompatibilityError: nothing in the bundle is for this machine.
        BackendError: the runtime is missing or refuses the model.
        SelfTestError: a golden vector did not come out as recorded.
    """
    report = on_step or (lambda _line: None)
    name = target if target is not None else choose_target(bundle)
    session = open_bundle(bundle, name, threads)
    report(f"model: target {name} opened by {session.backend} {session.version}")
    try:
        screener = Screener(bundle, session, name)
        tested = screener.self_test()
    except BaseException:
        session.close()
        raise
    report(
        f"self-test: {tested.vectors} golden vectors, {tested.inferences} inferences, largest "
        f"logit difference {tested.largest_difference:g}"
    )
    return screener


class Screener:
    """A proven model that turns images into decisions; safe to use from several threads."""

    def __init__(self, bundle: Bundle, session: Session, target: str) -> None:
        """Take over an opened session.

        Raises:
            BundleError: the preprocessing contract does not match its hash or the model.
            CompatibilityError: this software implements another version of the contract.
        """
        manifest = bundle.manifest
        self.bundle = bundle
        self.target = target
        self.session = session
        self.spec = _contract(bundle)
        self.rule = manifest.decision.rule(manifest.labels.label_set())
        # GateLimits checks the tree itself and raises BundleError.
        gates = cast("Mapping[str, Sequence[str]]", manifest.decision.gates)
        self.limits = GateLimits.from_dict(gates)
        self._fault = ""
        self._closed = False
        self._lock = threading.Lock()

    def screen(self, image: Image) -> Decision:
        """Decide about one image; a bad image is a decision too, never an error.

        Args:
            image: a path, the content of an image file, or pixels, uint8 [H, W, 3] RGB.

        Returns:
            INVALID_INPUT or UNGRADABLE with the reason, POSITIVE or NEGATIVE with every label's
            probability, or FAULT if the device can no longer be relied upon.

        Raises:
            BackendError: the screener is closed.
        """
        return self.look(image).decision

    def look(self, image: Image, *, maps: bool = False) -> Look:
        """As `screen`, with the pixels and logits behind the decision: for those who evaluate.

        Args:
            image: as for `screen`.
            maps: compute class activation maps too.

        Raises:
            BackendError: the screener is closed, or its artefact computes no maps.
        """
        self._check_open()
        if maps and not self.has_maps:
            raise no_maps()
        if self._fault:
            decision = rejected(Outcome.FAULT, self._fault, self.spec.modality)
            return Look(None, None, self._sealed(decision))
        return self._look(image, maps=maps)

    @property
    def has_maps(self) -> bool:
        """Whether this artefact computes class activation maps."""
        return isinstance(self.session, MapSession) and self.session.has_maps

    def screen_eye(self, images: Sequence[Image]) -> Decision:
        """Decide about all images of one eye: each label's largest logit counts.

        Images that are invalid or ungradable are left out; a FAULT of one is a FAULT of the eye.

        Raises:
            BackendError: the screener is closed.
        """
        self._check_open()
        if self._fault:
            return self._sealed(rejected(Outcome.FAULT, self._fault, self.spec.modality))
        looks = [self._look(image) for image in images]
        for look in looks:
            if look.decision.outcome is Outcome.FAULT:
                return look.decision
        logits = [look.logits for look in looks if look.logits is not None]
        if not logits and looks:
            outcomes = {look.decision.outcome for look in looks}
            worst = Outcome.UNGRADABLE if Outcome.UNGRADABLE in outcomes else Outcome.INVALID_INPUT
            reason = f"none of {len(looks)} images can be graded: {looks[0].decision.reason}"
            return self._sealed(rejected(worst, reason, self.spec.modality))
        return self._sealed(aggregate(logits, self.rule, self.spec.modality))

    def self_test(self) -> SelfTestResult:
        """Run every golden vector through the whole path; a failure makes every answer FAULT.

        Raises:
            SelfTestError: a vector did not come out as recorded, or none tests the network.
            BackendError: the screener is closed.
        """
        self._check_open()
        try:
            return self._run_golden()
        except SelfTestError as error:
            self._fault = f"self-test failed: {error.what}"
            raise

    def close(self) -> None:
        """Free the model; the screener cannot be used afterwards."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self, image: Image, *, maps: bool = False) -> Look:
        modality = self.spec.modality
        try:
            pixels = load_image(image, self.spec)
        except ImageError as error:
            # Not str(error): a result travels further than a terminal, a path need not.
            reason = f"{error.what}; expected {error.expected}" if error.expected else error.what
            return Look(None, None, self._sealed(rejected(Outcome.INVALID_INPUT, reason, modality)))
        gate = check(pixels, modality, self.limits)
        if gate.outcome is not None:
            decision = rejected(gate.outcome, gate.reason, modality)
            return Look(pixels, None, self._sealed(decision))
        found = None
        try:
            batch = pixels[None]  # [3, S, S] -> [1, 3, S, S]
            if maps and isinstance(self.session, MapSession):
                logits, found = (part[0] for part in self.session.infer_maps(batch))
            else:
                logits = self.session.infer(batch)[0]  # [K]
        except Exception as error:
            if self._closed:
                raise
            # Whatever a runtime throws, the answer to a patient's image is FAULT, not a traceback.
            decision = rejected(Outcome.FAULT, f"inference failed: {error}", modality)
            return Look(pixels, None, self._sealed(decision))
        return Look(pixels, logits, self._sealed(decide(logits, self.rule, modality)), found)

    def _run_golden(self) -> SelfTestResult:
        vectors = self.bundle.manifest.golden
        inferences = 0
        largest = 0.0
        for vector in vectors:
            look = self._look(self.bundle.entries[vector.image])
            digest = "" if look.pixels is None else sha256_bytes(look.pixels.tobytes())
            if digest != vector.preprocessed_sha256:
                raise self._mismatch(vector, "preprocessing gave other pixels", "the same bytes")
            if look.logits is not None:
                largest = max(largest, self._compare_logits(vector, look.logits))
                inferences += 1
            found = look.decision.outcome.value
            if found != vector.outcome:
                problem = f"outcome {found} {look.decision.reason}".strip()
                raise self._mismatch(vector, problem, vector.outcome)
            positives = tuple(label.code for label in look.decision.findings)
            if positives != vector.positives:
                expected = " ".join(vector.positives) or "no label"
                raise self._mismatch(vector, f"positive: {' '.join(positives) or 'none'}", expected)
        if inferences == 0:
            raise SelfTestError(
                "no golden vector tests the network",
                where=self.bundle.name,
                expected="at least one gradable golden image",
                fix="export the bundle again with validation images",
            )
        return SelfTestResult(len(vectors), inferences, largest)

    def _compare_logits(self, vector: GoldenVector, logits: NDArray[np.float32]) -> float:
        if self.target not in vector.logits:
            raise self._mismatch(vector, f"no recorded logits for {self.target}", "some")
        recorded = [float(text) for text in vector.logits[self.target]]
        if len(recorded) != len(logits):
            raise self._mismatch(vector, f"{len(logits)} logits", f"{len(recorded)}")
        tolerance = self.bundle.artefact(self.target).logit_tolerance
        differences = [abs(float(new) - old) for new, old in zip(logits, recorded, strict=True)]
        # `not <=` rather than `>`: a NaN must fail.
        if not all(difference <= tolerance for difference in differences):
            worst = max(range(len(recorded)), key=lambda k: differences[k])
            code = self.rule.labels.codes[worst]
            problem = f"logit of {code} is {float(logits[worst])!r}"
            raise self._mismatch(vector, problem, f"{recorded[worst]!r} within {tolerance:g}")
        return max(differences)

    def _mismatch(self, vector: GoldenVector, what: str, expected: str) -> SelfTestError:
        return SelfTestError(
            f"golden vector {vector.name}: {what}",
            where=f"{self.bundle.name}: target {self.target}",
            expected=expected,
            fix="do not use this device with this bundle; try another --target, see "
            "`qdr-edge doctor`",
        )

    def _sealed(self, decision: Decision) -> Decision:
        return replace(decision, bundle_id=self.bundle.manifest.bundle_id)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("screener is closed", expected="an open one", fix="load it again")


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
