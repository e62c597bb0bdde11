"""`qdr-edge evaluate`: what it prints, refuses and screens, and the count of looks at a split."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdr_edge.bundle import write_bundle
from qdr_edge.checkpoint import load_checkpoint, save_checkpoint
from qdr_edge.cli import main
from qdr_edge.errors import DatasetError, OutputError
from qdr_edge.evaluation import ledger
from qdr_edge.evaluation.document import evaluate_subject
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import SigningKey, trust
from qdr_edge.labels import LabelSet
from qdr_edge.samples import SampleSet
from tests.bundles import fundus, onnx_model, png, working_entries
from tests.evaluations import (
    CODES,
    logits_of,
    make_run,
    name,
    only,
    row,
    write,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def test_missing_eye_ids_are_an_error_only_where_eyes_are_asked_for(
    tmp_path: Path, run: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    samples = write(tmp_path, [row(0, "L", 0), row(1, "", 0), row(2, "", 1)])
    subject = replace(
        only(run), samples=samples, logits={"int8": logits_of(samples)}, graded=np.ones(3, bool)
    )
    with pytest.raises(DatasetError, match=f"2 of 3 images have no eye id, first {name(1, '', 0)}"):
        evaluate_subject(subject, ["image", "eye"])
    assert evaluate_subject(subject, ["image", "patient"], resamples=0)


def test_exclusive_labels_get_a_confusion_table(
    tmp_path: Path, run: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    stage = run / "student-fundus"
    labels = LabelSet.custom(CODES, "one", exclusive=True)
    save_checkpoint(stage, replace(load_checkpoint(stage), labels=labels))
    code, out, err = cli(run, "--resamples", 20, "--json", tmp_path / "out.json")
    assert (code, err) == (0, "")
    assert "with exactly one label" in out
    (document,) = json.loads((tmp_path / "out.json").read_text())["evaluations"]
    level = document["levels"]["image"]
    confusion = np.array(level["int8"]["confusion"])
    y = only(run).samples.targets()
    assert confusion.sum(axis=1).tolist() == y.sum(axis=0).tolist()
    assert np.trace(confusion) / 48 == level["int8"]["accuracy"]["value"]
    assert "top1_kappa" in level["int8_minus_float"]


def test_every_look_at_a_split_is_counted(
    run: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    path = run / "evaluations.jsonl"
    expected = ("0 times before", "1 time before this, 1 of them this very artefact", "2 times")
    for text in expected:
        code, out, _ = cli(run, "--resamples", 0)
        assert code == 0
        assert text in out
    cli(run, "--resamples", 0, "--split", "val")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["split"] for line in lines] == ["test", "test", "test", "val"]
    assert {line["artefact_sha256"] for line in lines} == {only(run).artefact_sha256}
    stage = run / "student-fundus"
    save_checkpoint(stage, replace(load_checkpoint(stage), name="trained again"))
    with path.open("a") as handle:
        handle.write('{"cut short\n')
    _, out, _ = cli(run, "--resamples", 0)
    assert "3 times before this, 0 of them this very artefact" in out


def test_an_evaluation_that_cannot_be_recorded_is_not_shown(
    run: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    (run / "evaluations.jsonl").mkdir()
    code, out, err = cli(run, "--resamples", 0)
    assert code == OutputError.exit_code
    assert "mAP" not in out
    assert "cannot be recorded" in err
    with pytest.raises(OutputError):
        ledger.record(only(run), ["image"], [])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--split", "train"), "export the run and evaluate the bundle"),
        (("--split", "nope"), "expected one of test, val, train, all"),
        (("--level", "house"), "expected one of image, eye, patient, all"),
        (("--student", "student-oct"), "expected one of student-fundus"),
        (("--data", "x.csv"), "--data is for bundles"),
        (("--by", "scanner"), "one of eye, age, camera, sex"),
    ],
)
def test_wrong_arguments_are_one_clear_message(
    arguments: tuple[str, str], text: str, run: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = cli(run, *arguments)
    assert code != 0
    assert text in " ".join(err.replace("│", " ").split())
    assert not (run / "evaluations.jsonl").exists()


def test_the_tables_show_what_the_file_holds(
    run: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = cli(
        run, "--level", "all", "--by", "sex", "--by", "age:50", "--json", tmp_path / "e.json"
    )
    assert (code, err) == (0, "")
    document = json.loads((tmp_path / "e.json").read_text())
    assert (document["format"], document["version"]) == ("qdr-evaluation", 1)
    (evaluation,) = document["evaluations"]
    assert list(evaluation["levels"]) == ["image", "eye", "patient"]
    for level in evaluation["levels"].values():
        value = level["int8"]["map"]
        assert f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, " in out
        assert {g["value"] for g in level["subgroups"][1]["groups"]} == {"< 50", ">= 50"}
    assert "By age, bins at 50" in out
    assert "24 eyes of 12 patients" in out
    assert evaluation["operating_point"]["labels"][0]["reached"] is False
    assert "too few positives" in out


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """A bundle of a model that really runs, its float twin, and images with two that are none."""
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    key = SigningKey.generate()
    trust(key.public)
    manifest, entries = working_entries()
    twin = onnx_model(seed=1)
    sealed = manifest.model_copy(update={"provenance": {"float_twin_sha256": sha256_bytes(twin)}})
    write_bundle(tmp_path / "tiny.qdr", sealed, entries, key)
    (tmp_path / "tiny.float.onnx").write_bytes(twin)
    rows = [row(p, "L", n) for p in range(4) for n in range(2)]
    samples = write(tmp_path, rows)
    for index, entry in enumerate(rows):
        (tmp_path / entry["file"]).write_bytes(png(fundus(index)))
    (tmp_path / rows[0]["file"]).write_bytes(b"no image")
    (tmp_path / rows[1]["file"]).write_bytes(png(np.zeros((200, 200, 3), np.uint8)))
    return tmp_path / "tiny.qdr", samples


def test_a_bundle_screens_every_image_and_counts_what_its_gate_rejects(
    bundle: tuple[Path, SampleSet], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    import qdr_edge

    path, samples = bundle
    code, out, err = cli(
        path, "--data", tmp_path / "data.csv", "--level", "patient", "--level", "image",
        "--target", "ort-x86", "--threads", 1, "--resamples", 10, "--json", tmp_path / "e.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    (document,) = json.loads((tmp_path / "e.json").read_text())["evaluations"]
    with qdr_edge.load(path, target="ort-x86", threads=1) as screener:
        decisions = [screener.screen(sample.file) for sample in samples]
    outcomes = [decision.outcome.value for decision in decisions]
    rejected = {o: outcomes.count(o) for o in set(outcomes) - {"POSITIVE", "NEGATIVE"}}
    assert document["gate"]["rejected"] == rejected
    assert rejected
    assert document["gate"]["graded"] == 8 - sum(rejected.values()) >= 4
    level = document["levels"]["image"]
    called = [d.labels[1].positive for d in decisions if d.labels]
    truth = [s.labels[1] for s, d in zip(samples, decisions, strict=True) if d.labels]
    amd = next(x for x in level["int8"]["labels"] if x["code"] == "AMD")
    assert amd["accuracy"]["value"] == np.mean(np.array(called) == np.array(truth))
    assert level["int8_minus_float"]["map"]["value"] is not None
    assert level["float"]["map"] != level["int8"]["map"]
    assert document["operating_point"]["fitted_for"] == "test"
    assert document["subject"]["bundle_id"] == "test-fundus"
    # Both images of patient 0 were turned away: at patient level nothing of it is graded.
    assert (document["levels"]["patient"]["n"], document["levels"]["patient"]["graded"]) == (4, 3)
    assert "referred" in out
    assert json.loads((tmp_path / "evaluations.jsonl").read_text())["bundle_id"] == "test-fundus"


def test_a_foreign_float_model_is_not_taken_for_the_twin(
    bundle: tuple[Path, SampleSet], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "tiny.float.onnx").write_bytes(onnx_model(seed=2))
    code, out, _ = cli(
        bundle[0], "--data", tmp_path / "data.csv", "--resamples", 0, "--target", "ort-x86"
    )
    assert code == 0
    assert "is not the float model it was made from" in out


def test_a_bundle_without_a_table_or_a_signature_is_refused(
    bundle: tuple[Path, SampleSet], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = cli(bundle[0])
    assert (code, "name a CSV of labelled images with --data" in err) == (4, True)
    content = bytearray(bundle[0].read_bytes())
    content[len(content) // 2] ^= 1
    bundle[0].write_bytes(content)
    assert cli(bundle[0], "--data", tmp_path / "data.csv")[0] == 8
    assert not (tmp_path / "evaluations.jsonl").exists()
