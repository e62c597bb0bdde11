"""`qdr-edge export` and `qdr-edge lint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        Path, typer.Argument(help="Run directory of `qdr-edge train`, or one student-* folder.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Target to emit for; repeatable; all for every profile. "
            "Default: ort-x86 openvino tensorrt-10 tensorrt-11."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the bundles; RUN/export.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="CSV of images to prove on; default: the run's own data.csv."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Stem of the files; the run's name.")] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private Ed25519 key (PEM) to sign with; default: a development key."),
    ] = None,
    target_sensitivity: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Fit thresholds for this sensitivity by its lower 95 % bound, whatever the "
            "recipe says.",
        ),
    ] = None,
    security_version: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Rollback counter: a device refuses what is older than the highest it installed.",
        ),
    ] = 0,
    max_flips: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Per cent of decisions that may flip where a target does not compute the "
            "reference's integers; where it does, none may.",
        ),
    ] = 0.2,
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=100, help="Points of mAP that int8 may cost against float."),
    ] = 2.0,
    maps: Annotated[
        bool,
        typer.Option("--maps", help="Add class activation maps as a second output of the network."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Seal in spite of a failed gate, marked unproven.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Turn a run's students into proven, signed bundles; docs/export.md explains it all."""
    from dataclasses import replace

    from rich.console import Console

    from qdr_edge.keys import SigningKey, development_key
    from qdr_edge.operating_point import Target
    from qdr_export.commands import tables
    from qdr_export.pipeline import export_student
    from qdr_export.profiles import load_profile, suited, target_names
    from qdr_export.proof.parity import Limits
    from qdr_export.run_folder import find_students, student_stem

    console = Console(highlight=False)
    profiles = [load_profile(t) for t in target_names(target)]
    run_name, students = find_students(run, data)
    folder = out if out is not None else students[0].folder.parent / "export"
    if key is not None:
        signing = SigningKey.load(key)
    else:
        development = development_key()
        signing = development.key
        tables.print_development_key(console, development)
    exported = []
    for student in students:
        stem = student_stem(name or run_name, student)
        wanted = Target.from_dict(student.checkpoint.operating_point)
        if target_sensitivity is not None:
            wanted = replace(wanted, kind="sensitivity", sensitivity=target_sensitivity)
        checkpoint = student.checkpoint
        fitting, left_out = suited(
            profiles,
            checkpoint.scheme,
            target or (),
            in_float=bool(checkpoint.graph.float_layers),
        )
        if left_out:
            console.print(
                f"[yellow]{stem}: {', '.join(left_out)} left out: no form of it there "
                "(TensorRT: no zero points; native: powers of two and no float layer)[/]"
            )
        with tables.progress(console, stem, len(student.samples)) as report:
            result = export_student(
                student,
                fitting,
                name=stem,
                out=folder,
                key=signing,
                operating_target=wanted,
                security_version=security_version,
                limits=Limits(flips=max_flips / 100, drop=max_drop),
                maps=maps,
                force=force,
                threads=threads,
                progress=report,
            )
        tables.print_parity(console, stem, student, result)
        exported.append((student, result))
    tables.print_exports(console, exported)


def lint(
    model: Annotated[Path, typer.Argument(help="A QDQ ONNX file, ours or anybody's.")],
    target: Annotated[
        list[str] | None, typer.Option(help="Target whose rules to check; repeatable; all.")
    ] = None,
) -> None:
    """Check an ONNX file against the static rules of a target; errors end with exit code 12."""
    from rich.console import Console

    from qdr_edge.errors import ExportError
    from qdr_edge.files import read_input
    from qdr_export.commands import tables
    from qdr_export.lint.check import lint_model
    from qdr_export.profiles import target_names

    content = read_input(model, ExportError, expected="an ONNX file")
    console = Console(highlight=False)
    errors = 0
    for name in target_names(target):
        findings = lint_model(content, name, where=str(model))
        tables.print_findings(console, model, name, findings)
        errors += sum(finding.severity == "error" for finding in findings)
    if errors:
        raise ExportError(
            f"{errors} errors" if errors > 1 else "1 error",
            where=str(model),
            expected="no rule of severity error broken",
            fix="see the table",
        )
