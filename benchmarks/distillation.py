"""Do teachers help? ``python benchmarks/distillation.py``: students side by side, several seeds.

A recipe's students are trained once for every seed, each seed with teachers of its own. Every
figure is of the test split and of the int8 integers that ship. Students of a modality are compared
with the one that has no teacher; differences are paired by image, and their 95 % intervals resample
patients and seeds, so that they cover the chance of the split and of the training. Runs that are
done are not trained again; interrupted ones continue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from qdr_bench import seeds as of_seeds
from qdr_bench.built import ROOT, qdr_edge, run_script
from qdr_bench.machine.environment import environment
from qdr_bench.machine.tree import ProcTree
from qdr_bench.seeds import (
    PATIENTS,
    Trained,
    draw,
    evaluated,
    int8_rows,
    over_seeds,
    points,
    require_same_test,
)
from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import atomic_write
from qdr_edge.metrics import Estimate
from qdr_edge.samples import read_csv

QUICK = ("--epochs-scale", "0.05")
INT8_SHARE = 0.99


def main() -> int:
    """Train what is missing, print the table; return 1 if int8 costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="ablation", help="name or YAML file")
    parser.add_argument("--data", help="CSV or folder; default: synthetic eyes, drawn once")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "distillation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a trial: hardly any training")
    parser.add_argument("--save", type=Path, nargs="?", const=ROOT / "benchmarks" / "reports",
                        metavar="FOLDER", help="write distillation-RECIPE-DATE.json")  # fmt: skip
    options = parser.parse_args()
    data = options.data or draw(options.out, 24 if options.quick else PATIENTS)
    runs = {
        seed: train(options.recipe, data, options.out, seed, options.threads, quick=options.quick)
        for seed in options.seeds
    }
    report = compare(runs)
    show(report, Console(width=132))
    if options.save:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        path = options.save / f"distillation-{report['recipe']}-{day}.json"
        about = {"date": day, "quick": options.quick, "threads": options.threads}
        machine = {"environment": environment(ProcTree()).to_dict()}
        atomic_write(path, json.dumps({**about, **report, **machine}, indent=1) + "\n")
        print(f"saved {path}")
    return 0 if options.quick or all(c["holds"] for c in report["int8_of_float"].values()) else 1


def train(recipe: str, data: str, out: Path, seed: int, threads: int, *, quick: bool) -> Path:
    """A finished run of one seed."""
    run = out / f"{Path(recipe).stem}{'-quick' if quick else ''}-{seed}"
    record = run / "run.json"
    if record.is_file() and json.loads(record.read_text())["status"] == "done":
        return run
    resume = ["--resume"] if record.is_file() else []
    qdr_edge("train", recipe, "--data", data, "--out", str(run), "--seed", str(seed),
              "--cache", str(out / "cache"), "--threads", str(threads),
              *(QUICK if quick else ()), *resume)  # fmt: skip
    return run


def compare(runs: Mapping[int, Path]) -> dict[str, Any]:
    """Every network's figures over the seeds, each student's beside that without a teacher.

    Args:
        runs: Seed to run directory; all of the same recipe and test images.

    Raises:
        BenchmarkError: The runs differ in recipe or images, or a modality has no such student.
    """
    first = next(iter(runs.values()))
    recipe = yaml.safe_load((first / "recipe.yaml").read_text())
    records = [json.loads((run / "run.json").read_text()) for run in runs.values()]
    _require_same_recipe(recipe, runs)
    labels = load_checkpoint(first / next(iter(recipe["stages"]))).labels
    samples = [read_csv(run / "data.csv", labels) for run in runs.values()]
    require_same_test(samples, runs)
    stages: dict[str, dict[str, Any]] = recipe["stages"]
    networks = {
        name: [
            evaluated(run / name, table, stage["modality"])
            for run, table in zip(runs.values(), samples, strict=True)
        ]
        for name, stage in stages.items()
    }
    students = []
    for name, stage in stages.items():
        if stage["role"] != "student" or not stage["quantize"]:
            continue
        base = _untaught(stages, stage["modality"])
        students.append(
            {
                "name": name,
                "modality": stage["modality"],
                "teachers": list(stage["teachers"]),
                "distill": stage["distill"] if stage["teachers"] else None,
                **_figures(networks[name], networks[base] if name != base else None),
            }
        )
    others = [
        {"name": name, "modality": stage["modality"], "map": over_seeds(
            [network.float_twin for network in networks[name]])}
        for name, stage in stages.items()
        if stage["role"] == "teacher" or not stage["quantize"]
    ]  # fmt: skip
    tests = {m: samples[0].select(m, "test") for m in {s["modality"] for s in stages.values()}}
    return {
        "format": "qdr-distillation",
        "schema_version": 1,
        "recipe": recipe["name"],
        "seeds": list(runs),
        "synthetic": bool(records[0]["synthetic"]),
        "data_sha256": [record["data_sha256"] for record in records],
        "resamples": of_seeds.RESAMPLES,
        "test": {
            m: {"images": len(test), "patients": len({s.patient for s in test})}
            for m, test in sorted(tests.items())
        },
        "int8_of_float": {
            modality: _int8_claim(
                [
                    n
                    for name, of in networks.items()
                    if stages[name]["modality"] == modality
                    for n in of
                    if n.int8 is not None
                ]
            )
            for modality in sorted(tests)
        },
        "float": others,
        "students": students,
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the table."""
    seeds = len(report["seeds"])
    for modality, test in report["test"].items():
        table = Table(
            title=f"{modality}: {test['images']} test images of {test['patients']} patients, "
            f"{seeds} seed{'s' if seeds > 1 else ''}; mAP in points, [95 % interval]",
            title_justify="left",
        )
        table.add_column("network", no_wrap=True)
        for column in ("float", "int8", "int8 / float", "int8 − untaught", "by seed"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in report["float"]:
            if row["modality"] == modality:
                table.add_row(row["name"], points(row["map"]), "–", "–", "–", "–")
        for row in report["students"]:
            if row["modality"] == modality:
                share, gain = row["int8_of_float"], row["difference"]
                table.add_row(
                    row["name"],
                    f"{100 * row['float']['value']:.1f}",
                    points(row["int8"]),
                    f"{share['value']:.3f}",
                    points(gain, signed=True) if gain else "–",
                    " ".join(f"{100 * v:+.1f}" for v in gain["by_seed"]) if gain else "–",
                )
        console.print(table)
        kept = report["int8_of_float"][modality]
        verdict = "[green]PASS[/]" if kept["holds"] else "[bold red]FAIL[/]"
        console.print(
            f"{modality}: int8 keeps {kept['value']:.3f} of the float mAP, mean over its students "
            f"(low {kept['low']:.3f}, high {kept['high']:.3f}; target ≥ {INT8_SHARE}) {verdict}"
        )
    if report["synthetic"]:
        console.print("Synthetic data: these figures say nothing about patients.", style="yellow")


def _figures(mine: Sequence[Trained], base: Sequence[Trained] | None) -> dict[str, Any]:
    int8 = [int8_rows(network) for network in mine]
    twins = [network.float_twin for network in mine]
    # The ratio of means over seeds, which a seed of a low mAP does not dominate.
    share = over_seeds(int8, twins)
    gains = None
    if base is not None:
        gains = over_seeds([a - int8_rows(b) for a, b in zip(int8, base, strict=True)])
    return {
        "int8": over_seeds(int8),
        "float": over_seeds(twins),
        "int8_of_float": share,
        "difference": gains,
    }


def _int8_claim(networks: Sequence[Trained]) -> dict[str, Any]:
    """What int8 keeps of the float mAP, mean over all students of a modality and all seeds."""
    int8 = np.mean([int8_rows(network) for network in networks], axis=0)
    twins = np.mean([network.float_twin for network in networks], axis=0)
    kept = Estimate.of(int8 / twins, len(networks))
    return {
        "value": kept.value,
        "low": kept.low,
        "high": kept.high,
        "holds": kept.value >= INT8_SHARE,
    }


def _untaught(stages: Mapping[str, Mapping[str, Any]], modality: str) -> str:
    for name, stage in stages.items():
        plain = stage["role"] == "student" and stage["quantize"] and not stage["teachers"]
        if plain and stage["modality"] == modality:
            return name
    raise BenchmarkError(
        f"no {modality} student without a teacher",
        expected="one to compare the others with",
        fix="add a student stage without `teachers` to the recipe",
    )


def _require_same_recipe(recipe: Mapping[str, Any], runs: Mapping[int, Path]) -> None:
    for seed, run in runs.items():
        theirs = yaml.safe_load((run / "recipe.yaml").read_text())
        if {**theirs, "seed": None} != {**recipe, "seed": None}:
            raise BenchmarkError(
                f"seed {seed} was trained by another recipe",
                where=str(run),
                expected="runs that differ in their seed only",
                fix="name a new --out",
            )


if __name__ == "__main__":
    run_script(main)
