"""`qdr-edge bench`: measure sealed bundles. Heavy modules are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_FOLDER = Path("bench-report")


def bench(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to measure (.qdr).", show_default=False)
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="A YAML file, or one that ships: quick, full, soak, peers, cuda, intel.",
            show_default=False,
        ),
    ] = "",
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="single-stream, multi-stream, offline, cold-start or soak; repeatable.",
            show_default="single-stream",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images (CSV); the run's own data.csv is found by itself.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to evaluate on.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=86400, help="Time measured for each row and scenario.", show_default="5"
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="600 s for each row and scenario, and for a soak.")
    ] = False,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=1024,
            help="Threads of one inference; 0: every core; repeatable.",
            show_default="2",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target to measure; repeatable.", show_default="every one"),
    ] = None,
    energy: Annotated[
        bool | None,
        typer.Option(
            "--energy/--no-energy",
            help="What an image costs, where a power sensor is there: a minute a row.",
            show_default="off",
        ),
    ] = None,
    min_map: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="A row below this mAP is INVALID.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = DEFAULT_FOLDER,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run into this folder stopped.")
    ] = False,
    with_float: Annotated[
        bool | None,
        typer.Option("--float/--no-float", help="Measure the float twins too.", show_default="on"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything drawn.", show_default="0")
    ] = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Measure bundles without a signature.")
    ] = False,
) -> None:
    """Measure bundles: latency, memory and accuracy of the very same artefact.

    Every runnable target and the float model on ONNX Runtime and OpenVINO run in processes of
    their own, in interleaved rounds. Writes report.json and report.html; Ctrl-C keeps what was
    measured. What is said here counts more than what the suite says.
    """
    from qdr_bench.command import run
    from qdr_bench.suite.schema import Suite, load_suite, parse
    from qdr_bench.suite.schema import full as lengthened

    base = load_suite(suite) if suite else Suite()
    if full:
        base = lengthened(base)
    said: dict[str, Any] = {
        "scenarios": scenario,
        "data": data,
        "split": split,
        "seconds": seconds,
        "threads": threads,
        "targets": target,
        "min_map": min_map,
        "energy": energy,
        "float_twins": with_float,
        "seed": seed,
    }
    changes = {key: value for key, value in said.items() if value is not None}
    chosen = parse({**base.model_dump(exclude_unset=True), **changes}, "command line")
    if run(chosen, bundles or [], out=out, resume=resume, allow_unsigned=allow_unsigned):
        raise KeyboardInterrupt
