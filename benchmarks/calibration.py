"""Which calibration loses least, without training: ``python benchmarks/calibration.py RUN STAGE``.

Takes a stage's selected float weights, sets the activation ranges from training images in each of
the ways of qdr_train.quant.calibrate under each scheme, and compares the integer network with the
float one on the validation images: the logits' error, scores that change their sign, and the
change of mAP with a 95 % interval, paired by image and clustered by patient.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qdr_edge.decision import label_scores
from qdr_edge.errors import CheckpointError, QdrError
from qdr_edge.metrics import paired_map_difference
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.scheme import QuantScheme
from qdr_train.data.cache import open_pixels
from qdr_train.data.images import images_of, predict
from qdr_train.engine.networks import BEST_FLOAT, new_network
from qdr_train.engine.run_folder import Run, open_run
from qdr_train.engine.selection import mean_average_precision
from qdr_train.engine.state import load_state
from qdr_train.quant import qat
from qdr_train.quant.calibrate import Method, calibrate

CPU = torch.device("cpu")
SCHEMES = ("exact", "portable", "u8")


def main() -> None:
    """Print a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("stages", nargs="+", help="finished stages, teachers or students")
    parser.add_argument("--cache", type=Path, help="folder of ready images; default RUN/cache")
    parser.add_argument("--images", type=int, default=256, help="training images to calibrate on")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        run = open_run(arguments.run)
        cache = arguments.cache or arguments.run / "cache"
        for name in arguments.stages:
            if name not in run.recipe.stages:
                known = ", ".join(run.recipe.stages)
                raise CheckpointError(f"no stage {name!r}", where=str(run.folder), expected=known)
            Console().print(compare(run, name, cache, arguments.images, arguments.threads))
    except QdrError as error:
        sys.exit(f"error: {error}")


def compare(run: Run, name: str, cache: Path, count: int, threads: int) -> Table:
    """Calibrate a stage's float network in every way and tell what each costs."""
    stage, labels = run.recipe.stages[name], run.samples.labels
    network = new_network(stage, run.recipe, labels)
    network.load_state_dict(load_state(run.folder / name, BEST_FLOAT)[0])
    samples = run.samples.select(stage.modality)
    spec = PreprocessSpec(stage.modality, run.recipe.size)
    pixels = open_pixels(cache, samples, spec, threads=threads)
    train, val = images_of(samples, pixels, "train"), images_of(samples, pixels, "val")
    generator = torch.Generator().manual_seed(run.recipe.seed)
    chosen = torch.randperm(len(train), generator=generator)[:count].sort().values
    shown = train.select(chosen)
    targets = val.targets.numpy().astype(np.uint8)
    logits = predict(network.eval(), val, CPU)
    scores = label_scores(logits, labels)
    table = Table("scheme", "calibration", "RMS of logits", "changed signs", "mAP against float")
    value = 100 * mean_average_precision(scores, targets)
    table.title = f"{name}: {stage.model.name}, n = {len(val)}, float mAP {value:.1f}"
    for scheme in SCHEMES:
        for method in get_args(Method):
            prepared = qat.prepare_qat(network, QuantScheme.named(scheme))
            calibrate(prepared, shown, CPU, method)
            found = predict(qat.reference_form(prepared), val, CPU)
            theirs = label_scores(found, labels)
            change = paired_map_difference(
                theirs, scores, targets, val.patients, seed=run.recipe.seed
            )
            table.add_row(
                scheme,
                method,
                f"{np.sqrt(np.square(found - logits).mean()):.4f}",
                f"{int(((theirs > 0) != (scores > 0)).sum())} of {scores.size}",
                f"{100 * change.value:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]",
            )
    return table


if __name__ == "__main__":
    main()
