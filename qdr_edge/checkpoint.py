"""The checkpoint: the only thing training hands to export, as a pair of files.

`checkpoint.json` describes the network as a list of nodes and names the safetensors file with its
weights. BatchNorm is already folded and every scale is known, so that an exporter needs neither
torch nor the model's source, and any exporter computes the same integers. docs/checkpoint.md is
the specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import CheckpointError
from qdr_edge.files import atomic_write, read_input, sha256_bytes
from qdr_edge.graph import Graph
from qdr_edge.labels import LabelSet
from qdr_edge.scheme import QuantScheme

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qdr_edge.preprocess import PreprocessSpec

FORMAT = "qdr-checkpoint"
VERSION = 3
# Version 1 knows no labels that exclude each other, no operating point and no layers in float,
# version 2 no zero points and fewer operators; what is missing has defaults.
READABLE_VERSIONS = (1, 2, 3)
CHECKPOINT_FILE = "checkpoint.json"
PROBE_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is needed to export and prove it.

    Args:
        name: Name of the run and stage.
        role: "teacher" (float) or "student" (quantized).
        modality: "fundus" or "oct".
        synthetic: Trained on synthetic images.
        model: Name and options of the architecture, for people.
        labels: The vocabulary, in logit order.
        preprocess: The contract from file to pixels.
        scheme: The numeric policy; None for a float network.
        graph: The network, BatchNorm folded.
        tensors: `NODE.weight`, `NODE.bias` float32 and, if quantized, `NODE.weight_scale` [Cout].
        probe: Logits the trainer computed, float32 [M, K] each: `reference_logits`, `qat_logits`,
            `float_logits`; rows are the modality's val rows, then test rows, in data.csv order.
        validation: Metrics on the validation split.
        operating_point: What thresholds and gate are to be fitted for; see
            `operating_point.Target`. Empty for the defaults.
        provenance: Recipe, seed, data and tool versions.
    """

    name: str
    role: str
    modality: str
    synthetic: bool
    model: Mapping[str, Any]
    labels: LabelSet
    preprocess: PreprocessSpec
    scheme: QuantScheme | None
    graph: Graph
    tensors: Mapping[str, NDArray[np.float32]]
    probe: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    validation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    operating_point: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into `folder`; the old one stays whole until the new one is.

    Raises:
        CheckpointError: Graph and tensors do not fit each other.
        OutputError: The folder cannot be written.
    """
    from safetensors.numpy import save

    checkpoint.graph.check(checkpoint.tensors, quantized=checkpoint.scheme is not None)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, str] | None] = {}
    for part, tensors in (("weights", checkpoint.tensors), ("probe", checkpoint.probe)):
        if not tensors:
            files[part] = None
            continue
        content = save(dict(tensors))
        digest = sha256_bytes(content)
        # The name carries the hash: new weights never replace those checkpoint.json names.
        name = f"{part}-{digest[:12]}.safetensors"
        atomic_write(folder / name, content)
        files[part] = {"file": name, "sha256": digest}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "name": checkpoint.name,
        "role": checkpoint.role,
        "modality": checkpoint.modality,
        "synthetic": checkpoint.synthetic,
        "model": dict(checkpoint.model),
        "labels": checkpoint.labels.to_dict(),
        "preprocess": checkpoint.preprocess.to_dict(),
        "scheme": checkpoint.scheme.to_dict() if checkpoint.scheme else None,
        "graph": checkpoint.graph.to_dict(),
        "validation": dict(checkpoint.validation),
        "provenance": dict(checkpoint.provenance),
        "operating_point": dict(checkpoint.operating_point),
        **files,
    }
    atomic_write(
        folder / CHECKPOINT_FILE, json.dumps(description, indent=1, sort_keys=True, allow_nan=False)
    )
    named = {entry["file"] for entry in files.values() if entry}
    for stale in folder.glob("*-????????????.safetensors"):
        if stale.name not in named and stale.name.split("-")[0] in files:
            stale.unlink()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint.

    Args:
        folder: The stage's folder, or its checkpoint.json.

    Raises:
        CheckpointError: A file is missing, damaged, of another format, or does not fit.
    """
    from qdr_edge.preprocess import PreprocessSpec

    path = folder if folder.name == CHECKPOINT_FILE else folder / CHECKPOINT_FILE
    if not path.is_file():
        raise CheckpointError(
            "no checkpoint here",
            where=str(path),
            expected="the folder of a finished training stage",
            fix="run `qdr-edge train` (or `--resume` it) first",
        )
    try:
        value = json.loads(path.read_bytes())
        found = (value["format"], value["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"not a checkpoint ({error!r})", where=str(path)) from error
    if found[0] != FORMAT or found[1] not in READABLE_VERSIONS:
        raise CheckpointError(
            f"format {found[0]} version {found[1]}",
            where=str(path),
            expected=f"{FORMAT} version {' or '.join(map(str, READABLE_VERSIONS))}",
            fix="export it with the qdr-edge release that trained it",
        )
    try:
        checkpoint = Checkpoint(
            name=value["name"],
            role=value["role"],
            modality=value["modality"],
            synthetic=value["synthetic"],
            model=value["model"],
            labels=LabelSet.from_dict(value["labels"]),
            preprocess=PreprocessSpec.from_dict(value["preprocess"]),
            scheme=QuantScheme.from_dict(value["scheme"]) if value["scheme"] else None,
            graph=Graph.from_dict(value["graph"]),
            tensors=_load_tensors(path.parent, value["weights"]),
            probe=_load_tensors(path.parent, value["probe"]) if value["probe"] else {},
            validation=value["validation"],
            provenance=value["provenance"],
            operating_point=value.get("operating_point", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"field missing or malformed: {error!r}", where=str(path)) from error
    checkpoint.graph.check(checkpoint.tensors, quantized=checkpoint.scheme is not None)
    return checkpoint


def _load_tensors(folder: Path, entry: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load

    path = folder / Path(entry["file"]).name
    content = read_input(
        path, CheckpointError, expected="the checkpoint's weights", fix="restore it or train again"
    )
    if sha256_bytes(content) != entry["sha256"]:
        raise CheckpointError(
            "its SHA-256 is not the one checkpoint.json names",
            where=str(path),
            expected="the file as it was written",
            fix="restore it or train again",
        )
    return load(content)
