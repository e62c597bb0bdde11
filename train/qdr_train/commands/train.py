"""`qdr-edge train`: a recipe and a data set in, a run directory with checkpoints out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

INTERRUPTED = 130
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)

Colours = tuple[float, float, float]


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe: a YAML file or the name of a shipped one.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="CSV file, or TOPCON-MM folder as released.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory to make.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")
    ] = False,
    size: Annotated[int | None, typer.Option(help="Image side in pixels, × 32.")] = None,
    epochs_scale: Annotated[float, typer.Option(help="Factor on all epoch counts.")] = 1.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the recipe, e.g. student.epochs=3; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random choice.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all cores.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    cache: Annotated[
        Path | None, typer.Option(help="Folder of ready images; default OUT/cache.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Python file with build(): your network as the student; its code is run."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="With --model: a state dict to begin with.")
    ] = None,
    mean: Annotated[
        Colours | None, typer.Option(help="With --model: means in pixel/255 it is used to.")
    ] = None,
    std: Annotated[
        Colours | None, typer.Option(help="With --model: deviations in pixel/255.")
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Explain the shipped recipes.")
    ] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Ask of a finished run what each layer costs.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option(help="With --sensitivity: which student; default all.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="With --sensitivity: share of the MACs that may go to float."),
    ] = None,
) -> None:
    """Train teachers and quantized students by a recipe; docs/training.md explains it all."""
    # Heavy imports wait until the command runs, so that --help stays quick.
    from qdr_train.recipe.files import find_recipe, load_recipe, shipped_recipes

    if list_recipes:
        from qdr_train.recipe.explain import explain

        typer.echo("\n\n".join(explain(load_recipe(p)) for p in shipped_recipes().values()))
        return
    if out is None:
        raise typer.BadParameter("name the run directory", param_hint="--out")
    if sensitivity:
        from qdr_train.commands.sensitivity import scan_run

        scan_run(out, stage, cache=cache, threads=threads, device=device, budget=budget)
        return
    chosen = None
    if recipe is not None:
        chosen = load_recipe(
            find_recipe(recipe),
            overrides=settings or (),
            size=size,
            seed=seed,
            epochs_scale=epochs_scale,
        )
    elif not resume:
        raise typer.BadParameter("name a recipe; --list explains them", param_hint="RECIPE")
    elif settings or size is not None or seed is not None or epochs_scale != 1.0:
        raise typer.BadParameter("a resumed run keeps its recipe", param_hint="--resume")
    if data is None and not resume:
        raise typer.BadParameter("name the images", param_hint="--data")
    if model is None and (weights or mean or std):
        raise typer.BadParameter("goes with --model", param_hint="--weights, --mean, --std")
    own_weights = None
    if model is not None:
        if resume or chosen is None:
            raise typer.BadParameter("a resumed run keeps its network", param_hint="--model")
        from qdr_train.adopt.convert import adopt
        from qdr_train.adopt.into_recipe import weight_bytes, with_own
        from qdr_train.adopt.source import read_source

        adopted = adopt(read_source(model, weights), chosen.size, mean=mean, std=std)
        chosen, own_weights = with_own(chosen, adopted), weight_bytes(adopted)

    from qdr_train.engine import program
    from qdr_train.engine.ranks import Ranks

    writes, alone = True, True
    try:
        with _interruptible(), Ranks.from_environment(device) as ranks:
            writes, alone = ranks.is_writer, ranks.size == 1
            options = program.Options(
                cache=cache, threads=threads, device=device, ranks=ranks, own_weights=own_weights
            )
            if resume:
                program.resume(out, options, chosen)
            elif chosen is not None and data is not None:
                program.begin(chosen, data, out, options)
    except KeyboardInterrupt:
        if writes:
            typer.echo(
                f"interrupted; every finished epoch is saved. Continue with: "
                f"qdr-edge train --resume --out {out}",
                err=True,
            )
        if not alone:
            # A sum may be under way with a peer that is gone; the threads that wait for it abort
            # the process when it is torn down. All is written, so it is left at once.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    if writes:
        typer.echo(f"trained: {out}; next: qdr-edge export {out}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """A cluster's TERM ends a run as Ctrl-C does: at once, losing at most this epoch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, handler or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Ctrl-C under torchrun comes twice, from the terminal and from torchrun: the second must not
    # break into what the first has the run write. SIGKILL still ends it.
    for one in _INTERRUPTS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt
