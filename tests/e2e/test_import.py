"""A stranger's network, quantized by a stranger's tool, becomes a bundle that screens an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from typer.testing import CliRunner

import qdr_edge
from qdr_edge.bundle import read_bundle
from qdr_edge.cli import app
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime.saturation import saturates_here
from qdr_edge.samples import read_csv
from qdr_export.importer.pixels import MeanStd
from qdr_train.synth import generate
from tests.strangers import SIZE, stranger

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = LabelSet.named("TOPCON-MM")
CLASSES = len(LABELS)


class Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: list) -> None:
        self.rows = iter([{"image": row} for row in rows])

    def get_next(self):
        return next(self.rows, None)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("eyes"), 10, 3, 96, workers=1)


@pytest.fixture(scope="module")
def model(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2, exported by torch, quantized by ONNX Runtime's tool: U8S8 by channel."""
    folder = tmp_path_factory.mktemp("stranger")
    spec = PreprocessSpec(modality="fundus", size=SIZE)
    samples = read_csv(table).select("fundus", "train").samples[:8]
    normalise = MeanStd(MEAN, STD)
    rows = [normalise.apply(load_image(sample.file, spec)[None]) for sample in samples]
    network = stranger("mobilenetv2")
    # A head of as many labels as the table has; its weights are random like all others.
    network.classifier[-1] = torch.nn.Linear(network.classifier[-1].in_features, CLASSES)
    network.eval()
    floats, prepared, quantized = (folder / f"{n}.onnx" for n in ("float", "prepared", "q"))
    torch.onnx.export(
        network, (torch.from_numpy(rows[0]),), str(floats), input_names=["image"],
        output_names=["scores"], opset_version=17, dynamo=False,
    )  # fmt: skip
    quant_pre_process(str(floats), str(prepared))
    quantize_static(
        str(prepared), str(quantized), Rows(rows), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return quantized


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_from_a_strangers_file_to_a_decision(
    model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "keys"))
    made = tmp_path / "run"
    said = run(
        "import", model, "--data", table, "--labels", "TOPCON-MM", "--modality", "fundus",
        "--out", made, "--mean", *MEAN, "--std", *STD,
        "--synthetic",
    )  # fmt: skip
    assert "output-rounding" in said
    assert "scheme u8" in said
    run("export", made, "--target", "ort-x86", "--target", "openvino", "--name", "other")
    parity = json.loads((made / "export" / "other-fundus.parity.json").read_text())
    rungs = {rung["name"]: rung for rung in parity["rungs"]}
    assert rungs["source"]["status"] == "ran"
    assert {rungs[name]["verdict"] for name in ("ort-x86", "openvino")} == {"held"}
    bundle = read_bundle(made / "export" / "other-fundus.qdr")
    for name in ("ort-x86", "openvino"):
        artefact = bundle.artefact(name)
        # Without VNNI OpenVINO would compute weights beyond 64 wrongly in int8: float stands in.
        in_float = name == "openvino" and saturates_here(bundle.entries[artefact.entry])
        assert parity["read_back"][name]["int8_share"] == (0 if in_float else 1)
    with qdr_edge.load(made / "export" / "other-fundus.qdr") as screener:
        sample = read_csv(table).select("fundus", "test").samples[0]
        decision = screener.screen(sample.file)
    assert tuple(label.code for label in decision.labels) == LABELS.codes
