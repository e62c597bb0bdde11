"""Open a bundle, prove that it still decides as it did when it was sealed, and screen images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qdr_edge.bundle import Bundle, OnStep, read_bundle
from qdr_edge.decision import Decision, Outcome, aggregate, decide, rejected
from qdr_edge.errors import BackendError, SelfTestError
from qdr_edge.intake import Intake, Prepared
from qdr_edge.runtime import MapSession, Session, choose_target, open_bundle
from qdr_edge.runtime.pixels import no_maps
from qdr_edge.self_test import Look, SelfTestResult, compare_golden, power_on_vectors

if TYPE_CHECKING:
    from qdr_edge.intake import Image
    from qdr_edge.keys import TrustStore
    from qdr_edge.manifest import GoldenVector


def load(
    path: str | Path,
    *,
    target: str | None = None,
    threads: int = 0,
    allow_unsigned: bool = False,
    trust: TrustStore | None = None,
    minimum_security_version: int = 0,
    full_self_test: bool = False,
    on_step: OnStep | None = None,
) -> Screener:
    """Verify a bundle, open its model and run the power-on self-test.

    What will be used is verified: signature, manifest, the target's artefact, the golden images.
    `qdr-edge install` and `qdr-edge verify` look at every entry and every golden vector.

    Args:
        path: the `.qdr` file, or the folder of `qdr-edge install --root`: then the active bundle
            under the device's own rollback counter.
        target: which artefact; None takes the first that runs on this machine.
        threads: threads of one inference; 0 takes every core this process may use.
        allow_unsigned: accept a bundle without a signature, for tests.
        trust: accepted signers; None means this user's trust store.
        minimum_security_version: the device's rollback counter.
        full_self_test: run every golden vector instead of one of each kind.
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

    def used(bundle: Bundle) -> set[str]:
        name = target if target is not None else choose_target(bundle)
        vectors = bundle.manifest.golden if full_self_test else power_on_vectors(bundle, name)
        return {bundle.artefact(name).entry, *(vector.image for vector in vectors)}

    bundle = read_bundle(
        file if content is None else content,
        trust=trust,
        allow_unsigned=allow_unsigned,
        minimum_security_version=minimum_security_version,
        on_step=on_step,
        origin=file,
        only=used,
    )
    return open_screener(
        bundle, target=target, threads=threads, full_self_test=full_self_test, on_step=on_step
    )


def open_screener(
    bundle: Bundle,
    *,
    target: str | None = None,
    threads: int = 0,
    full_self_test: bool = True,
    on_step: OnStep | None = None,
) -> Screener:
    """The second half of `load`, for a bundle that `read_bundle` verified: model and self-test.

    Raises:
        BundleError, CompatibilityError: the contract is damaged, or nothing in the bundle is for
            this machine.
        BackendError: the runtime is missing or refuses the model.
        SelfTestError: a golden vector did not come out as recorded.
    """
    report = on_step or (lambda _line: None)
    name = target if target is not None else choose_target(bundle)
    intake = Intake(bundle)
    vectors = bundle.manifest.golden if full_self_test else power_on_vectors(bundle, name)
    # The runtime opens the model while the golden images are made ready: both take long, and
    # neither needs the other. Both import NumPy, whose modules import each other: two threads
    # that begin with it at once may see half of it.
    import numpy  # noqa: F401

    with ThreadPoolExecutor(max_workers=1) as other:
        opening = other.submit(open_bundle, bundle, name, threads)
        golden = [(vector, intake.take(bundle.entries[vector.image])) for vector in vectors]
        session = opening.result()
    try:
        screener = Screener(bundle, session, name, intake)
        tested = screener._self_test(golden)
    except BaseException:
        session.close()
        raise
    report(f"model: target {name} opened by {session.backend} {session.version}")
    report(
        f"self-test: {tested.vectors} golden vectors, {tested.inferences} inferences, largest "
        f"logit difference {tested.largest_difference:g}"
    )
    return screener


class Screener:
    """A proven model that turns images into decisions; safe to use from several threads."""

    def __init__(
        self, bundle: Bundle, session: Session, target: str, intake: Intake | None = None
    ) -> None:
        """Take over an opened session.

        Raises:
            BundleError: the preprocessing contract does not match its hash or the model.
            CompatibilityError: this software implements another version of the contract.
        """
        manifest = bundle.manifest
        self.bundle = bundle
        self.target = target
        self.session = session
        self.intake = intake or Intake(bundle)
        self.spec = self.intake.spec
        self.rule = manifest.decision.rule(manifest.labels.label_set())
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
        """Run the golden vectors through the whole path; a failure makes every answer FAULT.

        All of them, unless `load` opened the bundle: then those of power-on, or all of them with
        `full_self_test`.

        Raises:
            SelfTestError: a vector did not come out as recorded, or none tests the network.
            BackendError: the screener is closed.
        """
        self._check_open()
        entries = self.bundle.entries
        # A bundle that `load` opened holds what power-on needs; the others are in the file.
        golden = [
            (vector, self.intake.take(entries[vector.image]))
            for vector in self.bundle.manifest.golden
            if vector.image in entries
        ]
        return self._self_test(golden)

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

    def _self_test(self, golden: Sequence[tuple[GoldenVector, Prepared]]) -> SelfTestResult:
        looks = [(vector, self._answer(prepared)) for vector, prepared in golden]
        try:
            return compare_golden(self.bundle, self.target, looks)
        except SelfTestError as error:
            self._fault = f"self-test failed: {error.what}"
            raise

    def _look(self, image: Image, *, maps: bool = False) -> Look:
        return self._answer(self.intake.take(image), maps=maps)

    def _answer(self, prepared: Prepared, *, maps: bool = False) -> Look:
        modality, pixels = self.spec.modality, prepared.pixels
        if prepared.rejected is not None or pixels is None:
            assert prepared.rejected is not None, "an image without pixels was rejected"
            return Look(pixels, None, self._sealed(prepared.rejected))
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

    def _sealed(self, decision: Decision) -> Decision:
        return replace(decision, bundle_id=self.bundle.manifest.bundle_id)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("screener is closed", expected="an open one", fix="load it again")
