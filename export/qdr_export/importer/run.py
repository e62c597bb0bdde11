"""The import in order: read, lift, settle, normalise, prove, and write a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdr_edge.checkpoint import Checkpoint, save_checkpoint
from qdr_edge.errors import DatasetError, ExportError, OutputError
from qdr_edge.files import atomic_write, make_folder, read_input, sha256_bytes
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import SampleSet, read_csv, write_csv
from qdr_export.graph.canonical import build_canonical, is_power_of_two
from qdr_export.importer import grids
from qdr_export.importer.constants import fold
from qdr_export.importer.drafts import Draft
from qdr_export.importer.findings import Findings, Normalisation
from qdr_export.importer.lifting import Lifting, lift
from qdr_export.importer.normalising import Network, normalise
from qdr_export.importer.pixels import MeanStd, settle_ties
from qdr_export.importer.proof import Proof, prove
from qdr_export.importer.reading import Source, read_source
from qdr_export.importer.source import SourceRunner, calibrate
from qdr_export.reference import Reference
from qdr_export.run_folder import PROOF_SPLITS
from qdr_export.sealing.seal import tool_versions

PROBE = "source_logits"
FORMAT = "qdr-run"
_MIDDLE = 128
_BATCH = 8


@dataclass(frozen=True)
class Request:
    """What the user says of a file.

    Args:
        model: The ONNX file.
        data: Table of images, with validation rows.
        labels: What the logits mean, in their order.
        modality: "fundus" or "oct".
        pixels: How the file's float input is made of pixels; None if it reads pixels.
        size: Side of the image, where the file leaves it open.
        preprocess: Fields of the preprocessing contract besides modality and size.
        calibrate: Images to find the ranges of unquantized tensors on; 0 refuses such tensors.
        synthetic: It was trained on synthetic images.
    """

    model: Path
    data: Path
    labels: LabelSet
    modality: str
    pixels: MeanStd | None = None
    size: int | None = None
    preprocess: Mapping[str, int] | None = None
    calibrate: int = 0
    synthetic: bool = False


@dataclass(frozen=True)
class Imported:
    """What an import made, and what it has to say."""

    folder: Path
    checkpoint: Checkpoint
    normalisations: tuple[Normalisation, ...]
    proof: Proof


def import_model(
    request: Request,
    out: Path,
    *,
    name: str = "",
    threads: int = 0,
    step: Callable[[str], None] = lambda _line: None,
) -> Imported:
    """Turn a QDQ ONNX file into a run folder that `qdr-edge export` takes.

    Args:
        request: The file and what it means.
        out: Run folder to make; must be missing or empty.
        name: Name of the run; the folder's.
        threads: Threads of ONNX Runtime; 0 takes every core.
        step: Told what is being done.

    Raises:
        UnsupportedModelError: The file breaks rules; all of them are listed.
        ExportError: It is no ONNX file, or does not fit the labels.
        DatasetError: The table is wrong or has no validation rows.
        OutputError: The folder holds something, or cannot be written.
    """
    _require_vacant(out)
    findings = Findings(str(request.model))
    step("reading the file")
    content = read_input(request.model, ExportError, expected="an ONNX file")
    source, lifting = read_operators(content, request, findings)
    _check_meaning(source, lifting, request)
    spec = PreprocessSpec(request.modality, source.size, **(request.preprocess or {}))
    every = read_csv(request.data, request.labels)
    samples = _proof_samples(every, request)
    drafts = grids.settle(lifting.drafts, findings)
    if request.calibrate and (open_ := grids.gaps(drafts)):
        step("calibrating")
        _calibrate(open_, drafts, source, request, every, spec, threads, findings)
        drafts = grids.settle(drafts, findings)
    grids.report_gaps(drafts, findings)
    findings.check()
    settle_ties(drafts, request.pixels, findings)
    network = normalise(drafts, findings)
    step("proving on the validation and test images")
    checkpoint = _checkpoint(name or out.resolve().name, request, spec, network)
    ours = Reference(build_canonical(checkpoint))
    theirs = SourceRunner(source, request.pixels, [lifting.logits], threads)
    logits: list[list[NDArray[np.float32]]] = [[], []]
    for batch in _batches(samples, spec):
        logits[0].append(theirs(batch)[0])
        logits[1].append(ours.infer(batch))
    original, reference = (np.concatenate(parts) for parts in logits)
    proof = prove(original, reference, samples, request.labels)
    checkpoint = _proven(checkpoint, original, proof, findings, content, every)
    step("writing")
    _write(out, name or out.resolve().name, checkpoint, every)
    return Imported(out, checkpoint, tuple(findings.normalisations), proof)


def read_operators(content: bytes, request: Request, findings: Findings) -> tuple[Source, Lifting]:
    """The operators of a file.

    Raises:
        ExportError: See `import_model`.
    """
    source = read_source(content, request.size, findings)
    if source.uint8 != (request.pixels is None):
        raise ExportError(
            "the input is uint8 pixels, but --mean and --std say how floats are made"
            if source.uint8
            else f"the input {source.input} is float, and the file does not say how it is made",
            where=findings.where,
            expected="--mean and --std for a float input, and for no other",
            fix="give what the network was trained with, in units of a pixel / 255; "
            "ImageNet's are --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
        )
    known = fold(source, findings)
    findings.check()
    return source, lift(source, known, request.pixels, findings)


def _check_meaning(source: Source, lifting: Lifting, request: Request) -> None:
    where, labels = str(request.model), request.labels
    shape = source.shapes.get(lifting.logits, ())
    if len(shape) != 2 or shape[1] != len(labels):
        raise ExportError(
            f"the logits are {list(shape)}, the labels {len(labels)}",
            where=where,
            expected=f"[N, {len(labels)}], one logit for each of {' '.join(labels.codes)}",
            fix="name the labels the network was trained with, in the order of its outputs",
        )
    if lifting.ending and (lifting.ending == "Softmax") != labels.exclusive:
        raise ExportError(
            f"the file ends in {lifting.ending}, the labels of {labels.name} "
            f"{'exclude each other' if labels.exclusive else 'go together'}",
            where=where,
            expected="Softmax for labels that exclude each other, Sigmoid for others",
            fix="say --exclusive for labels of which an image carries exactly one, or leave it out",
        )


def _proof_samples(every: SampleSet, request: Request) -> SampleSet:
    rows = tuple(s for split in PROOF_SPLITS for s in every.select(request.modality, split))
    samples = SampleSet(rows, every.labels, every.source)
    if not len(samples.select(split="val")):
        raise DatasetError(
            f"no {request.modality} image in split val",
            where=str(request.data),
            expected="validation images, to prove the import and fit thresholds on",
            fix="give some patients split val",
        )
    return samples


def _calibrate(
    gaps: list[Draft],
    drafts: list[Draft],
    source: Source,
    request: Request,
    every: SampleSet,
    spec: PreprocessSpec,
    threads: int,
    findings: Findings,
) -> None:
    known = [draft.grid for draft in drafts if draft.grid is not None]
    scales = [np.array([grid.scale for grid in known], np.float32)]
    scales += [d.weights.scale for d in drafts if d.weights and d.weights.scale is not None]
    images = every.select(request.modality, "train")
    if not len(images):
        images = every.select(request.modality, "val")
        findings.normalised(
            "calibration-images",
            str(request.data),
            "no row of split train: ranges are those of validation images, which the figures "
            "below are of too",
            exact=True,
        )
    # Spread over the table, whose neighbours are often of one patient.
    chosen = np.linspace(0, len(images) - 1, min(request.calibrate, len(images))).astype(int)
    few = SampleSet(tuple(images[int(i)] for i in chosen), images.labels, images.source)
    calibrate(
        gaps,
        SourceRunner(source, request.pixels, [draft.tensor for draft in gaps], threads),
        _batches(few, spec),
        symmetric=all(grid.zero_point == _MIDDLE for grid in known),
        power_of_two=all(is_power_of_two(scale).all() for scale in scales),
        findings=findings,
    )


def _batches(samples: SampleSet, spec: PreprocessSpec) -> Iterator[NDArray[np.uint8]]:
    files = [sample.file for sample in samples]
    for start in range(0, len(files), _BATCH):
        yield np.stack([load_image(file, spec) for file in files[start : start + _BATCH]])


def _checkpoint(name: str, request: Request, spec: PreprocessSpec, network: Network) -> Checkpoint:
    return Checkpoint(
        name=f"{name}/student-{request.modality}",
        role="student",
        modality=request.modality,
        synthetic=request.synthetic,
        model={"name": request.model.stem, "imported": True},
        labels=request.labels,
        preprocess=spec,
        scheme=network.scheme,
        graph=network.graph,
        tensors=network.tensors,
    )


def _proven(
    checkpoint: Checkpoint,
    logits: NDArray[np.float32],
    proof: Proof,
    findings: Findings,
    content: bytes,
    every: SampleSet,
) -> Checkpoint:
    from dataclasses import replace

    provenance: dict[str, Any] = {
        "imported_from_sha256": sha256_bytes(content),
        "normalisations": [entry.to_dict() for entry in findings.normalisations],
        "proof": proof.to_dict(),
        "data_sha256": every.sha256,
        "versions": tool_versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return replace(
        checkpoint,
        probe={PROBE: logits},
        validation={"form": "int8", **proof.reference.to_dict()},
        provenance=provenance,
    )


def _require_vacant(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "something stands there already",
            where=str(out),
            expected="a new or empty folder",
            fix="name another --out; nothing was touched",
        )


def _write(out: Path, name: str, checkpoint: Checkpoint, every: SampleSet) -> None:
    make_folder(out)
    write_csv(out / "data.csv", every)
    save_checkpoint(out / f"student-{checkpoint.modality}", checkpoint)
    record = {
        "format": FORMAT,
        "version": 1,
        "name": name,
        "status": "done",
        "data_sha256": every.sha256,
        "labels": checkpoint.labels.to_dict(),
        "imported": True,
    }
    atomic_write(out / "run.json", json.dumps(record, indent=1, sort_keys=True))
