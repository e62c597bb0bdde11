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
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from qdr_bench.environment import ProcTree, environment
from qdr_edge.bootstrap import Floats, PatientWeights
from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import BenchmarkError, QdrError
from qdr_edge.figures import Answers, figures
from qdr_edge.files import atomic_write
from qdr_edge.metrics import Estimate
from qdr_edge.samples import SampleSet, read_csv

ROOT = Path(__file__).resolve().parent.parent
PATIENTS, DATA_SEED, DATA_SIZE = 240, 3, 160
QUICK = ("--epochs-scale", "0.05")
RESAMPLES = 2000
INT8_SHARE = 0.99


@dataclass(frozen=True)
class Trained:
    """One network of one seed: its mAP on the test split and on resamples of its patients.

    Args:
        int8: [1 + B]; None for a float network.
        float_twin: The same weights in float, [1 + B].
    """

    int8: Floats | None
    float_twin: Floats


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


def draw(out: Path, patients: int) -> str:
    """Synthetic eyes in `out`; returns their CSV."""
    table = out / f"data-{patients}" / "synthetic.csv"
    if not table.is_file():
        _qdr_edge("data", "synth", str(table.parent), "--patients", str(patients),
                  "--seed", str(DATA_SEED), "--size", str(DATA_SIZE))  # fmt: skip
    return str(table)


def train(recipe: str, data: str, out: Path, seed: int, threads: int, *, quick: bool) -> Path:
    """A finished run of one seed."""
    run = out / f"{Path(recipe).stem}{'-quick' if quick else ''}-{seed}"
    record = run / "run.json"
    if record.is_file() and json.loads(record.read_text())["status"] == "done":
        return run
    resume = ["--resume"] if record.is_file() else []
    _qdr_edge("train", recipe, "--data", data, "--out", str(run), "--seed", str(seed),
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
    _require_same_test(samples, runs)
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
        {"name": name, "modality": stage["modality"], "map": _over_seeds(
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
        "resamples": RESAMPLES,
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


def evaluated(stage: Path, samples: SampleSet, modality: str) -> Trained:
    """The test mAP of a trained stage, from the logits in its checkpoint."""
    checkpoint = load_checkpoint(stage)
    test = samples.select(modality, "test")
    # A probe holds the validation images, then the test images.
    begin = len(samples.select(modality, "val"))
    # One seed of the bootstrap for all: every network meets the same resamples of patients.
    weights = PatientWeights(len(test), [s.patient for s in test], RESAMPLES, seed=0)
    targets = test.targets().astype(float)

    def rows(name: str) -> Floats:
        answers = Answers(checkpoint.probe[name][begin:].astype(float))
        return figures(answers, targets, checkpoint.labels, weights).whole["map"]

    quantized = checkpoint.scheme is not None
    return Trained(rows("reference_logits") if quantized else None, rows("float_logits"))


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
                table.add_row(row["name"], _points(row["map"]), "–", "–", "–", "–")
        for row in report["students"]:
            if row["modality"] == modality:
                share, gain = row["int8_of_float"], row["difference"]
                table.add_row(
                    row["name"],
                    f"{100 * row['float']['value']:.1f}",
                    _points(row["int8"]),
                    f"{share['value']:.3f}",
                    _points(gain, signed=True) if gain else "–",
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
    int8 = [_int8(network) for network in mine]
    twins = [network.float_twin for network in mine]
    # The ratio of means over seeds, which a seed of a low mAP does not dominate.
    share = _over_seeds(int8, twins)
    gains = None
    if base is not None:
        gains = _over_seeds([a - _int8(b) for a, b in zip(int8, base, strict=True)])
    return {
        "int8": _over_seeds(int8),
        "float": _over_seeds(twins),
        "int8_of_float": share,
        "difference": gains,
    }


def _int8_claim(networks: Sequence[Trained]) -> dict[str, Any]:
    """What int8 keeps of the float mAP, mean over all students of a modality and all seeds."""
    int8 = np.mean([_int8(network) for network in networks], axis=0)
    twins = np.mean([network.float_twin for network in networks], axis=0)
    kept = Estimate.of(int8 / twins, len(networks))
    return {
        "value": kept.value,
        "low": kept.low,
        "high": kept.high,
        "holds": kept.value >= INT8_SHARE,
    }


def _over_seeds(values: Sequence[Floats], over: Sequence[Floats] | None = None) -> dict[str, Any]:
    """Mean over seeds of rows [1 + B], or its quotient with that of `over`; seeds resampled too."""
    stacked = np.stack(values)
    drawn = np.random.default_rng(0).integers(0, len(stacked), (len(stacked), stacked.shape[1]))
    drawn[:, 0] = np.arange(len(stacked))

    def mean(of: Floats) -> Floats:
        means: Floats = np.take_along_axis(of, drawn, axis=0).mean(axis=0)
        return means

    rows, by_seed = mean(stacked), stacked[:, 0]
    if over is not None:
        rows, by_seed = rows / mean(np.stack(over)), by_seed / np.stack(over)[:, 0]
    found = Estimate.of(rows, len(stacked))
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "by_seed": by_seed.tolist(),
    }


def _int8(network: Trained) -> Floats:
    assert network.int8 is not None, "only quantized students are compared"
    return network.int8


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


def _require_same_test(samples: Sequence[SampleSet], runs: Mapping[int, Path]) -> None:
    """A split that is made by seed would compare networks on different images."""
    tests = [[(s.file, s.labels.tolist()) for s in table if s.split == "test"] for table in samples]
    for test, run in zip(tests, runs.values(), strict=True):
        if test != tests[0]:
            raise BenchmarkError(
                "its test split is not that of the other seeds",
                where=str(run),
                expected="data that says which images are for testing",
                fix="add a split column",
            )


def _points(estimate: Mapping[str, Any], *, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    value, low, high = (format(100 * estimate[key], form) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _qdr_edge(*arguments: str) -> None:
    print("$ qdr-edge", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "qdr_edge.cli", *arguments], check=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except QdrError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)  # the command has said why
