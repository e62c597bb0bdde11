"""benchmarks/distillation.py: figures over seeds, paired differences, and runs it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from qdr_edge.checkpoint import save_checkpoint
from qdr_edge.errors import BenchmarkError
from qdr_edge.metrics import evaluate, paired_map_difference
from qdr_edge.samples import SampleSet, read_csv
from tests.networks import LABELS, checkpoint

FILE = Path(__file__).parents[2] / "benchmarks" / "distillation.py"
STAGES = {"student-fundus-none": [], "student-fundus-same": ["teacher-fundus"]}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distillation_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.of_seeds.RESAMPLES = 200
    return module


def write_run(folder: Path, seed: int, flipped: int = -1) -> tuple[SampleSet, list[np.ndarray]]:
    """A run of two students with drawn answers; returns its test rows and their int8 answers."""
    folder.mkdir()
    codes = LABELS.codes
    for i in range(60):  # the images of a run are its data's, whichever seed trains on them
        (folder.parent / f"{i}.png").touch()
    rows = [
        f"{folder.parent / str(i)}.png,fundus,{codes[(i + (i == flipped)) % 4]},p{i // 2},,{split}"
        for i, split in enumerate(["val"] * 8 + ["train"] * 4 + ["test"] * 48)
    ]
    table = folder / "data.csv"
    table.write_text("\n".join(["file,modality,labels,patient,eye,split", *rows]) + "\n")
    common = {"role": "student", "modality": "fundus", "quantize": True, "distill": {"alpha": 2.0}}
    stages = {name: {**common, "teachers": taught} for name, taught in STAGES.items()}
    recipe = {"name": "tiny", "seed": seed, "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps({"synthetic": True, "data_sha256": "0"}))
    samples = read_csv(table, LABELS)
    parts = [samples.select("fundus", split) for split in ("val", "test")]
    targets = np.concatenate([part.targets() for part in parts]).astype(np.float32)
    random, answers = np.random.default_rng(seed), []
    for name, noise in zip(STAGES, (2.0, 0.5), strict=True):
        int8 = targets + noise * random.standard_normal(targets.shape).astype(np.float32)
        twin = int8 + np.float32(0.3) * random.standard_normal(targets.shape).astype(np.float32)
        made = checkpoint("student", labels=LABELS)
        probe = {"reference_logits": int8, "float_logits": twin}
        save_checkpoint(folder / name, replace(made, probe=probe))
        answers.append(int8[len(parts[0]) :])
    return parts[1], answers


def test_one_seed_gives_the_figures_of_its_test_images(bench: ModuleType, tmp_path: Path) -> None:
    test, (plain, taught) = write_run(tmp_path / "a", 1)
    report = bench.compare({1: tmp_path / "a"})
    none, same = report["students"]
    patients = [sample.patient for sample in test]
    assert none["difference"] is None
    expected = evaluate(plain, test.targets(), LABELS, groups=patients, n_bootstrap=0)
    assert none["int8"]["value"] == pytest.approx(expected.map.value)
    paired = paired_map_difference(taught, plain, test.targets(), patients, n_bootstrap=200)
    found = [same["difference"][key] for key in ("value", "low", "high")]
    assert found == pytest.approx([paired.value, paired.low, paired.high])
    assert report["test"]["fundus"] == {"images": 48, "patients": 24}


def test_seeds_are_averaged_and_widen_the_interval(bench: ModuleType, tmp_path: Path) -> None:
    runs = {seed: tmp_path / str(seed) for seed in (1, 2)}
    for seed, folder in runs.items():
        write_run(folder, seed)
    both = bench.compare(runs)["students"][1]
    alone = [bench.compare({seed: run})["students"][1] for seed, run in runs.items()]
    values = [report["difference"]["value"] for report in alone]
    assert both["difference"]["by_seed"] == pytest.approx(values)
    assert both["difference"]["value"] == pytest.approx(np.mean(values))
    share = [np.mean([report[form]["value"] for report in alone]) for form in ("int8", "float")]
    assert both["int8_of_float"]["value"] == pytest.approx(share[0] / share[1])


def test_what_int8_keeps_is_judged_over_all_students(bench: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1)
    report = bench.compare({1: tmp_path / "a"})
    means = [np.mean([s[form]["value"] for s in report["students"]]) for form in ("int8", "float")]
    kept = report["int8_of_float"]["fundus"]
    assert kept["value"] == pytest.approx(means[0] / means[1])
    assert kept["low"] <= kept["value"] <= kept["high"]
    assert kept["holds"] == (kept["value"] >= 0.99)


def test_runs_on_other_test_images_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 2, flipped=59)
    with pytest.raises(BenchmarkError, match="test split"):
        bench.compare({1: tmp_path / "a", 2: tmp_path / "b"})


def test_runs_of_another_recipe_are_refused(bench: ModuleType, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_run(tmp_path / name, seed)
    other = tmp_path / "b" / "recipe.yaml"
    other.write_text(other.read_text().replace("alpha: 2.0", "alpha: 1.0"))
    with pytest.raises(BenchmarkError, match="another recipe"):
        bench.compare({1: tmp_path / "a", 2: tmp_path / "b"})
