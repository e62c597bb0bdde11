"""Evaluation: levels, subgroups, and the gate's rejections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdr_edge.checkpoint import load_checkpoint, save_checkpoint
from qdr_edge.errors import DatasetError
from qdr_edge.evaluation.document import evaluate_subject
from qdr_edge.evaluation.levels import SEVERAL, make_level
from qdr_edge.evaluation.subgroups import EMPTY, read_column
from qdr_edge.evaluation.subject import Rejection, open_run
from qdr_edge.metrics import average_precision
from qdr_edge.operating_point import Target, fit
from tests.evaluations import (
    LABELS,
    ROWS,
    VAL,
    logits_of,
    make_run,
    only,
    row,
    write,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


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
