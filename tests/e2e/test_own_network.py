"""A stranger's Python file through calibration, training, resuming, fallback and export."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import CheckpointError, OutputError, QdrError, RecipeError
from qdr_edge.files import sha256_file
from qdr_export.canonical import build_canonical
from qdr_export.reference import Reference
from qdr_train.commands.quantize import quantize
from qdr_train.commands.train import train
from qdr_train.data.read import read_data
from qdr_train.engine import stage as stage_module
from tests.eyes import CODES, write_eyes

NET = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(True)
        )
        self.left, self.right = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([F.silu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))

def build():
    torch.manual_seed(5)
    return Net()
"""
RECIPE = """
name: mine
size: 32
data: {labels: [NOR, AMD, DR]}
stages:
  student-fundus:
    modality: fundus
    model: {name: qdr-small}
    batch: 8
    epochs: 1
    qat_epochs: 2
    frozen_epochs: 1
"""
NORMALIZED = ("--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225")
LABELS = ",".join(CODES)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_eyes(tmp_path / "data", 24)
    (tmp_path / "net.py").write_text(NET.replace("CLASSES", str(len(CODES))))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def data(work: Path) -> Path:
    return next((work / "data").glob("*.csv"))


def cli(command: Callable[..., None], *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def exports_to_the_same_bits(folder: Path) -> None:
    """The exporter's reference gives the logits that the trainer has put into the checkpoint."""
    checkpoint = load_checkpoint(folder)
    samples = read_data(
        folder.parent / "data.csv", checkpoint.labels, (checkpoint.modality,)
    ).select(checkpoint.modality)
    cache = next((folder.parent / "cache").rglob("*.u8"))
    size = checkpoint.preprocess.size
    pixels = np.fromfile(cache, np.uint8).reshape(-1, 3, size, size)
    rows = [i for part in ("val", "test") for i, s in enumerate(samples) if s.split == part]
    logits = Reference(build_canonical(checkpoint)).infer(pixels[rows])
    expected = checkpoint.probe["reference_logits"]
    if checkpoint.scheme is not None and checkpoint.scheme.power_of_two:
        assert np.array_equal(logits, expected)
    else:
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scheme", ["exact", "u8"])
def test_calibration_only(work: Path, scheme: str) -> None:
    out = work / "ptq"
    source = ("--size", 32, "--labels", LABELS, "--scheme", scheme, *NORMALIZED)
    result = cli(quantize, work / "net.py", "--data", data(work), "--out", out, *source)
    assert re.search(
        r"validation mAP: float [\d.]+, int8 [\d.]+; difference [+-][\d.]+ \[[+-].*\] \(paired",
        result.output,
    )
    checkpoint = load_checkpoint(out / "student-fundus")
    assert checkpoint.model["own"]["sha256"] == sha256_file(work / "net.py")
    assert "steps" not in checkpoint.model["own"]
    assert checkpoint.provenance["initial_weights"]["layout"] == "own"
    nodes = checkpoint.graph.nodes
    assert [node.op for node in nodes[:2]] == ["normalize", "conv"]
    assert nodes[1].activation == "relu6"
    assert {"concat", "silu"} <= {node.op for node in nodes}
    assert any(node.zero_point for node in nodes) == (scheme == "u8")
    exports_to_the_same_bits(out / "student-fundus")


def test_weights_come_from_the_file(work: Path) -> None:
    state: dict[str, torch.Tensor] = {}
    space: dict[str, object] = {}
    exec((work / "net.py").read_text(), space)
    network = space["build"]()  # type: ignore[operator]
    state = {name: value * 2 for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, work / "weights.pth")
    arguments = (work / "net.py", "--data", data(work), "--size", 32, "--labels", LABELS)
    cli(quantize, *arguments, "--out", work / "plain")
    cli(quantize, *arguments, "--out", work / "doubled", "--weights", work / "weights.pth")
    plain, doubled = (
        load_checkpoint(work / name / "student-fundus").tensors["head.weight"]
        for name in ("plain", "doubled")
    )
    assert np.array_equal(doubled, 2 * plain)


def test_nothing_is_written_where_it_does_not_fit(work: Path) -> None:
    arguments = (work / "net.py", "--data", data(work), "--out", work / "ptq", "--size", 32)
    with pytest.raises(RecipeError, match="3 outputs, the data 11 labels"):
        cli(quantize, *arguments)
    assert not (work / "ptq").exists()
    (work / "ptq").mkdir()
    (work / "ptq" / "mine").touch()
    with pytest.raises(OutputError, match="not empty"):
        cli(quantize, *arguments, "--labels", LABELS)


def test_training_resumes_without_the_python_file(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (work / "recipe.yaml", "--data", data(work), "--model", work / "net.py")
    cli(train, *arguments, "--out", work / "whole", "--set", "scheme=u8")
    exports_to_the_same_bits(work / "whole" / "student-fundus")

    calls = 0
    epoch = stage_module.train_epoch

    def interrupted(*args: object, **kwargs: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return epoch(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_module, "train_epoch", interrupted)
    assert cli(train, *arguments, "--out", work / "cut", "--set", "scheme=u8").exit_code == 130
    (work / "net.py").unlink()  # a run holds the network as data and names no code
    cli(train, "--resume", "--out", work / "cut")
    whole, cut = (load_checkpoint(work / n / "student-fundus") for n in ("whole", "cut"))
    assert whole.tensors.keys() == cut.tensors.keys()
    assert all(np.array_equal(whole.tensors[name], cut.tensors[name]) for name in whole.tensors)
    assert str(work) not in (work / "cut" / "recipe.yaml").read_text()


def test_training_moves_the_weights(work: Path) -> None:
    arguments = (work / "recipe.yaml", "--data", data(work), "--model", work / "net.py")
    cli(train, *arguments, "--out", work / "trained", *NORMALIZED)
    cli(train, *arguments, "--out", work / "kept", *NORMALIZED, "--set", "student.epochs=0")
    trained, kept = (
        load_checkpoint(work / n / "student-fundus").probe for n in ("trained", "kept")
    )
    assert not np.array_equal(trained["float_logits"], kept["float_logits"])
    exports_to_the_same_bits(work / "trained" / "student-fundus")


def test_lost_weights_are_missed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_module, "train_epoch", interrupted)
    arguments = (work / "recipe.yaml", "--data", data(work), "--model", work / "net.py")
    assert cli(train, *arguments, "--out", work / "cut").exit_code == 130
    (work / "cut" / "own-weights.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not the weights that the run began with"):
        cli(train, "--resume", "--out", work / "cut")


def test_options_that_do_not_go_together(work: Path) -> None:
    out = work / "out"
    assert cli(train, "--resume", "--out", out, "--model", work / "net.py").exit_code == 2
    arguments = (work / "recipe.yaml", "--data", data(work), "--out", out)
    assert cli(train, *arguments, "--weights", work / "w.pth").exit_code == 2
    with pytest.raises(RecipeError, match="no student"):
        cli(train, "teacher-fundus", *arguments[1:], "--model", work / "net.py", "--size", 32)
    assert not out.exists()


def test_no_recipe_names_code(work: Path) -> None:
    text = RECIPE.replace("{name: qdr-small}", "{name: own}")
    (work / "bad.yaml").write_text(text)
    with pytest.raises(QdrError, match="comes from --model"):
        cli(train, work / "bad.yaml", "--data", data(work), "--out", work / "out")


def test_fallback_keeps_costly_layers_in_float_in_one_command(work: Path) -> None:
    out = work / "mine"
    cli(
        train,
        *(work / "recipe.yaml", "--data", data(work), "--out", out, "--model", work / "net.py"),
        *("--set", "student.quantization.exclude=[right]"),
    )
    scan = cli(train, "--sensitivity", "--out", out, "--budget", "0.5")
    report = json.loads((out / "student-fundus" / "sensitivity.json").read_text())
    shares = {layer["name"]: layer["macs_share"] for layer in report["layers"]}
    command = re.search(r"qdr-edge train (\S+) --data (\S+) --out (\S+)", scan.output)
    assert command is not None, scan.output
    recipe, csv, repeated = command.groups()
    cli(train, recipe, "--data", csv, "--out", repeated)
    kept = load_checkpoint(Path(repeated) / "student-fundus")
    added = [n for n in kept.graph.float_layers if n != "right"]
    assert "right" in kept.graph.float_layers
    assert added
    full = {name.removeprefix("backbone."): share for name, share in shares.items()}
    assert sum(full[name] for name in added) + 1 - sum(full.values()) <= 0.5
    first = load_checkpoint(out / "student-fundus")
    assert kept.provenance["initial_weights"]["layout"] == "qdr"
    assert first.labels == kept.labels
    exports_to_the_same_bits(Path(repeated) / "student-fundus")


def test_budget_is_a_share(work: Path) -> None:
    with pytest.raises(RecipeError, match="budget 2"):
        cli(train, "--sensitivity", "--out", work, "--budget", "2")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--calibration", "entropy", "'minmax', 'percentile' or 'mse'"),
        ("--scheme", "int4", "one of exact, exact-wide, portable, u8"),
        ("--modality", "xray", "'fundus' or 'oct'"),
        ("--size", 50, "multiple of 32"),
        ("--exclude", "lefft", "the nearest are"),
        ("--images", 0, "greater than or equal to 1"),
    ],
)
def test_wrong_values_are_explained(work: Path, option: str, value: object, expected: str) -> None:
    settings: dict[str, object] = {"--size": 32, "--labels": LABELS, option: value}
    options = [part for pair in settings.items() for part in pair]
    with pytest.raises(RecipeError) as error:
        cli(quantize, work / "net.py", "--data", data(work), "--out", work / "ptq", *options)
    assert expected in str(error.value)
    assert not (work / "ptq").exists()
