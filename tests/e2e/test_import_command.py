"""`qdr-edge import` as a command: what it makes, says, calibrates and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import qdr_edge
from qdr_edge.bundle import read_bundle
from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.cli import app
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import read_csv
from qdr_export.emit.tensorrt import emit as emit_tensorrt
from qdr_export.graph.canonical import build_canonical
from qdr_export.pipeline import export_student
from qdr_export.profiles import load_profile
from qdr_export.reference import Reference
from qdr_export.run_folder import find_students
from qdr_train.synth import generate
from tests.networks import checkpoint
from tests.qdq_files import CENTRED, float_file, quantize_static

SIZE = 64
MEAN = ["--mean", *[str(CENTRED.mean[0])] * 3, "--std", *[str(CENTRED.std[0])] * 3]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("eyes"), 16, 5, 96, workers=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Path:
    """The float twin of an untrained network, quantized by onnxruntime.quantization."""
    samples = read_csv(table)
    spec = PreprocessSpec("fundus", SIZE)
    images = [load_image(s.file, spec) for s in samples.select("fundus", "train").samples[:12]]
    path = tmp_path_factory.mktemp("model") / "student.onnx"
    twin = float_file("student", labels=samples.labels)
    path.write_bytes(quantize_static(twin, images=np.stack(images), per_channel=True))
    return path


def run(model: Path, table: Path, out: Path, *options: str) -> Result:
    arguments = [
        "import",
        str(model),
        "--data",
        str(table),
        "--out",
        str(out),
        "--modality",
        "fundus",
    ]
    return CliRunner().invoke(app, [*arguments, "--labels", "TOPCON-MM", "--synthetic", *options])


def test_a_file_of_onnxruntime_becomes_a_proven_bundle_that_screens(
    model: Path, table: Path, tmp_path: Path
) -> None:
    result = run(model, table, tmp_path / "run", *MEAN, "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "against the original in ONNX Runtime" in result.output
    made = load_checkpoint(tmp_path / "run" / "student-fundus")
    assert made.scheme is not None
    assert made.scheme.name == "u8"
    assert made.provenance["proof"]["images"] == len(made.probe["source_logits"])
    assert {entry["rule"] for entry in made.provenance["normalisations"]} >= {"relu"}

    name, students = find_students(tmp_path / "run")
    assert name == "run"
    assert students[0].same_data
    key = SigningKey.generate()
    profiles = [load_profile(target) for target in ("ort-x86", "openvino")]
    exported = export_student(
        students[0], profiles, name="brought", out=tmp_path / "out", key=key, threads=1
    )
    source = exported.parity.rung("source")
    assert source.role == "informs"
    assert source.images == len(students[0].samples)
    with pytest.raises(StopIteration):
        exported.parity.rung("trainer")
    assert exported.proven == (not source.flips)
    trust = TrustStore.of(key.public)
    assert read_bundle(exported.bundle, trust=trust).manifest.synthetic
    for target in ("ort-x86", "openvino"):
        with qdr_edge.load(exported.bundle, target=target, threads=1, trust=trust) as screener:
            decision = screener.screen(students[0].samples[0].file)
        assert len(decision.labels) == len(made.labels)


def test_a_file_that_leaves_tensors_in_float_is_refused_then_calibrated(
    table: Path, tmp_path: Path
) -> None:
    labels = read_csv(table).labels
    path = tmp_path / "trt.onnx"
    canonical = build_canonical(checkpoint("resnet", labels=labels))
    path.write_bytes(emit_tensorrt(canonical))
    refused = run(path, table, tmp_path / "run")
    assert refused.exit_code
    assert "cannot be imported" in refused.output
    assert "qdr-edge lint" in refused.output
    assert not (tmp_path / "run").exists()
    result = run(path, table, tmp_path / "run", "--calibrate", "8")
    assert result.exit_code == 0, result.output
    made = load_checkpoint(tmp_path / "run" / "student-fundus")
    assert made.scheme is not None
    assert made.scheme.name == "exact"
    told = [e for e in made.provenance["normalisations"] if e["rule"] == "calibrated"]
    assert len(told) == 6
    assert all("on 8 images" in entry["what"] for entry in told)
    # The grids found come about as near to the file as those it was once made with.
    _, (student,) = find_students(tmp_path / "run")
    images = np.stack([load_image(sample.file, made.preprocess) for sample in student.samples])
    apart = np.abs(Reference(canonical).infer(images) - made.probe["source_logits"]).max()
    assert made.provenance["proof"]["largest"] <= 2 * apart


def test_our_own_file_is_proven_to_the_bit(table: Path, tmp_path: Path) -> None:
    labels = read_csv(table).labels
    path = tmp_path / "own.onnx"
    path.write_bytes(build_canonical(checkpoint("student", labels=labels)))
    result = run(path, table, tmp_path / "run", "--name", "mine")
    assert result.exit_code == 0, result.output
    assert "nothing had to be normalised" in result.output
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["name"] == "mine"
    proof = load_checkpoint(tmp_path / "run" / "student-fundus").provenance["proof"]
    assert proof["exact"] == proof["images"]
    assert proof["flips_at_zero"] == 0
    again = run(path, table, tmp_path / "run")
    assert again.exit_code
    assert "something stands there already" in str(again.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "A,B"], "the labels 2"),
        (["--modality", "oct2"], "oct2"),
        (["--preprocess", "clahe_clip_x100=0"], "1..10000"),
        (["--preprocess", "clip=3"], "clip"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(
    table: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    labels = read_csv(table).labels
    path = tmp_path / "own.onnx"
    path.write_bytes(build_canonical(checkpoint("student", labels=labels)))
    result = run(path, table, tmp_path / "run", *options)
    assert result.exit_code
    assert message in str(result.exception)
    assert not (tmp_path / "run").exists()
