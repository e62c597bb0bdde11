"""Seal: manifest, entries, signature, one file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qdr_edge.bundle import write_bundle
from qdr_edge.checkpoint import Checkpoint
from qdr_edge.errors import ExportError
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import SigningKey
from qdr_edge.manifest import (
    Artefact,
    ImageInput,
    Labels,
    Manifest,
    Preprocess,
    created_at,
    exact_text,
    without_floats,
)
from qdr_export.emission import Emission
from qdr_export.golden import GoldenSet
from qdr_export.map_evidence import MapEvidence
from qdr_export.model_card import cyclonedx_card, model_card
from qdr_export.onnx_graph import OPSET
from qdr_export.operating_point import OperatingPoint
from qdr_export.parity import GATES, RAN, ParityReport, rounding_steps
from qdr_export.profiles import Profile
from qdr_export.run_folder import Student
from qdr_export.rungs import REFERENCE, SOURCE, TRAINER, Outputs
from qdr_export.sbom import make_sbom

CANONICAL_ENTRY = "network/canonical.onnx"
LICENCE = "LicenseRef-unstated: the maker states the licence of weights and images"
NOTICE = """\
This bundle was made by qdr-edge (Apache-2.0). The runtimes that open it (ONNX Runtime: MIT,
OpenVINO: Apache-2.0, TensorRT: NVIDIA's own licence) are not contained in it.
The licence of the weights and of the golden images is the maker's to state.
"""
_TOOLS = ("qdr-edge", "numpy", "onnx", "onnxruntime", "openvino", "opencv-python-headless")


def seal_student(
    path: Path,
    student: Student,
    emission: Emission,
    outputs: Outputs,
    point: OperatingPoint,
    parity: ParityReport,
    golden: GoldenSet,
    key: SigningKey,
    *,
    security_version: int = 0,
    maps: MapEvidence | None = None,
) -> str:
    """Write the signed bundle of a student; an existing file is replaced atomically.

    Returns:
        SHA-256 of the bundle.

    Raises:
        BundleError: Something does not fit the format.
        OutputError: The file cannot be written.
    """
    checkpoint = student.checkpoint
    if checkpoint.scheme is None:
        raise ExportError("a float network has no bundle", where=checkpoint.name)
    canonical_sha256 = sha256_bytes(emission.canonical)
    model_version = canonical_sha256[:12]
    created = created_at()
    tools = tool_versions()
    manifest = Manifest(
        bundle_id=f"{path.stem}-{model_version}",
        model_version=model_version,
        security_version=security_version,
        created=created,
        modality=checkpoint.modality,  # type: ignore[arg-type]  # checked by the manifest
        synthetic=checkpoint.synthetic,
        labels=Labels.of(checkpoint.labels),
        input=ImageInput(size=checkpoint.preprocess.size),
        preprocess=Preprocess(
            spec=without_floats(checkpoint.preprocess.to_dict()),
            sha256=checkpoint.preprocess.sha256,
        ),
        decision=point.to_manifest(),
        scheme=without_floats(checkpoint.scheme.to_dict()),
        artefacts={
            name: Artefact(
                entry=artefact.entry,
                backend=artefact.backend,
                runtime=artefact.profile.target.runtime,
                opset=OPSET,
                requires=artefact.profile.target.requires,
                tolerance_steps=tolerance_steps(artefact.profile, checkpoint),
                logit_step=exact_text(logit_step(outputs)),
            )
            for name, artefact in emission.artefacts.items()
        },
        golden=golden.vectors,
        evidence=without_floats(
            {
                **point.evidence(),
                "parity": parity.summary(),
                **({} if maps is None else {"maps": maps.to_dict()}),
                "read_back": read_back_summary(emission),
            }
        ),
        provenance=without_floats(_provenance(student, emission, canonical_sha256, tools)),
        licence=LICENCE,
        proven=is_proven(parity),
    )
    name = path.stem
    entries = {
        CANONICAL_ENTRY: emission.canonical,
        **{artefact.entry: artefact.model for artefact in emission.artefacts.values()},
        **golden.entries,
        "model_card.md": model_card(student, point, parity, name).encode(),
        "sbom.cdx.json": make_sbom(
            name=name,
            version=model_version,
            created=created,
            emission=emission,
            model_card=cyclonedx_card(student, point),
            tools=tools,
        ),
        "NOTICE": NOTICE.encode(),
    }
    return write_bundle(path, manifest, entries, key)


def logit_step(outputs: Outputs) -> float:
    """The unit of a device's tolerance: the largest logit / 127."""
    return float(np.abs(outputs.logits[REFERENCE]).max(initial=0.0)) / 127


def tolerance_steps(profile: Profile, checkpoint: Checkpoint) -> int:
    """By how many steps a target's golden logits may differ from the recorded ones."""
    return max(profile.tolerance_steps, rounding_steps(checkpoint))


def is_proven(parity: ParityReport) -> bool:
    """Whether the origin and at least one runtime were compared, and no decision flipped.

    The origin is the trainer or, of an imported checkpoint, the file it was made of. That file may
    differ by roundings that it leaves out, so it forbids no sealing; but it must decide alike.
    """
    ran = [rung for rung in parity.rungs if rung.status == RAN]
    runtimes = [rung for rung in ran if rung.role == GATES and rung.name != TRAINER]
    origin = [rung for rung in ran if rung.name in (TRAINER, SOURCE) and not rung.flips]
    return not parity.failures and bool(origin) and bool(runtimes)


def read_back_summary(emission: Emission) -> dict[str, Any]:
    """What each runtime that is here executes in int8."""
    return {
        name: artefact.readback.to_dict()
        for name, artefact in emission.artefacts.items()
        if artefact.readback is not None
    }


def tool_versions() -> dict[str, str]:
    """Versions of what made the bundle."""
    found = {"python": platform.python_version()}
    for package in _TOOLS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _provenance(
    student: Student, emission: Emission, canonical_sha256: str, tools: Mapping[str, str]
) -> dict[str, Any]:
    checkpoint = student.checkpoint
    return {
        "training": dict(checkpoint.provenance),
        "checkpoint": checkpoint.name,
        "model": dict(checkpoint.model),
        "canonical_sha256": canonical_sha256,
        "float_twin_sha256": sha256_bytes(emission.float_twin),
        "float_twin_bytes": len(emission.float_twin),
        "proof_data_sha256": student.samples.sha256,
        "export_versions": dict(tools),
    }
