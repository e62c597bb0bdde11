"""What does each scheme cost? ``python benchmarks/schemes.py``: one float network, every scheme.

For every seed a student is trained in float once; quantization-aware training then starts from
these very weights under each scheme. Figures are of the test split and of the integers that ship.
Differences are paired by image; their 95 % intervals resample patients and seeds. Runs that are
done are not trained again; interrupted ones continue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
from qdr_edge.files import atomic_write, sha256_bytes
from qdr_edge.samples import read_csv
from qdr_edge.scheme import EXACT, SCHEMES, U8

MODALITIES = ("fundus", "oct")
FLOAT = "float"
QUICK = ("--epochs-scale", "0.05")
MOST = 0.5
"""Points of mAP that scheme exact may lose against u8, mean over modalities and seeds."""


def main() -> int:
    """Train what is missing, print the table; return 1 if exact costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="schemes", help="one student-MODALITY stage each")
    parser.add_argument("--data", help="CSV or folder; default: synthetic eyes, drawn once")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "schemes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a trial: hardly any training")
    parser.add_argument("--save", type=Path, nargs="?", const=ROOT / "benchmarks" / "reports",
                        metavar="FOLDER", help="write schemes-DATE.json")  # fmt: skip
    options = parser.parse_args()
    data = options.data or draw(options.out, 24 if options.quick else PATIENTS)
    trained: dict[tuple[str, str], list[Trained]] = {}
    tables = {}
    for seed in options.seeds:
        for name, run in runs(options, data, seed).items():
            labels = load_checkpoint(run / f"student-{options.modalities[0]}").labels
            tables[run] = read_csv(run / "data.csv", labels)
            for modality in options.modalities:
                network = evaluated(run / f"student-{modality}", tables[run], modality)
                trained.setdefault((modality, name), []).append(network)
    require_same_test(list(tables.values()), dict(enumerate(tables)))
    rows = compare(trained, options.modalities)
    cost = show(rows, options.modalities, Console(width=118))
    if options.save:
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        about = {"date": day, "quick": options.quick, "seeds": options.seeds, "rows": rows,
                 "exact_below_u8": cost}  # fmt: skip
        about["environment"] = environment(ProcTree()).to_dict()
        path = options.save / f"schemes-{day}.json"
        atomic_write(path, json.dumps(about, indent=1) + "\n")
        print(f"saved {path}")
    return 0 if options.quick or cost <= MOST else 1


def runs(options: argparse.Namespace, data: str, seed: int) -> dict[str, Path]:
    """The finished runs of one seed: float, then every scheme from its weights."""
    common = ("--data", data, "--seed", str(seed), "--cache", str(options.out / "cache"),
              "--threads", str(options.threads), *(QUICK if options.quick else ()))  # fmt: skip
    others = [m for m in MODALITIES if m not in options.modalities]
    left_out = [word for m in others for word in ("--set", f"stages.student-{m}=null")]
    suffix = f"{'quick-' if options.quick else ''}{seed}"
    base = options.out / f"{FLOAT}-{suffix}"
    plain = ("--set", "student.quantize=false", "--set", "student.qat_epochs=0",
             "--set", "student.frozen_epochs=0")  # fmt: skip
    _train(options.recipe, base, *common, *left_out, *plain)
    found = {FLOAT: base}
    for scheme in SCHEMES:
        weights = ["--set", "student.epochs=0", "--set", f"scheme={scheme.name}"]
        for modality in options.modalities:
            file = next((base / f"student-{modality}").glob("best-float-*.safetensors"))
            init = {"file": str(file), "sha256": sha256_bytes(file.read_bytes()), "layout": "qdr"}
            weights += ["--set", f"stages.student-{modality}.model.init={json.dumps(init)}"]
        found[scheme.name] = options.out / f"{scheme.name}-{suffix}"
        _train(options.recipe, found[scheme.name], *common, *left_out, *weights)
    return found


def compare(
    trained: Mapping[tuple[str, str], Sequence[Trained]], modalities: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each modality and scheme, beside u8 and beside the float it began from."""
    rows: list[dict[str, Any]] = []
    for modality in modalities:
        begin = [network.float_twin for network in trained[modality, FLOAT]]
        rows.append({"modality": modality, "scheme": FLOAT, "map": over_seeds(begin)})
        widest = [int8_rows(network) for network in trained[modality, U8.name]]
        for scheme in SCHEMES:
            found = [int8_rows(network) for network in trained[modality, scheme.name]]
            below = [a - b for a, b in zip(found, begin, strict=True)]
            beside = [a - b for a, b in zip(found, widest, strict=True)]
            rows.append(
                {
                    "modality": modality,
                    "scheme": scheme.name,
                    "map": over_seeds(found),
                    "minus_float": over_seeds(below),
                    "minus_u8": over_seeds(beside) if scheme is not U8 else None,
                }
            )
    return rows


def show(rows: Sequence[Mapping[str, Any]], modalities: Sequence[str], console: Console) -> float:
    """Print the table; return what exact loses against u8, in points, mean over modalities."""
    table = Table(title="Test mAP in points, [95 % interval]", title_justify="left")
    table.add_column("modality")
    table.add_column("scheme")
    for column in ("mAP", "minus float", "minus u8", "by seed"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        lost, beside = row.get("minus_float"), row.get("minus_u8")
        table.add_row(
            row["modality"],
            row["scheme"],
            points(row["map"]),
            points(lost, signed=True) if lost else "–",
            points(beside, signed=True) if beside else "–",
            " ".join(f"{100 * value:.1f}" for value in row["map"]["by_seed"]),
        )
    console.print(table)
    gaps = [row["minus_u8"]["value"] for row in rows if row["scheme"] == EXACT.name]
    cost: float = -100 * sum(gaps) / len(gaps)
    verdict = "[green]PASS[/]" if cost <= MOST else "[bold red]FAIL[/]"
    console.print(
        f"exact loses {cost:.2f} points against u8, mean over {' and '.join(modalities)} "
        f"(target ≤ {MOST}) {verdict}"
    )
    return cost


def _train(recipe: str, run: Path, *arguments: str) -> None:
    record = run / "run.json"
    done = record.is_file() and json.loads(record.read_text())["status"] == "done"
    if not done:
        resume = ["--resume"] if record.is_file() else []
        qdr_edge("train", recipe, "--out", str(run), *arguments, *resume)


if __name__ == "__main__":
    run_script(main)
