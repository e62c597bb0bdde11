"""`qdr-edge quantize`: a trained network of the user's own in, an int8 run directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Colours = tuple[float, float, float]


def quantize(
    network: Annotated[
        Path, typer.Argument(help="Python file with build() -> torch.nn.Module; its code is run.")
    ],
    data: Annotated[Path, typer.Option(help="CSV file, folder or released data set.")],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
    size: Annotated[int, typer.Option(help="Image side in pixels, × 32.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="State dict, .safetensors or .pth; default what build() holds."),
    ] = None,
    modality: Annotated[str, typer.Option(help="fundus or oct.")] = "fundus",
    labels: Annotated[
        str,
        typer.Option(
            help="Codes in the order of the outputs, A,B,C, or a set; default the data's."
        ),
    ] = "",
    exclusive: Annotated[
        bool | None,
        typer.Option(help="Whether the labels exclude each other; default what the data declares."),
    ] = None,
    mean: Annotated[
        Colours | None, typer.Option(help="Three means in pixel/255 it was trained with.")
    ] = None,
    std: Annotated[
        Colours | None, typer.Option(help="Three deviations in pixel/255 it was trained with.")
    ] = None,
    scheme: Annotated[str, typer.Option(help="exact, exact-wide, portable or u8.")] = "exact",
    images: Annotated[int, typer.Option(help="Training images to calibrate on.")] = 256,
    calibration: Annotated[
        str, typer.Option(help="mse, percentile, minmax or running: docs/own-network.md.")
    ] = "mse",
    exclude: Annotated[
        list[str] | None, typer.Option(help="Glob over layers that stay in float; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all cores.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of ready images; default OUT/cache.")
    ] = None,
) -> None:
    """Quantize a trained network by calibration alone and say what it cost; docs/own-network.md."""
    # Heavy imports wait until the command runs, so that --help stays quick.
    from qdr_train.adopt.compare import comparison
    from qdr_train.adopt.convert import adopt
    from qdr_train.adopt.into_recipe import calibration_recipe, weight_bytes
    from qdr_train.adopt.source import read_source
    from qdr_train.engine import program
    from qdr_train.engine.run_folder import require_vacant

    require_vacant(out)
    adopted = adopt(read_source(network, weights), size, mean=mean, std=std)
    recipe = calibration_recipe(
        adopted,
        modality=modality,
        scheme=scheme,
        images=images,
        calibration=calibration,
        exclude=exclude or (),
        labels=tuple(code.strip() for code in labels.split(",") if code.strip()),
        exclusive=exclusive,
        seed=seed,
    )
    options = program.Options(cache=cache, threads=threads, own_weights=weight_bytes(adopted))
    program.begin(recipe, data, out, options)
    typer.echo(str(comparison(out, f"student-{modality}")))
    typer.echo(f"quantized: {out}; next: qdr-edge export {out}")
