"""`qdr-edge train --sensitivity`: which layers of a finished student pay for being int8."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console

from qdr_edge.errors import CheckpointError
from qdr_edge.files import atomic_write
from qdr_edge.metrics import Estimate
from qdr_edge.preprocess import PreprocessSpec
from qdr_train.commands.fallback import require_budget, write_fallback
from qdr_train.data.cache import open_pixels
from qdr_train.data.images import images_of
from qdr_train.engine.logs import RunLog
from qdr_train.engine.networks import BEST_QAT, new_network
from qdr_train.engine.run_folder import Run, locked, open_run
from qdr_train.engine.state import load_state
from qdr_train.quant import qat
from qdr_train.quant.sensitivity import Scan, scan_layers
from qdr_train.recipe import StudentStage

FILE = "sensitivity.json"


def scan_run(
    out: Path,
    stage: str | None,
    *,
    cache: Path | None,
    threads: int,
    device: str,
    budget: float | None = None,
) -> None:
    """Scan the quantized students of a run on its validation images, print and write the result.

    Args:
        out: Run directory.
        stage: One of its stages; None for every quantized student.
        cache: Folder of ready images; None for the run's own.
        threads: CPU threads; 0 for all cores.
        device: "cpu" or "cuda".
        budget: Share of a student's multiply-accumulates that may go to float: a recipe that
            does so is written too. None for no recipe.

    Raises:
        CheckpointError: There is no such run, or the stage is no finished quantized student.
        RecipeError: The budget is no share.
    """
    if budget is not None:
        require_budget(budget)
    run = open_run(out)
    if threads:
        torch.set_num_threads(threads)
    names = _stages(run, stage)
    with locked(out), RunLog(out) as log:
        chosen = {}
        for name in names:
            scan = _scan(run, name, cache or out / "cache", torch.device(device), threads, log)
            content = {"stage": name, **scan.to_dict()}
            file = out / name / FILE
            atomic_write(file, json.dumps(content, indent=1, allow_nan=False))
            _print(log.console, name, scan, file)
            if budget is not None:
                chosen[name] = scan.within(budget)
                _print_chosen(log.console, name, scan, chosen[name], budget)
        if any(chosen.values()):
            recipe = write_fallback(run, chosen)
            data = run.record["data_source"]
            log.console.print(
                f"quantize again with these layers in float: qdr-edge train {recipe} "
                f"--data {data} --out {out}-fallback",
                markup=False,
            )


def _stages(run: Run, stage: str | None) -> list[str]:
    done = [
        name
        for name, settings in run.recipe.stages.items()
        if isinstance(settings, StudentStage)
        and settings.quantize
        and run.stage(name)["status"] == "done"
    ]
    if (stage is not None and stage not in done) or not done:
        raise CheckpointError(
            f"stage {stage!r} cannot be scanned" if stage else "nothing to scan",
            where=str(run.folder),
            expected=f"one of {', '.join(done)}" if done else "a finished quantized student",
            fix="correct --stage" if done else "let training finish first (--resume)",
        )
    return done if stage is None else [stage]


def _scan(
    run: Run, name: str, cache: Path, device: torch.device, threads: int, log: RunLog
) -> Scan:
    settings = run.recipe.stages[name]
    assert isinstance(settings, StudentStage)
    network = new_network(settings, run.recipe, run.samples.labels)
    prepared = qat.prepare_qat(network, run.recipe.quant_scheme(), settings.quantization)
    prepared.load_state_dict(load_state(run.folder / name, BEST_QAT)[0])
    samples = run.samples.select(settings.modality)
    spec = PreprocessSpec(settings.modality, run.recipe.size)
    with log.bar(f"reading {len(samples)} {settings.modality} images") as bar:
        pixels = open_pixels(cache, samples, spec, threads=max(threads, 1), progress=bar)
    images = images_of(samples, pixels, "val")
    with log.bar(f"{name}: passes over {len(images)} validation images") as bar:
        return scan_layers(
            prepared.to(device),
            images,
            run.samples.labels,
            device,
            seed=run.recipe.seed,
            progress=bar,
        )


def _print(console: Console, name: str, scan: Scan, file: Path) -> None:
    whole = scan.whole
    console.print(
        f"{name}: {scan.images} validation images. All in int8: logits off by {whole.rms:.4f} "
        f"(RMS), {whole.flips} of {scan.decisions} decisions other than in float, mAP "
        f"{_points(whole.map_change)} points. Then each layer in float, and each alone in int8: "
        "the same figures, mAP against all in int8 and against float.",
        markup=False,
    )
    width = max(len(layer.name) for layer in scan.layers)
    for layer in scan.layers:
        effects = " | ".join(
            f"{e.rms:.4f} {e.flips:5d} {_points(e.map_change):>24}"
            for e in (layer.except_it, layer.only_it)
        )
        line = f"{layer.name:{width}} {100 * layer.macs_share:5.1f} % MACs | {effects}"
        console.print(line, markup=False)
    worst = scan.suggestion()
    if worst:
        console.print(f"worth a try: quantization: {{exclude: [{', '.join(worst)}]}}", markup=False)
    else:
        console.print("no layer's exclusion changes the answers measurably", markup=False)
    console.print(f"written: {file}", markup=False)


def _print_chosen(
    console: Console, name: str, scan: Scan, chosen: tuple[str, ...], budget: float
) -> None:
    if not chosen:
        console.print(
            f"{name}: no layer within {100 * budget:g} % of the MACs takes any of the logits' "
            "error away",
            markup=False,
        )
        return
    shares = {layer.name: layer.macs_share for layer in scan.layers}
    spent = scan.in_float + sum(shares[layer] for layer in chosen)
    console.print(
        f"{name}: within {100 * budget:g} % of the MACs: exclude: [{', '.join(chosen)}], "
        f"{100 * spent:.2f} % of the MACs in float in all",
        markup=False,
    )


def _points(change: Estimate) -> str:
    return f"{100 * change.value:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]"
