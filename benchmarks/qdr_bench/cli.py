"""`qdr-edge bench`: measure sealed bundles. Heavy modules are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FOLDER = Path("bench-report")


def bench(
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundles to measure (.qdr).", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images (CSV); the run's own data.csv is found by itself.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "test",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86400, help="Time measured for each row.")
    ] = 5.0,
    threads: Annotated[
        int, typer.Option(min=0, max=1024, help="Threads of one inference; 0: every core.")
    ] = 2,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = DEFAULT_FOLDER,
    with_float: Annotated[
        bool, typer.Option("--float/--no-float", help="Measure the float twins too.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything drawn.")] = 0,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Measure bundles without a signature.")
    ] = False,
) -> None:
    """Measure bundles: latency, memory and accuracy of the very same artefact.

    Every runnable target and the float model on ONNX Runtime and OpenVINO run in processes of
    their own, in interleaved rounds. Writes report.json and report.html; Ctrl-C keeps what was
    measured.
    """
    from qdr_bench.command import run

    interrupted = run(
        bundles,
        table=data,
        split=split,
        seconds=seconds,
        threads=threads,
        out=out,
        with_float=with_float,
        seed=seed,
        allow_unsigned=allow_unsigned,
    )
    if interrupted:
        raise KeyboardInterrupt
