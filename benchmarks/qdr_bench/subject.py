"""What is measured: a verified bundle, its float twin beside it, and the cells they give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdr_bench import engine
from qdr_bench.measurement import Cell
from qdr_edge.bundle import Bundle, read_bundle
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write, sha256_file
from qdr_edge.runtime import availability
from qdr_edge.target import host, version_in

FLOAT_BACKENDS = ("onnxruntime", "openvino")
BUNDLE_SUFFIX = ".qdr"


@dataclass(frozen=True, eq=False)
class Subject:
    """One bundle under measurement.

    Args:
        name: File name without suffix; unique in a report.
        path: The bundle's file.
        bundle: Its verified content.
        cells: What to measure.
        float_bytes: Size of the float twin; None without one.
        parity: What export wrote beside the bundle, unread; None without it.
        notes: What a reader must know, e.g. that there is no float twin.
    """

    name: str
    path: Path
    bundle: Bundle
    cells: tuple[Cell, ...]
    float_bytes: int | None
    parity: Mapping[str, Any] | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        manifest = self.bundle.manifest
        return {
            "name": self.name,
            "file": self.path.name,
            "bundle_id": manifest.bundle_id,
            "model_version": manifest.model_version,
            "sha256": self.bundle.sha256,
            "key_id": self.bundle.key_id,
            "bundle_bytes": self.path.stat().st_size,
            "modality": manifest.modality,
            "size": manifest.input.size,
            "labels": list(manifest.labels.codes),
            "label_names": list(manifest.labels.names),
            "scheme": manifest.scheme,
            "synthetic": manifest.synthetic,
            "proven": manifest.proven,
            "created": manifest.created,
            "float_bytes": self.float_bytes,
            "notes": list(self.notes),
            "parity": self.parity,
        }


def open_subject(
    path: Path,
    folder: Path,
    *,
    allow_unsigned: bool,
    with_float: bool,
    targets: Sequence[str] = (),
) -> Subject:
    """Verify a bundle, lay its models out for the child processes and list the cells.

    Args:
        path: The `.qdr` file.
        folder: A scratch folder for the models.
        allow_unsigned: Measure an unsigned bundle.
        with_float: Measure the float twin too.
        targets: Targets to measure; empty for all of the bundle.

    Raises:
        BundleError: See `read_bundle`.
        CompatibilityError: The bundle has no artefact for a target.
    """
    bundle = read_bundle(path, allow_unsigned=allow_unsigned)
    name = path.name.removesuffix(BUNDLE_SUFFIX)
    folder.mkdir(parents=True)
    chosen = targets or tuple(bundle.manifest.artefacts)
    for target in chosen:
        bundle.artefact(target)
    cells = [_target_cell(bundle, name, target, folder) for target in chosen]
    notes: list[str] = []
    twin = path.with_name(f"{name}.float.onnx")
    has_twin = with_float and twin.is_file()
    if has_twin:
        cells += _float_cells(bundle, name, twin)
    elif with_float:
        notes.append(f"no float twin: {twin.name} does not stand beside the bundle")
    # An artefact and its float twin stand side by side: in the table and in every round.
    cells.sort(key=lambda cell: (_rank(cell.backend), cell.target == "float", cell.target))
    return Subject(
        name,
        path,
        bundle,
        tuple(cells),
        twin.stat().st_size if has_twin else None,
        _read_parity(path.with_name(f"{name}.parity.json"), notes),
        tuple(notes),
    )


def _target_cell(bundle: Bundle, name: str, target: str, folder: Path) -> Cell:
    artefact = bundle.manifest.artefacts[target]
    record = bundle.manifest.entries[artefact.entry]
    # The child is given the model alone: what else is in the bundle must not count as its memory.
    model = folder / f"{target}.onnx"
    atomic_write(model, bundle.entries[artefact.entry])
    on_gpu = artefact.backend == engine.BACKEND
    return Cell(
        bundle=name,
        target=target,
        variant="int8" if bundle.manifest.scheme else "float",
        backend=artefact.backend,
        model=model,
        model_bytes=record.size,
        model_sha256=record.sha256,
        options=engine.pinned(artefact.options) if on_gpu else dict(artefact.options),
        unavailable=_missing(artefact.backend, artefact.runtime, artefact.requires),
        device="cuda" if on_gpu else "cpu",
    )


def _float_cells(bundle: Bundle, name: str, twin: Path) -> list[Cell]:
    sealed = bundle.manifest.provenance.get("float_twin_sha256")
    found = sha256_file(twin)
    problem = ""
    if sealed is None:
        problem = "the bundle does not say which float model is its twin"
    elif sealed != found:
        problem = f"{twin.name} is not the float model this bundle was made from"
    return [
        Cell(
            bundle=name,
            target="float",
            variant="float",
            backend=backend,
            model=twin,
            model_bytes=twin.stat().st_size,
            model_sha256=found,
            unavailable=_missing(backend),
            failed=problem,
        )
        for backend in FLOAT_BACKENDS
    ]


def _missing(backend: str, versions: str = "", requires: tuple[str, ...] = ()) -> str:
    """What this machine lacks to run a backend, and how to add it; empty if nothing."""
    here = availability().get(backend)
    if here is None:
        return f"backend {backend} is not known to this release"
    if not here.ok:
        # The command, not the import error: the error is for `qdr-edge doctor`.
        return f"{backend} is not installed; run `{here.install}`" if here.install else here.reason
    if lacking := host().lacks(requires):
        return f"this machine has no {', '.join(lacking)}"
    if not version_in(here.version, versions):
        return f"{backend} {here.version} is outside {versions}"
    return ""


def _rank(backend: str) -> tuple[int, str]:
    known = FLOAT_BACKENDS.index(backend) if backend in FLOAT_BACKENDS else len(FLOAT_BACKENDS)
    return known, backend


def _read_parity(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    return content if isinstance(content, dict) else None


def check_names(paths: list[Path]) -> None:
    """Refuse two bundles of one name: their rows could not be told apart.

    Raises:
        BenchmarkError: Two files have the same name.
    """
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchmarkError(
            f"{twice[0]} is given twice",
            expected="bundles of different names",
            fix="rename one or measure them one after the other",
        )
