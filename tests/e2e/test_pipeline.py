"""The main job through the command line: images in, a proven, measured int8 bundle out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODALITIES = ("fundus", "oct")


def first_image(pipeline, modality):
    return sorted(path for path in (pipeline.data / modality).iterdir())[0]


@pytest.mark.parametrize("modality", MODALITIES)
def test_bundle_is_signed_proven_and_says_it_is_synthetic(pipeline, modality):
    result = pipeline.cli("inspect", pipeline.bundle(modality), "--json")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["synthetic"] is True
    assert manifest["proven"] is True
    assert manifest["modality"] == modality
    assert {artefact["backend"] for artefact in manifest["artefacts"].values()} >= {
        "onnxruntime",
        "openvino",
        "tensorrt",
    }


@pytest.mark.parametrize("modality", MODALITIES)
def test_verify_holds(pipeline, modality):
    result = pipeline.cli("verify", pipeline.bundle(modality))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("form", ["trainer", "ort-x86", "openvino"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_form_is_bit_equal_to_the_reference(pipeline, modality, form):
    parity = json.loads(pipeline.bundle(modality).with_suffix(".parity.json").read_text())
    rung = next(row for row in parity["rungs"] if row["name"] == form)
    assert rung["images"] > 0
    assert rung["flips"] == []
    assert rung["exact"] == rung["images"]


def test_run_decides_the_same_on_both_runtimes(pipeline):
    images = sorted((pipeline.data / "fundus").iterdir())[:4]
    answers = []
    for target in ("ort-x86", "openvino"):
        result = pipeline.cli(
            "run", pipeline.bundle("fundus"), *images, "--json", "--target", target
        )
        assert result.returncode == 0, result.stderr
        answers.append(
            [(row["outcome"], row["labels"]) for row in json.loads(result.stdout)["results"]]
        )
    assert len(answers[0]) == 4
    assert answers[0] == answers[1]


def test_five_lines_of_python_need_no_torch(pipeline):
    code = f"""
import sys
import qdr_edge
screener = qdr_edge.load({str(pipeline.bundle("oct"))!r})
decision = screener.screen({str(first_image(pipeline, "oct"))!r})
print(decision.outcome)
assert "torch" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=pipeline.environment,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in {"POSITIVE", "NEGATIVE", "UNGRADABLE", "INVALID_INPUT"}


@pytest.mark.parametrize("page", ["README.md", "docs/device.md"])
def test_python_in_the_documents_runs_as_printed(pipeline, page):
    text = (ROOT / page).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    real = {"load": pipeline.bundle("fundus"), "screen": first_image(pipeline, "fundus")}
    for name, path in re.findall(r'(load|screen)\("([^"]+)"\)', code):
        code = code.replace(path, str(real[name]))
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=pipeline.environment,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] in {"POSITIVE", "NEGATIVE", "UNGRADABLE", "INVALID_INPUT"}


def test_bench_measures_the_artefact_and_writes_both_reports(pipeline):
    result = pipeline.cli(
        "bench", pipeline.bundle("fundus"), "--seconds", 1, "--out", pipeline.report
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads((pipeline.report / "report.json").read_text())["schema_version"] >= 1
    page = (pipeline.report / "report.html").read_text()
    assert "synthetic" in page.lower()
    assert "not a medical device" in page.lower()


def test_an_exported_run_is_not_overwritten_by_training(pipeline):
    before = {path: path.stat().st_mtime_ns for path in pipeline.run.rglob("checkpoint.json")}
    result = pipeline.cli(
        "train", pipeline.root / "tiny.yaml", "--data", pipeline.data / "synthetic.csv",
        "--out", pipeline.run,
    )  # fmt: skip
    assert result.returncode == 15
    assert "--resume" in result.stderr
    assert before == {p: p.stat().st_mtime_ns for p in pipeline.run.rglob("checkpoint.json")}


def _one_line(result, code):
    assert result.returncode == code, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda content: content[: len(content) // 2], 7),
        (lambda content: b"", 7),
        (lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], 8),
    ],
    ids=["truncated", "empty", "tampered"],
)
def test_a_damaged_bundle_is_refused(pipeline, tmp_path, damage, code):
    path = tmp_path / "damaged.qdr"
    path.write_bytes(damage(pipeline.bundle("fundus").read_bytes()))
    _one_line(pipeline.cli("run", path, first_image(pipeline, "fundus")), code)


def test_a_missing_bundle_is_one_line(pipeline, tmp_path):
    _one_line(pipeline.cli("run", tmp_path / "none.qdr", tmp_path / "none.jpg"), 7)


def test_a_strangers_bundle_is_refused(pipeline, tmp_path):
    pipeline.environment["QDR_EDGE_HOME"], home = (
        str(tmp_path),
        pipeline.environment["QDR_EDGE_HOME"],
    )
    try:
        result = pipeline.cli("verify", pipeline.bundle("fundus"))
    finally:
        pipeline.environment["QDR_EDGE_HOME"] = home
    assert result.returncode == 8, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.png", b"this is no picture", "not an image"),
        ("folder.jpg", None, "a folder"),
        ("missing.jpg", ..., "no such file"),
    ],
    ids=["empty", "text", "folder", "missing"],
)
def test_a_bad_image_is_an_invalid_input_with_a_reason(pipeline, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content is not ...:
        path.write_bytes(content)
    result = pipeline.cli("run", pipeline.bundle("fundus"), path, "--json")
    assert result.returncode == 3
    row = json.loads(result.stdout)["results"][0]
    assert row["outcome"] == "INVALID_INPUT"
    assert reason in row["reason"]


def test_an_oct_scan_offered_to_the_fundus_model_gets_no_finding(pipeline):
    image = first_image(pipeline, "oct")
    result = pipeline.cli("run", pipeline.bundle("fundus"), image, "--json")
    assert json.loads(result.stdout)["results"][0]["outcome"] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{image},fundus,XYZ,p1,L,train", "XYZ"),
        ("{image},fundus,DR,p1,L,train\n{image},fundus,DR,p1,L,train", "twice"),
        ("missing.jpg,fundus,DR,p1,L,train", "missing.jpg"),
    ],
    ids=["unknown label", "duplicate", "missing file"],
)
def test_a_wrong_table_is_one_line_and_makes_no_run(pipeline, tmp_path, row, message):
    table = tmp_path / "data.csv"
    rows = row.format(image=first_image(pipeline, "fundus"))
    table.write_text(f"file,modality,labels,patient,eye,split\n{rows}\n")
    arguments = ["train", pipeline.root / "tiny.yaml", "--data", table, "--out", tmp_path / "run"]
    arguments += ["--set", "data.labels=TOPCON-MM"]
    result = pipeline.cli(*arguments)
    _one_line(result, 4)
    assert message in result.stderr
    assert "data.csv:" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_an_unknown_key_names_the_nearest(pipeline, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text((pipeline.root / "tiny.yaml").read_text().replace("seed:", "sede:"))
    data = pipeline.data / "synthetic.csv"
    result = pipeline.cli("train", path, "--data", data, "--out", tmp_path / "run")
    _one_line(result, 5)
    assert "seed" in result.stderr
