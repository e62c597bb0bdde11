"""What `qdr-edge bench` does: verify, prepare, measure, report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from qdr_bench import console as terminal
from qdr_bench.environment import ProcTree, environment, machine_state
from qdr_bench.evaluation_data import EvaluationData, find_table, prepare
from qdr_bench.page import render
from qdr_bench.plan import Plan
from qdr_bench.report import HTML_NAME, JSON_NAME, BenchmarkReport, now
from qdr_bench.runner import measure
from qdr_bench.subject import Subject, check_names, open_subject
from qdr_bench.verdict import Limits
from qdr_edge.files import atomic_write, make_folder
from qdr_edge.target import available_cores


def run(
    bundles: Sequence[Path],
    *,
    table: Path | None,
    split: str,
    seconds: float,
    threads: int,
    out: Path,
    with_float: bool,
    seed: int,
    allow_unsigned: bool,
) -> bool:
    """Measure bundles and write the report; see `qdr_bench.cli.bench` for the arguments.

    Returns:
        Whether it was interrupted; what was measured until then is in the report.

    Raises:
        BundleError: A bundle cannot be verified.
        DatasetError: The evaluation data are wrong.
        OutputError: The report cannot be written.
    """
    plan = Plan(
        seconds=seconds,
        threads=threads or available_cores(),
        seed=seed,
        allow_unsigned=allow_unsigned,
        limits=Limits(duration_s=seconds),
    )
    check_names(list(bundles))
    make_folder(out)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="qdr-bench-") as scratch:
        subjects: list[Subject] = []
        for index, path in enumerate(bundles):
            folder = Path(scratch) / f"{index:02d}"
            subjects.append(
                open_subject(path, folder, allow_unsigned=allow_unsigned, with_float=with_float)
            )
        with _progress(console) as progress:
            task = progress.add_task("preparing", total=1.0)

            def on_step(what: str, share: float) -> None:
                progress.update(task, description=what, completed=share)

            data: dict[str, EvaluationData] = {}
            for index, subject in enumerate(subjects):
                source = table or find_table(subject.path)
                if source is not None:
                    on_step(f"preprocessing images for {subject.name}", 0.0)
                    folder = Path(scratch) / f"{index:02d}"
                    data[subject.name] = prepare(subject.bundle, source, split, folder)
            tree = ProcTree()
            before = machine_state(tree)
            measured = measure(subjects, data, plan, on_step)
        report = BenchmarkReport(
            subjects=tuple(subjects),
            rows=measured.rows,
            data=data,
            plan=plan,
            environment=environment(tree),
            before=before,
            after=machine_state(tree),
            interrupted=measured.interrupted,
            created=now(),
        )
        files = save(report, out)
        content = report.to_dict()
    terminal.show(content, Console())
    Console().print(f"Report: {files[1]} (raw figures: {files[0].name})", highlight=False)
    return measured.interrupted


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def save(report: BenchmarkReport, folder: Path) -> tuple[Path, Path]:
    """Write report.json and report.html; what an earlier run left there is replaced whole.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    make_folder(folder)
    content = report.to_dict()
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = (folder / JSON_NAME, folder / HTML_NAME)
    atomic_write(files[0], text)
    atomic_write(files[1], render(content))
    return files
