"""Parity of a sealed bundle, on any machine: its own reference against every target that runs here.

Nothing is needed besides the bundle: the canonical graph is an entry of it, the operating point
stands in its manifest. A table adds images and, where it has labels, mAP; without one the golden
images are compared, and drawn pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bundle import Bundle
from qdr_edge.errors import BundleError, DatasetError, ImageError, RecipeError
from qdr_edge.files import sha256_bytes
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import MapSession, Session, choose_target, open_bundle, open_model, refusal
from qdr_edge.runtime.onnx_check import check_onnx
from qdr_edge.samples import SampleSet, read_csv
from qdr_export.map_evidence import equal_maps
from qdr_export.maps import has_maps
from qdr_export.parity import (
    GATES,
    UNAVAILABLE,
    Comparison,
    Limits,
    ParityReport,
    Rung,
    Truth,
    ladder_order,
)
from qdr_export.reference import Reference
from qdr_export.rungs import FLOAT_TWIN, REFERENCE, Outputs, as_written, open_as_written
from qdr_export.seal import CANONICAL_ENTRY

DRAWN_IMAGES = 32
_BATCH = 8

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Compared:
    """What was compared.

    Args:
        report: The ladder.
        images: Number of images by kind.
        equal_maps: By target, images whose maps equal the reference's; empty without maps.
        map_images: Images whose maps were compared.
    """

    report: ParityReport
    images: Mapping[str, int]
    equal_maps: Mapping[str, int]
    map_images: int

    def document(self, bundle: Bundle) -> dict[str, Any]:
        """The JSON object, of the same form as what export writes beside a bundle."""
        manifest = bundle.manifest
        rule = manifest.decision.rule(manifest.labels.label_set())
        maps = {"images": self.map_images, "equal": dict(self.equal_maps)}
        return {
            "format": "qdr-parity",
            "version": 1,
            "made_by": "parity",
            "name": manifest.bundle_id,
            "bundle_sha256": bundle.sha256,
            "signed_by": bundle.key_id,
            "modality": manifest.modality,
            "synthetic": manifest.synthetic,
            "proven": manifest.proven,
            "images": dict(self.images),
            "rule": rule.to_dict(),
            "bytes": {
                name: len(bundle.entries[artefact.entry])
                for name, artefact in manifest.artefacts.items()
            },
            "maps": maps if self.equal_maps else None,
            **self.report.to_dict(),
        }


def compare_bundle(
    bundle: Bundle,
    *,
    data: Path | None = None,
    targets: Sequence[str] = (),
    limits: Limits | None = None,
    threads: int = 0,
    begin: Callable[[int], None] = lambda _images: None,
    advance: Callable[[int], None] = lambda _images: None,
) -> Compared:
    """Run the reference and every target over the same pixels.

    Args:
        bundle: Verified.
        data: Table of images; None takes the golden images and drawn pixels.
        targets: Targets to compare; each must run here. None given: all, those that cannot run
            are reported as unavailable.
        limits: What the gates allow.
        threads: Threads of a runtime; 0 takes every core.
        begin: Called with the number of images.
        advance: Called with the number of images done.

    Raises:
        BundleError: The bundle carries no reference.
        CompatibilityError: It has no such target, or none that runs here.
        BackendError: A target that was asked for cannot run here, or refuses its artefact.
        DatasetError: The table is wrong, or has no image of the bundle's modality.
        ImageError: An image of the table cannot be read.
    """
    manifest = bundle.manifest
    if not targets:
        # Raises with every target's reason when none runs here: nothing compared is no success.
        choose_target(bundle)
    rule = manifest.decision.rule(manifest.labels.label_set())
    reference = _reference(bundle)
    spec = _contract(bundle)
    samples = _table(bundle, data) if data is not None else None
    pictures = _pictures(bundle, spec) if samples is None else []
    names = (
        [name for name, _ in pictures]
        if samples is None
        else [str(sample.file) for sample in samples]
    )
    begin(len(names))
    with ExitStack() as stack:
        forms, missing = _open(bundle, targets, threads, stack)
        explaining = _explaining(bundle, forms)
        logits: dict[str, list[NDArray[np.float32]]] = {n: [] for n in (REFERENCE, *forms)}
        maps: dict[str, list[NDArray[np.float32]]] = {}
        for batch in _batches(samples, pictures, spec):
            logits[REFERENCE].append(reference.infer(batch))
            for name, form in forms.items():
                logits[name].append(form.infer(batch))
            if explaining:
                maps.setdefault(REFERENCE, []).append(reference.infer_maps(batch))
            for name, form in explaining.items():
                maps.setdefault(name, []).append(form.infer_maps(batch)[1])
            advance(len(batch))
        versions = {name: f"{form.backend} {form.version}" for name, form in forms.items()}
    outputs = Outputs(
        {name: np.concatenate(part) for name, part in logits.items()},
        versions,
        (),
        {name: np.concatenate(part) for name, part in maps.items()},
    )
    step = max(float(artefact.logit_step) for artefact in manifest.artefacts.values())
    compare = Comparison(
        outputs, rule, names, limits or Limits(), _truth(samples), sealed_step=step or None
    )
    golden = sum(name.startswith("golden/") for name in names)
    counts = (
        {"golden": golden, "drawn": len(names) - golden}
        if samples is None
        else {"given": len(names)}
    )
    return Compared(
        compare.report(_rungs(compare, bundle, missing)),
        counts,
        equal_maps(outputs) if maps else {},
        len(outputs.maps[REFERENCE]) if maps else 0,
    )


def _rungs(compare: Comparison, bundle: Bundle, missing: Mapping[str, str]) -> Iterator[Rung]:
    versions = compare.outputs.versions
    if FLOAT_TWIN in versions:
        yield compare.twin(FLOAT_TWIN, versions[FLOAT_TWIN])
    backends = {name: x.backend for name, x in bundle.manifest.artefacts.items()}
    for name in ladder_order(backends):
        if name in versions:
            exact = bundle.artefact(name).tolerance_steps == 0
            yield compare.rung(name, versions[name], exact=exact)
        elif name in missing:
            yield Rung(name, GATES, UNAVAILABLE, reason=missing[name])
            if (stand_in := as_written(name)) in versions:
                yield compare.rung(stand_in, versions[stand_in], gates=False)


def _open(
    bundle: Bundle, targets: Sequence[str], threads: int, stack: ExitStack
) -> tuple[dict[str, Session], dict[str, str]]:
    """Every form that runs here, and why the other targets do not."""
    forms: dict[str, Session] = {}
    missing: dict[str, str] = {}
    twin = _twin(bundle)
    if twin is not None:
        forms[FLOAT_TWIN] = open_model("onnxruntime", twin, threads=threads)
        stack.callback(forms[FLOAT_TWIN].close)
    for name in dict.fromkeys(targets or sorted(bundle.manifest.artefacts)):
        problem = refusal(bundle, name)
        if problem is None or targets:
            # Raises what refuses it, where it was asked for by name.
            forms[name] = open_bundle(bundle, name, threads)
            stack.callback(forms[name].close)
            continue
        missing[name] = f"{problem.what}; {problem.fix}" if problem.fix else problem.what
        artefact = bundle.artefact(name)
        if artefact.backend in ("onnxruntime", "tensorrt"):
            model = bundle.entries[artefact.entry]
            check_onnx(model, where=f"{bundle.name}: {artefact.entry}")
            forms[as_written(name)] = open_as_written(model, threads)
            stack.callback(forms[as_written(name)].close)
    return forms, missing


def _twin(bundle: Bundle) -> bytes | None:
    """The float network, if it stands beside the bundle and is the one that was compared."""
    if bundle.path is None:
        return None
    file = bundle.path.with_name(bundle.path.name.removesuffix(".qdr") + ".float.onnx")
    try:
        content = file.read_bytes()
    except OSError:
        return None
    same = sha256_bytes(content) == bundle.manifest.provenance.get("float_twin_sha256")
    return content if same else None


def _reference(bundle: Bundle) -> Reference:
    canonical = bundle.entries.get(CANONICAL_ENTRY)
    if canonical is None:
        raise BundleError(
            f"no entry {CANONICAL_ENTRY}",
            where=bundle.name,
            expected="the canonical graph, which export puts in",
            fix="export the bundle again with this release",
        )
    check_onnx(canonical, where=f"{bundle.name}: {CANONICAL_ENTRY}")
    return Reference(canonical)


def _contract(bundle: Bundle) -> PreprocessSpec:
    try:
        return PreprocessSpec.from_dict(dict(bundle.manifest.preprocess.spec))
    except RecipeError as error:
        raise BundleError(
            f"preprocessing contract: {error.what}",
            where=bundle.name,
            expected=error.expected,
            fix="use the qdr-edge release that exported the bundle, or export it again",
        ) from error


def _table(bundle: Bundle, data: Path) -> SampleSet:
    manifest = bundle.manifest
    samples = read_csv(data, manifest.labels.label_set()).select(manifest.modality)
    if not len(samples):
        raise DatasetError(
            f"no {manifest.modality} image",
            where=str(data),
            expected=f"images for this {manifest.modality} bundle",
            fix="name another table, or leave --data out",
        )
    return samples


def _truth(samples: SampleSet | None) -> Truth | None:
    """Labels and patients of a table; None where no row has a label."""
    if samples is None or not samples.targets().any():
        return None
    return Truth(np.arange(len(samples)), samples.targets(), samples.patients())


def _pictures(bundle: Bundle, spec: PreprocessSpec) -> list[tuple[str, Pixels]]:
    """The golden images that can be read, and pixels that no camera makes."""
    found = []
    for vector in bundle.manifest.golden:
        try:
            found.append((vector.image, load_image(bundle.entries[vector.image], spec)))
        except ImageError:
            continue  # the invalid one, which is there for the self-test
    return found + list(draw(spec.size, DRAWN_IMAGES))


def draw(size: int, count: int) -> Iterator[tuple[str, Pixels]]:
    """Random pixels in patches of different sizes, the same each time.

    Noise alone would average out in the first layers; patches reach codes that saturate.
    """
    for index in range(count):
        random = np.random.default_rng(index)
        patch = 2 ** (index % 6)
        cells = -(-size // patch)
        coarse = random.integers(0, 256, (3, cells, cells), np.uint8)
        pixels = coarse.repeat(patch, 1).repeat(patch, 2)[:, :size, :size]
        yield f"drawn/{index}-patches-of-{patch}", np.ascontiguousarray(pixels)


def _batches(
    samples: SampleSet | None, pictures: Sequence[tuple[str, Pixels]], spec: PreprocessSpec
) -> Iterator[Pixels]:
    count = len(pictures) if samples is None else len(samples)
    for start in range(0, count, _BATCH):
        rows = range(start, min(start + _BATCH, count))
        if samples is None:
            yield np.stack([pictures[row][1] for row in rows])
        else:
            yield np.stack([load_image(samples[row].file, spec) for row in rows])


def _explaining(bundle: Bundle, forms: Mapping[str, Session]) -> dict[str, MapSession]:
    """The forms that compute maps, where the reference does."""
    if not has_maps(bundle.entries[CANONICAL_ENTRY]):
        return {}
    return {n: form for n, form in forms.items() if isinstance(form, MapSession) and form.has_maps}
