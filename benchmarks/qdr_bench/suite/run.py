"""Run a suite: one group of cells after the other, each kept as soon as it is whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qdr_bench.evaluation_data import EvaluationData, find_table, prepare
from qdr_bench.machine.environment import Environment, environment, machine_state
from qdr_bench.machine.tree import ProcTree
from qdr_bench.plan import Plan
from qdr_bench.report import BenchmarkReport, now
from qdr_bench.runner import OnStep, measure
from qdr_bench.subject import Subject, check_names, open_subject
from qdr_bench.suite.schema import Suite
from qdr_bench.suite.store import keep, kept, key_of, merge
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write, sha256_file

CALIBRATION_SPLIT = "val"


@dataclass(frozen=True)
class Group:
    """Cells measured in the same rounds."""

    bundles: tuple[Path, ...]
    plan: Plan


def run_suite(
    suite: Suite,
    bundles: Sequence[Path],
    out: Path,
    *,
    resume: bool,
    allow_unsigned: bool,
    on_step: OnStep,
    on_group: Callable[[str], None],
) -> dict[str, Any]:
    """Measure every group and return the report as a JSON object.

    Args:
        suite: What to measure.
        bundles: Bundles named by the user; the suite's own if empty.
        out: Folder in which whole groups are kept.
        resume: Take groups that were measured already from there.
        allow_unsigned: Measure bundles without a signature.
        on_step: Told of the progress within a group.
        on_group: Told what is measured, or taken from before.

    Raises:
        BundleError: A bundle cannot be verified.
        BenchmarkError: There is nothing to measure.
        DatasetError: The evaluation data are wrong.
        OutputError: A group cannot be kept.
    """
    groups = _groups(suite, list(bundles) or _found(suite), allow_unsigned)
    documents: list[dict[str, Any]] = []
    surroundings = environment(ProcTree())
    with tempfile.TemporaryDirectory(prefix="qdr-bench-") as scratch:
        for number, group in enumerate(groups):
            title = (
                f"{', '.join(path.name for path in group.bundles)}, {group.plan.threads} threads"
            )
            folder = Path(scratch) / f"{number:02d}"
            try:
                opened = _open(suite, group, folder)
                key = _key(suite, group, opened, surroundings)
                document = kept(out, key) if resume else None
                on_group(f"{title}: {'taken from before' if document else 'measuring'}")
                if document is None:
                    document = _measure(suite, group, opened, surroundings, folder, on_step)
                    if not document["interrupted"]:
                        keep(out, key, document)
            except KeyboardInterrupt:
                if not documents:
                    raise
                # Nothing of this group yet; the ones before it are worth a report.
                documents[-1] = {**documents[-1], "interrupted": True}
                break
            documents.append(document)
            if document["interrupted"]:
                break
    return merge(suite.name, documents, several_counts=len(suite.threads) > 1)


def _found(suite: Suite) -> list[Path]:
    found = [
        path
        for pattern in suite.bundles
        for path in (sorted(Path().glob(pattern)) if "*" in pattern else [Path(pattern)])
    ]
    if not found:
        raise BenchmarkError(
            "no bundle to measure",
            where=f"suite {suite.name}",
            expected="bundles on the command line, or paths and globs under `bundles`",
            fix="name one: qdr-edge bench BUNDLE.qdr",
        )
    return found


def _groups(suite: Suite, bundles: list[Path], allow_unsigned: bool) -> list[Group]:
    check_names(bundles)
    sets = [tuple(bundles)] if suite.together else [(bundle,) for bundle in bundles]
    plans = [suite.plan(threads, allow_unsigned=allow_unsigned) for threads in suite.threads]
    return [Group(some, plan) for some in sets for plan in plans]


def _open(suite: Suite, group: Group, scratch: Path) -> list[Subject]:
    return [
        open_subject(
            path,
            scratch / f"{index:02d}",
            allow_unsigned=group.plan.allow_unsigned,
            with_float=suite.float_twins,
            targets=suite.targets,
        )
        for index, path in enumerate(group.bundles)
    ]


def _table(suite: Suite, subject: Subject) -> Path | None:
    """The labelled images of a bundle: those that were named, or its own run's."""
    return suite.data or find_table(subject.path)


def _with_peers(suite: Suite, subject: Subject, scratch: Path, on_step: OnStep) -> Subject:
    """The subject with a cell for each peer, calibrated on validation images of the same run."""
    from qdr_bench.peers.build import CALIBRATION_IMAGES, build_peer

    twins = [cell.model for cell in subject.cells if cell.target == "float" and not cell.failed]
    source, folder = _table(suite, subject), scratch / "peers"
    folder.mkdir()
    notes, size = list(subject.notes), subject.bundle.manifest.input.size
    if source is not None:
        on_step(f"preparing peers of {subject.name}", 0.0)
        found = prepare(subject.bundle, source, CALIBRATION_SPLIT, folder)
        images = np.array(np.load(found.tensors, mmap_mode="r")[:CALIBRATION_IMAGES])
        notes.append(f"peers were calibrated on {len(images)} validation images")
    else:
        shape = (CALIBRATION_IMAGES, 3, size, size)
        images = np.random.default_rng(suite.seed).integers(0, 256, shape, dtype=np.uint8)
        notes.append("peers were calibrated on noise: their accuracy says nothing")
    artefacts: dict[str, Path] = {}
    for target, artefact in subject.bundle.manifest.artefacts.items():
        if artefact.backend not in artefacts:
            artefacts[artefact.backend] = folder / f"{target}.artefact"
            atomic_write(artefacts[artefact.backend], subject.bundle.entries[artefact.entry])
    cells = []
    for name in suite.peers:
        on_step(f"making {name} for {subject.name}", 0.0)
        twin = twins[0] if twins else None
        cells.append(build_peer(name, subject.name, twin, images, folder, artefacts))
    return replace(subject, cells=(*subject.cells, *cells), notes=tuple(notes))


def _key(suite: Suite, group: Group, opened: list[Subject], surroundings: Environment) -> str:
    tables = [_table(suite, subject) for subject in opened]
    return key_of(
        {
            "bundles": [(subject.name, subject.bundle.sha256) for subject in opened],
            "tables": [sha256_file(table) for table in tables if table and table.is_file()],
            "plan": asdict(group.plan),
            "what": suite.model_dump(mode="json", include=_DECIDES),
            "environment": surroundings.to_dict(),
        }
    )


_DECIDES = {"targets", "float_twins", "peers", "data", "split"}


def _measure(
    suite: Suite,
    group: Group,
    opened: list[Subject],
    surroundings: Environment,
    scratch: Path,
    on_step: OnStep,
) -> dict[str, Any]:
    data: dict[str, EvaluationData] = {}
    subjects: list[Subject] = []
    for index, subject in enumerate(opened):
        folder, source = scratch / f"{index:02d}", _table(suite, subject)
        if suite.peers:
            subject = _with_peers(suite, subject, folder, on_step)
        if source is not None:
            on_step(f"preprocessing images for {subject.name}", 0.0)
            data[subject.name] = prepare(subject.bundle, source, suite.split, folder)
        subjects.append(subject)
    tree = ProcTree()
    before = machine_state(tree)
    measured = measure(subjects, data, group.plan, on_step)
    return BenchmarkReport(
        subjects=tuple(subjects),
        rows=measured.rows,
        data=data,
        plan=group.plan,
        environment=surroundings,
        before=before,
        after=machine_state(tree),
        interrupted=measured.interrupted,
        created=now(),
    ).to_dict()
