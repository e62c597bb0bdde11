"""Evaluation: levels, subgroups, the gate's rejections, and the count of looks at a test split."""

from __future__ import annotations

import csv
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
from qdr_edge.evaluation.levels import SEVERAL, make_level
from qdr_edge.evaluation.subgroups import EMPTY, read_column
from qdr_edge.evaluation.subject import Rejection, Subject, open_run
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import SigningKey, trust
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import average_precision
from qdr_edge.operating_point import Target, fit
from qdr_edge.samples import SampleSet, read_csv
from tests.bundles import fundus, onnx_model, png, working_entries
from tests.networks import checkpoint

LABELS = LabelSet.custom(("NOR", "AMD", "DR"), "test")
CODES = ("NOR", "AMD", "DR")
Row = dict[str, str]


def name(patient: int, eye: str, number: int) -> str:
    """A file name that tells nothing, as those of many archives do."""
    return sha256_bytes(f"{patient} {eye} {number}".encode())[:12] + ".png"


def row(patient: int, eye: str, number: int, split: str = "test", **changes: str) -> Row:
    return {
        "file": name(patient, eye, number),
        "modality": "fundus",
        "labels": CODES[patient % 3],
        "patient": f"p{patient}",
        "eye": eye,
        "split": split,
        "camera": "new" if number else "old",
        "age": str(30 + 4 * patient),
        "sex": "fm"[patient % 2],
        **changes,
    }


def write(folder: Path, rows: list[Row], labels: LabelSet | None = LABELS) -> SampleSet:
    for entry in rows:
        (folder / entry["file"]).touch()
    with (folder / "data.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return read_csv(folder / "data.csv", labels)


def logits_of(samples: SampleSet, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.normal(size=(len(samples), len(samples.labels)))
    return (noise + 1.5 * samples.targets()).astype(np.float32)


ROWS = [row(p, eye, n) for p in range(12) for eye in "LR" for n in range(2)]
VAL = [row(p, "L", n, "val") for p in range(20, 26) for n in range(2)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one student whose recorded answers are drawn at random."""
    folder = tmp_path / "run"
    folder.mkdir()
    # Training rows stand between: the probe holds val rows, then test rows, whatever the order.
    samples = write(folder, [*ROWS, row(90, "L", 0, "train"), *VAL])
    (folder / "run.json").write_text(json.dumps({"format": "qdr-run", "name": "tiny"}))
    parts = [samples.select("fundus", split) for split in ("val", "test")]
    int8 = np.concatenate([logits_of(part) for part in parts])
    made = replace(
        checkpoint("student", size=64, labels=LABELS),
        probe={"reference_logits": int8, "float_logits": int8 + np.float32(0.25) * int8[::-1]},
        provenance={"data_sha256": samples.sha256},
        operating_point=Target("sensitivity", 0.8).to_dict(),
    )
    save_checkpoint(folder / "student-fundus", made)
    return folder


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


def only(run: Path, split: str = "test") -> Subject:
    (subject,) = open_run(run, split)
    return subject


def test_a_run_is_evaluated_on_its_recorded_rows_at_thresholds_of_validation(run: Path) -> None:
    subject = only(run)
    probe = load_checkpoint(run / "student-fundus").probe["reference_logits"]
    assert np.array_equal(subject.logits["int8"], probe[len(VAL) :])
    assert [s.file.name for s in subject.samples] == [entry["file"] for entry in ROWS]
    val = only(run, "val").samples
    expected = fit(
        probe[: len(VAL)], val.targets(), LABELS, val.patients(), Target("sensitivity", 0.8)
    )
    assert subject.rule == expected.rule
    assert any("optimistic" in note for note in only(run, "val").notes)
    document = evaluate_subject(subject, ["image"], resamples=20)
    level = document["levels"]["image"]
    y = subject.samples.targets()
    values = [average_precision(subject.logits["int8"][:, k], y[:, k]) for k in range(3)]
    assert level["int8"]["map"]["value"] == pytest.approx(np.mean(values))
    difference = level["int8_minus_float"]
    for key in ("map", "auc", "kappa", "ece", "accuracy"):
        assert difference[key]["value"] == pytest.approx(
            level["int8"][key]["value"] - level["float"][key]["value"]
        )
        assert difference[key]["low"] <= difference[key]["high"]
    label = difference["labels"][1]
    assert label["brier"]["value"] == pytest.approx(
        level["int8"]["labels"][1]["brier"]["value"] - level["float"]["labels"][1]["brier"]["value"]
    )
    json.dumps(document, allow_nan=False)


def test_changed_rows_are_not_mistaken_for_those_that_were_recorded(run: Path) -> None:
    table = run / "data.csv"
    table.write_text(table.read_text().replace(",fundus,NOR", ",fundus,DR", 1))
    with pytest.raises(DatasetError, match="changed since training"):
        open_run(run, "test")


def test_levels_join_by_ids_and_never_by_file_name(run: Path) -> None:
    subject = only(run)
    eyes = make_level(subject, "eye", resamples=10, seed=0)
    patients = make_level(subject, "patient", resamples=10, seed=0)
    assert (len(eyes.targets), len(patients.targets)) == (24, 12)
    assert eyes.weights.clusters == patients.weights.clusters == 12
    scores = eyes.answers["int8"].scores
    for number, (patient, eye) in enumerate((p, e) for p in range(12) for e in "LR"):
        mine = [(s.patient, s.eye) == (f"p{patient}", eye) for s in subject.samples]
        assert scores[number].tolist() == subject.logits["int8"][mine].max(axis=0).tolist()
    assert eyes.spread([s.extra["camera"] for s in subject.samples]) == (SEVERAL,) * 24
    assert set(eyes.spread([s.extra["sex"] for s in subject.samples])) == {"f", "m"}


def test_a_unit_has_the_labels_of_any_of_its_images(tmp_path: Path, run: Path) -> None:
    rows = [row(0, "L", 0, labels="DR"), row(0, "L", 1, labels="AMD"), row(1, "L", 0)]
    samples = write(tmp_path, rows)
    subject = replace(
        only(run),
        samples=samples,
        logits={"int8": logits_of(samples)[:1]},
        graded=np.array([False, True, False]),
        rejections=(Rejection("a", "UNGRADABLE", ""), Rejection("b", "UNGRADABLE", "")),
        gated=True,
    )
    level = make_level(subject, "eye", resamples=0, seed=0)
    # The image that was turned away still says what the eye has.
    assert level.targets.tolist() == [[0, 1, 1], [0, 1, 0]]
    assert level.graded.tolist() == [True, False]


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


def test_absent_labels_are_named_and_enter_no_mean(tmp_path: Path, run: Path) -> None:
    rows = [row(p, "L", 0, labels="AMD" if p % 2 else "NOR") for p in range(8)]
    samples = write(tmp_path, [{**r, "labels": r["labels"] + ";NOR"} for r in rows])
    subject = replace(
        only(run), samples=samples, logits={"int8": logits_of(samples)}, graded=np.ones(8, bool)
    )
    level = evaluate_subject(subject, ["image"], resamples=10)["levels"]["image"]["int8"]
    assert list(level["without_positives"]) == ["DR"]
    assert list(level["without_negatives"]) == ["NOR"]
    assert [label["code"] for label in level["labels"]] == ["AMD"]
    same = {"map": "ap", "f1": "f1", "ece": "ece", "label_accuracy": "accuracy"}
    for mean, own in same.items():
        assert level[mean] == level["labels"][0][own]


def test_rejected_images_count_as_referred_in_a_table_of_their_own(run: Path) -> None:
    whole = only(run)
    graded = np.arange(len(ROWS)) % 6 != 0  # 8 of 48 are turned away
    subject = replace(
        whole, logits={"int8": whole.logits["int8"][graded]}, graded=graded, gated=True
    )
    level = evaluate_subject(subject, ["image"], resamples=10)["levels"]["image"]
    assert (level["n"], level["graded"], level["rejected_as_referred"]["rejected"]) == (48, 40, 8)
    assert level["int8"]["images"] == 40
    y = whole.samples.targets()[:, 1].astype(bool)
    called = whole.logits["int8"][:, 1] >= whole.rule.logit_thresholds[1]
    referred = next(x for x in level["rejected_as_referred"]["labels"] if x["code"] == "AMD")
    own = next(x for x in level["int8"]["labels"] if x["code"] == "AMD")
    assert own["sensitivity"]["value"] == called[graded & y].mean()
    assert referred["sensitivity"]["value"] == (called | ~graded)[y].mean()
    assert referred["specificity"]["value"] == (~(called | ~graded))[~y].mean()


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("sex", ("f", "m", EMPTY)),
        ("age:40,60", ("< 40", "40 to < 60", ">= 60", EMPTY)),
        ("age", ("< 42", "42 to < 54", "54 to < 62", ">= 62", EMPTY)),
    ],
)
def test_columns_become_groups_and_numbers_stated_bins(
    tmp_path: Path, wanted: str, order: tuple[str, ...]
) -> None:
    samples = write(tmp_path, [*ROWS, row(30, "L", 0, age="", sex="")])
    column = read_column(samples, wanted)
    assert column.order == order
    assert column.values[-1] == EMPTY
    if wanted != "sex":
        for value, sample in zip(column.values[:-1], samples, strict=False):
            age = float(sample.extra["age"])
            low = max((e for e in column.edges if e <= age), default=None)
            assert value.startswith("< " if low is None else (f"{low:g} to", f">= {low:g}"))


def test_wrong_columns_and_bins_are_named(tmp_path: Path) -> None:
    samples = write(tmp_path, ROWS)
    with pytest.raises(DatasetError, match=r"no column 'scanner'.*one of eye, age, camera, sex"):
        read_column(samples, "scanner")
    with pytest.raises(DatasetError, match=r"'old' in column 'camera' is no number"):
        read_column(samples, "camera:1,2")
    for bad in ("age:60,40", "age:x", "age:40,,50"):
        with pytest.raises(DatasetError, match="bin edges"):
            read_column(samples, bad)


def test_a_group_is_compared_with_the_rest_over_labels_that_both_have(run: Path) -> None:
    subject = only(run)
    worse = np.array([s.extra["camera"] == "old" for s in subject.samples])
    logits = logits_of(subject.samples, 1)
    logits[worse] = -logits[worse]
    # Camera "old" has no AMD: its labels are removed from the group's rows.
    bare = [
        replace(s, labels=np.where([0, 1, 0], 0, s.labels).astype(np.uint8)) if w else s
        for s, w in zip(subject.samples, worse, strict=True)
    ]
    subject = replace(
        subject,
        samples=replace(subject.samples, samples=tuple(bare)),
        logits={"int8": logits.astype(np.float32)},
    )
    level = evaluate_subject(subject, ["image"], ["camera"], resamples=200)["levels"]["image"]
    (column,) = level["subgroups"]
    groups = {group["value"]: group for group in column["groups"]}
    assert {value: group["n"] for value, group in groups.items()} == {"new": 24, "old": 24}
    assert groups["old"]["labels_compared"] == ["NOR", "DR"]
    assert list(groups["old"]["skipped"]) == ["AMD"]
    difference = groups["old"]["map_minus_rest"]
    assert difference["value"] < difference["high"] < 0
    assert groups["new"]["map_minus_rest"]["value"] == pytest.approx(-difference["value"])
    y = subject.samples.targets()
    # AMD, which the rest alone has, would move the mean.
    everything = [average_precision(logits[~worse, k], y[~worse, k]) for k in range(3)]
    assert np.mean(everything) != pytest.approx(np.mean([everything[0], everything[2]]), abs=0.01)
    own = np.mean([average_precision(logits[worse, k], y[worse, k]) for k in (0, 2)])
    rest = np.mean([average_precision(logits[~worse, k], y[~worse, k]) for k in (0, 2)])
    assert difference["value"] == pytest.approx(own - rest)


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


def test_a_float_network_says_that_nothing_of_it_ships(run: Path) -> None:
    made = load_checkpoint(run / "student-fundus")
    folder = run / "teacher-fundus"
    floats = {"float_logits": made.probe["float_logits"]}
    save_checkpoint(folder, replace(made, role="teacher", probe=floats))
    (subject,) = open_run(run, "test", "teacher-fundus")
    document = evaluate_subject(subject, ["image"], resamples=0)
    assert any("no int8 form" in note for note in document["notes"])
    level = document["levels"]["image"]
    assert (level["shown"], level["int8_minus_float"]) == ("float", None)
    assert "int8" not in level
    assert [s.facts["stage"] for s in open_run(run, "test")] == ["student-fundus"]


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
