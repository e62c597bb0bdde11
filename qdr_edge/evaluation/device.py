"""A bundle's answers, computed as a device computes them: verified, self-tested, gated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bundle import Bundle
from qdr_edge.decision import Outcome
from qdr_edge.errors import DatasetError
from qdr_edge.evaluation.subject import (
    DATA_FILE,
    FLOAT,
    INT8,
    Rejection,
    Subject,
    find_run,
    select_split,
    split_notes,
)
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import TrustStore
from qdr_edge.runtime import Session, open_model
from qdr_edge.samples import SampleSet, read_csv
from qdr_edge.screener import Screener, load

Logits = NDArray[np.float32]


def open_bundle(
    path: Path,
    split: str,
    *,
    data: Path | None = None,
    target: str | None = None,
    threads: int = 0,
    allow_unsigned: bool = False,
    trust: TrustStore | None = None,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Subject:
    """Screen every image of a split with a bundle.

    Args:
        path: The `.qdr` file.
        split: "train", "val", "test" or "all".
        data: Table of images; None takes the data.csv of the run that the bundle lies in.
        target: Which artefact; None takes the first that runs here.
        threads: Threads of one inference; 0 takes every core.
        allow_unsigned: Open a bundle without a signature.
        trust: Accepted signers; None means this user's trust store.
        advance: Called with images done and images in all.

    Raises:
        BundleError, BackendError, SelfTestError: See `screener.load`.
        DatasetError: There is no table, or it has no such image.
    """
    run = find_run(path)
    with ExitStack() as stack:
        screener = stack.enter_context(
            load(path, target=target, threads=threads, allow_unsigned=allow_unsigned, trust=trust)
        )
        bundle = screener.bundle
        table = data if data is not None else run / DATA_FILE if run else None
        if table is None:
            raise DatasetError(
                "no run around it that says which images to evaluate on",
                where=str(path),
                expected="a bundle in RUN/export, or a table",
                fix="name a CSV of labelled images with --data",
            )
        every = read_csv(table, bundle.manifest.labels.label_set())
        samples = select_split(every, bundle.manifest.modality, split)
        notes = list(split_notes(split))
        twin = _open_twin(bundle, path, screener, threads, notes)
        if twin is not None:
            stack.callback(twin.close)
        logits, rejections, graded = _screen(screener, twin, samples, advance)
    return Subject(
        name=bundle.manifest.bundle_id,
        facts=_facts(path, screener),
        samples=samples,
        split=split,
        rule=screener.rule,
        point=_point(bundle),
        logits=logits,
        graded=graded,
        rejections=rejections,
        gated=True,
        artefact_sha256=sha256_bytes(
            bundle.entries[bundle.artefact(screener.target).entry],
        ),
        bundle_id=bundle.manifest.bundle_id,
        folder=run if run is not None else path.resolve().parent,
        notes=tuple(notes),
    )


def _screen(
    screener: Screener,
    twin: Session | None,
    samples: SampleSet,
    advance: Callable[[int, int], None],
) -> tuple[dict[str, Logits], tuple[Rejection, ...], NDArray[np.bool_]]:
    int8: list[Logits] = []
    floats: list[Logits] = []
    rejections = []
    graded = np.zeros(len(samples), bool)
    for row, sample in enumerate(samples):
        look = screener.look(sample.file)
        outcome = look.decision.outcome
        if outcome in (Outcome.POSITIVE, Outcome.NEGATIVE):
            assert look.logits is not None
            assert look.pixels is not None
            graded[row] = True
            int8.append(look.logits)
            if twin is not None:
                floats.append(twin.infer(look.pixels[None])[0])  # [3, S, S] -> [1, 3, S, S]
        else:
            reason = look.decision.reason
            rejections.append(Rejection(sample.file.name, outcome.value, reason))
        advance(row + 1, len(samples))
    if not int8:
        counts = Counter(rejection.outcome for rejection in rejections)
        raise DatasetError(
            f"none of {len(samples)} images can be graded ("
            + ", ".join(f"{outcome} {n}" for outcome, n in counts.items())
            + ")",
            where=samples.source,
            expected=f"images that this {screener.spec.modality} bundle accepts",
            fix=f"the first says: {rejections[0].reason}",
        )
    logits = {INT8: np.stack(int8)}
    if twin is not None:
        logits[FLOAT] = np.stack(floats)
    return logits, tuple(rejections), graded


def _open_twin(
    bundle: Bundle, path: Path, screener: Screener, threads: int, notes: list[str]
) -> Session | None:
    """The float model the bundle was made from, on the runtime of the artefact."""
    file = path.with_name(path.name.removesuffix(".qdr") + ".float.onnx")
    sealed = bundle.manifest.provenance.get("float_twin_sha256")
    try:
        content = file.read_bytes()
    except OSError:
        notes.append(f"no float beside it: {file.name} does not stand beside the bundle")
        return None
    # The very bytes that were hashed are opened.
    if sha256_bytes(content) != sealed:
        notes.append(f"no float beside it: {file.name} is not the float model it was made from")
        return None
    return open_model(bundle.artefact(screener.target).backend, content, threads=threads)


def _facts(path: Path, screener: Screener) -> dict[str, object]:
    manifest = screener.bundle.manifest
    return {
        "kind": "bundle",
        "path": str(path),
        "bundle_id": manifest.bundle_id,
        "bundle_sha256": screener.bundle.sha256,
        "signed_by": screener.bundle.key_id,
        "proven": manifest.proven,
        "modality": manifest.modality,
        "synthetic": manifest.synthetic,
        "target": screener.target,
        "backend": f"{screener.session.backend} {screener.session.version}",
    }


def _point(bundle: Bundle) -> dict[str, object]:
    decision = bundle.manifest.decision
    manifest = bundle.manifest
    first = decision.thresholds[0]
    return {
        "rule": decision.rule(manifest.labels.label_set()).to_dict(),
        "fitted_for": first.fitted_for,
        "fitted_on": f"sealed in the bundle, split {first.split}",
        "rejection_rate": decision.rejection_rate,
        "labels": [threshold.model_dump() for threshold in decision.thresholds],
    }
