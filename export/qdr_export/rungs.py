"""Run every form of a student over the same images: the raw material of the parity table.

Images are streamed: each is preprocessed once, goes through all forms, and only logits are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qdr_edge.gate import GateFeatures, measure
from qdr_edge.preprocess import load_image
from qdr_edge.runtime import MapSession, Session, open_model
from qdr_export.emission import Artefact, Emission
from qdr_export.emit.halves import round_explicitly
from qdr_export.reference import Reference
from qdr_export.run_folder import Student

Logits = NDArray[np.float32]

REFERENCE, FLOAT_TWIN = "reference", "float twin"
TRAINER, SOURCE = "trainer", "source"
"""Where a checkpoint comes from: `source` is the file of an imported one, run by ONNX Runtime
when it was imported."""
TRAINER_PROBES = {
    TRAINER: "reference_logits",
    SOURCE: "source_logits",
    "trainer in QAT form": "qat_logits",
    "trainer in float": "float_logits",
}
# ONNX Runtime would quantize float weights behind quantized inputs by itself; this stops it, so
# that the graph is executed as it is written.
AS_WRITTEN = {"session.disable_quant_qdq": "1"}
_BATCH = 8


class _Infers(Protocol):
    def infer(self, images: NDArray[np.uint8]) -> Logits: ...


@dataclass(frozen=True)
class Outputs:
    """Logits of every form on every image.

    Args:
        logits: By form, float32 [N, K]. "reference" and "float twin" are always there; a target
            is there if it ran here; "TARGET as written" is a graph executed by ONNX Runtime in
            place of a runtime or machine that is not here.
        versions: Runtime and version, by form.
        features: What the gate measures of each image.
        maps: Class activation maps of the validation images, float32 [n, K, h, w], by form; empty
            without maps.
    """

    logits: Mapping[str, Logits]
    versions: Mapping[str, str]
    features: tuple[GateFeatures, ...]
    maps: Mapping[str, Logits] = field(default_factory=dict)


def as_written(target: str) -> str:
    """Name of the form that stands in for a target whose runtime is not here."""
    return f"{target} as written"


def run_rungs(
    student: Student, emission: Emission, *, threads: int, advance: Callable[[int], None]
) -> Outputs:
    """Run all forms over the student's validation and test images.

    Args:
        student: The images.
        emission: The graphs.
        threads: Threads of a runtime; 0 takes every core.
        advance: Called with the number of images done.

    Raises:
        ImageError: An image of the table cannot be read.
        BackendError: A runtime refuses an artefact.
    """
    spec = student.checkpoint.preprocess
    with ExitStack() as stack:
        forms: dict[str, _Infers] = {REFERENCE: Reference(emission.canonical)}
        versions = {REFERENCE: "NumPy"}
        for name, session in _sessions(emission, threads).items():
            stack.callback(session.close)
            forms[name] = session
            versions[name] = f"{session.backend} {session.version}"
        parts: dict[str, list[Logits]] = {name: [] for name in forms}
        mapped = _mapped(forms, emission, threads, stack)
        maps: dict[str, list[Logits]] = {name: [] for name in mapped}
        features: list[GateFeatures] = []
        files = [sample.file for sample in student.samples]
        for start in range(0, len(files), _BATCH):
            images = [load_image(file, spec) for file in files[start : start + _BATCH]]
            features += [measure(image, spec.modality) for image in images]
            batch = np.stack(images)  # [n, 3, S, S]
            for name, form in forms.items():
                parts[name].append(form.infer(batch))
            explained = batch[: max(0, student.validation_rows - start)]
            if len(explained):
                for name, explain in mapped.items():
                    maps[name].append(explain(explained))
            advance(len(images))
    logits = {name: np.concatenate(part) for name, part in parts.items()}
    return Outputs(
        logits | _probes(student),
        versions,
        tuple(features),
        {name: np.concatenate(part) for name, part in maps.items()},
    )


def _mapped(
    forms: Mapping[str, _Infers], emission: Emission, threads: int, stack: ExitStack
) -> dict[str, Callable[[NDArray[np.uint8]], Logits]]:
    """What computes maps: the reference, the float twin and every artefact that has them."""
    if emission.map_twin is None:
        return {}
    twin = open_model("onnxruntime", emission.map_twin, threads=threads)
    stack.callback(twin.close)
    found: dict[str, Callable[[NDArray[np.uint8]], Logits]] = {}
    for name, form in {**forms, FLOAT_TWIN: twin}.items():
        if isinstance(form, Reference):
            found[name] = form.infer_maps
        elif isinstance(form, MapSession) and form.has_maps:
            found[name] = partial(_second, form)
    return found


def _second(session: MapSession, images: NDArray[np.uint8]) -> Logits:
    return session.infer_maps(images)[1]


def open_artefact(artefact: Artefact, threads: int) -> Session:
    """Open an artefact in its own runtime."""
    return open_model(artefact.backend, artefact.model, threads=threads)


def open_as_written(model: bytes, threads: int) -> Session:
    """Open a target's graph in ONNX Runtime such that it computes every rounding in the graph."""
    written = round_explicitly(model)
    return open_model("onnxruntime", written, threads=threads, options=AS_WRITTEN)


def _sessions(emission: Emission, threads: int) -> dict[str, Session]:
    sessions = {FLOAT_TWIN: open_model("onnxruntime", emission.float_twin, threads=threads)}
    for name, artefact in emission.artefacts.items():
        if artefact.availability.ok:
            sessions[name] = open_artefact(artefact, threads)
        elif artefact.backend in ("onnxruntime", "tensorrt"):
            sessions[as_written(name)] = open_as_written(artefact.model, threads)
    return sessions


def _probes(student: Student) -> dict[str, Logits]:
    """Logits that came with the checkpoint, if they are of these very rows."""
    if not student.same_data:
        return {}
    rows = len(student.samples)
    return {
        name: student.checkpoint.probe[key].astype(np.float32)
        for name, key in TRAINER_PROBES.items()
        if key in student.checkpoint.probe and len(student.checkpoint.probe[key]) == rows
    }
