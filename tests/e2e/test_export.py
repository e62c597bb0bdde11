"""Export of a whole run: a checkpoint and images in, a proven bundle out, and all that can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import qdr_edge
from qdr_edge.bundle import read_bundle
from qdr_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qdr_edge.cli import app
from qdr_edge.errors import CheckpointError, ExportError, ParityError
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import load_image
from qdr_edge.runtime import Availability
from qdr_edge.samples import read_csv, write_csv
from qdr_export import emission
from qdr_export.canonical import build_canonical
from qdr_export.pipeline import Exported, export_student
from qdr_export.profiles import DEFAULT_TARGETS, load_profile
from qdr_export.reference import Reference
from qdr_export.run_folder import find_students
from qdr_export.tables import print_parity
from tests.networks import checkpoint, with_float
from tests.runs import small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained fundus student and its true reference logits."""
    return small_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def export(key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exported]:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def run_export(run: Path, out: Path, **options: object) -> Exported:
        _, students = find_students(run)
        profiles = [load_profile(name) for name in DEFAULT_TARGETS]
        return export_student(
            students[0], profiles, name="tiny-fundus", out=out, key=key, threads=1, **options
        )

    return run_export


@pytest.fixture
def changed_run(run: Path, tmp_path: Path) -> Callable[[Callable[[Checkpoint], Checkpoint]], Path]:
    """A copy of the run with another checkpoint."""

    def change(edit: Callable[[Checkpoint], Checkpoint]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(run, folder)
        stage = folder / "student-fundus"
        save_checkpoint(stage, edit(load_checkpoint(stage)))
        return folder

    return change


def test_layers_in_float_allow_steps_and_are_named(
    changed_run: Callable[[Callable[[Checkpoint], Checkpoint]], Path],
    export: Callable[..., Exported],
    key: SigningKey,
    tmp_path: Path,
) -> None:
    def edit(made: Checkpoint) -> Checkpoint:
        made = with_float(made, ("c1", "c3"))
        table = read_csv(tmp_path / "changed" / "data.csv", made.labels)
        rows = [s for split in ("val", "test") for s in table.select("fundus", split)]
        pixels = np.stack([load_image(s.file, made.preprocess) for s in rows])
        logits = Reference(build_canonical(made)).infer(pixels)
        return replace(made, probe={"reference_logits": logits})

    run = changed_run(edit)
    exported = export(run, tmp_path / "out")
    assert exported.proven
    bundle = read_bundle(exported.bundle, trust=TrustStore.of(key.public))
    steps = {name: a.tolerance_steps for name, a in bundle.manifest.artefacts.items()}
    assert steps == {"ort-x86": 3, "openvino": 3, "tensorrt-10": 8, "tensorrt-11": 8}
    read_back = json.loads(exported.parity_file.read_text())["read_back"]["ort-x86"]
    assert {layer["name"] for layer in read_back["float_layers"]} == {"c1", "c3"}
    for target in ("ort-x86", "openvino"):  # load() holds every golden vector to those steps
        qdr_edge.load(
            exported.bundle, target=target, threads=1, trust=TrustStore.of(key.public)
        ).close()
    console = Console(record=True, width=200)
    print_parity(console, "tiny", find_students(run)[1][0], exported)
    text = console.export_text()
    assert "in float by the recipe: c1, c3" in text
    assert "3 steps" in text


def _unlike_the_trainer(made: Checkpoint) -> Checkpoint:
    return replace(made, probe={"reference_logits": -made.probe["reference_logits"]})


def test_bundle_is_proven_and_screens(
    run: Path, export: Callable[..., Exported], key: SigningKey, tmp_path: Path
) -> None:
    exported = export(run, tmp_path)
    assert exported.proven
    for name in ("trainer", "ort-x86", "openvino"):
        rung = exported.parity.rung(name)
        assert rung.exact == rung.images > 0
    trust = TrustStore.of(key.public)
    bundle = read_bundle(exported.bundle, trust=trust)
    assert bundle.manifest.proven
    assert bundle.manifest.synthetic
    outcomes = {vector.outcome for vector in bundle.manifest.golden}
    assert {"UNGRADABLE", "INVALID_INPUT"} < outcomes
    assert {"model_card.md", "sbom.cdx.json", "NOTICE", "network/canonical.onnx"} < set(
        bundle.entries
    )
    assert b"synthetic images" in bundle.entries["model_card.md"]
    for target in ("ort-x86", "openvino"):
        # load() runs the power-on self-test over all golden vectors.
        with qdr_edge.load(exported.bundle, target=target, threads=1, trust=trust) as screener:
            image = read_csv(run / "data.csv").select("fundus", "test")[0].file
            assert screener.screen(image).outcome in ("POSITIVE", "NEGATIVE", "UNGRADABLE")


def test_golden_images_carry_no_metadata(
    run: Path, export: Callable[..., Exported], key: SigningKey, tmp_path: Path
) -> None:
    bundle = read_bundle(export(run, tmp_path).bundle, trust=TrustStore.of(key.public))
    for name, content in bundle.entries.items():
        if name.endswith(".png"):
            chunks, at = set(), 8
            while at < len(content):
                chunks.add(content[at + 4 : at + 8])
                at += 12 + int.from_bytes(content[at : at + 4], "big")
            assert chunks <= {b"IHDR", b"IDAT", b"IEND"}, name


def test_same_input_gives_the_same_bytes(
    run: Path, export: Callable[..., Exported], tmp_path: Path
) -> None:
    first, second = export(run, tmp_path / "a"), export(run, tmp_path / "b")
    assert first.bundle.read_bytes() == second.bundle.read_bytes()
    assert first.float_twin.read_bytes() == second.float_twin.read_bytes()


def test_a_flip_refuses_to_seal_and_leaves_the_old_bundle(
    changed_run: Callable[..., Path], export: Callable[..., Exported], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "tiny-fundus.qdr").write_bytes(b"the old one")
    with pytest.raises(ParityError, match="trainer flips") as caught:
        export(changed_run(_unlike_the_trainer), out)
    assert "--force" in caught.value.fix
    assert (out / "tiny-fundus.qdr").read_bytes() == b"the old one"
    report = json.loads((out / "tiny-fundus.parity.json").read_bytes())
    trainer = next(rung for rung in report["rungs"] if rung["name"] == "trainer")
    assert trainer["flips"][0].keys() == {
        "image", "label", "logit", "reference_logit", "threshold",
    }  # fmt: skip


def test_force_seals_but_marks_unproven(
    changed_run: Callable[..., Path],
    export: Callable[..., Exported],
    key: SigningKey,
    tmp_path: Path,
) -> None:
    exported = export(changed_run(_unlike_the_trainer), tmp_path / "out", force=True)
    assert not exported.proven
    bundle = read_bundle(exported.bundle, trust=TrustStore.of(key.public))
    assert not bundle.manifest.proven


def test_a_missing_backend_is_shown_as_unavailable(
    run: Path,
    export: Callable[..., Exported],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    found = emission.availability()
    gone = Availability(False, reason="No module named 'openvino'", install="pip install openvino")
    monkeypatch.setattr(emission, "availability", lambda: {**found, "openvino": gone})
    exported = export(run, tmp_path)
    rung = exported.parity.rung("openvino")
    assert rung.status == "unavailable"
    assert "pip install openvino" in rung.reason
    assert exported.emission.artefacts["openvino"].readback is None


def test_other_images_leave_the_trainer_uncompared(
    run: Path, export: Callable[..., Exported], changed_run: Callable[..., Path], tmp_path: Path
) -> None:
    other = changed_run(lambda made: replace(made, provenance={"data_sha256": "0" * 64}))
    exported = export(other, tmp_path / "out")
    assert exported.parity.rung("trainer").status == "unavailable"
    assert not exported.proven


def test_thresholds_are_fitted_for_what_the_recipe_asked_and_say_what_they_came_to(
    changed_run: Callable[..., Path],
    export: Callable[..., Exported],
    key: SigningKey,
    tmp_path: Path,
) -> None:
    asked = {"target": "sensitivity", "sensitivity": 0.2, "rejection_rate": 0.1}
    folder = changed_run(lambda made: replace(made, operating_point=asked))
    exported = export(folder, tmp_path / "out")
    bundle = read_bundle(exported.bundle, trust=TrustStore.of(key.public))
    decision = bundle.manifest.decision
    _, (student,) = find_students(folder)
    positives = student.samples.select(split="val").targets().sum(axis=0)
    assert decision.rejection_rate == "0.1"
    assert {t.reached for t in decision.thresholds} == {True, False}
    for threshold, count in zip(decision.thresholds, positives, strict=True):
        assert threshold.fitted_for == "sensitivity >= 0.2 by its lower 95 % bound"
        assert (threshold.positives, threshold.split) == (count, "val")
        if threshold.reached:
            assert float(threshold.lower_bound or 0) >= 0.2
        elif count:
            assert threshold.sensitivity == "1.0"
    assert b"Target not shown, for want of positives" in bundle.entries["model_card.md"]
    parity = json.loads(exported.parity_file.read_bytes())
    assert parity["operating_point"]["target"] == "sensitivity"


def test_exclusive_labels_keep_their_softmax_all_the_way_to_the_device(
    changed_run: Callable[..., Path],
    export: Callable[..., Exported],
    key: SigningKey,
    tmp_path: Path,
) -> None:
    def exclusive(made: Checkpoint) -> Checkpoint:
        labels = LabelSet.custom(made.labels.codes, exclusive=True)
        return replace(made, labels=labels, provenance={"data_sha256": samples.sha256})

    folder = changed_run(lambda made: made)
    every = read_csv(folder / "data.csv")
    # Each image keeps its first label only.
    single = [replace(s, labels=np.eye(11, dtype=np.uint8)[s.labels.argmax()]) for s in every]
    samples = replace(every, samples=tuple(single))
    write_csv(folder / "data.csv", samples)
    stage = folder / "student-fundus"
    save_checkpoint(stage, exclusive(load_checkpoint(stage)))
    exported = export(folder, tmp_path / "out")
    assert exported.proven
    trust = TrustStore.of(key.public)
    with qdr_edge.load(exported.bundle, target="ort-x86", threads=1, trust=trust) as screener:
        assert screener.bundle.manifest.labels.exclusive
        looks = [screener.look(sample.file) for sample in samples.select("fundus", "test")]
        graded = [look for look in looks if look.logits is not None]
        assert graded
        for look in graded:
            assert sum(label.probability for label in look.decision.labels) == pytest.approx(1)
            z = np.asarray(look.logits, np.float64)
            for k, label in enumerate(look.decision.labels):
                odds = z[k] - np.logaddexp.reduce(np.delete(z, k))
                assert label.score == pytest.approx(odds)
                assert label.positive == (label.score >= screener.rule.logit_thresholds[k])


def test_a_teacher_is_refused(run: Path) -> None:
    stage = run.parent / "teacher-run"
    save_checkpoint(stage, checkpoint("student", scheme=None))
    shutil.copy(run / "data.csv", run.parent / "data.csv")
    with pytest.raises(ExportError, match="float teacher"):
        find_students(stage)


def test_a_damaged_checkpoint_is_refused(changed_run: Callable[..., Path]) -> None:
    folder = changed_run(lambda made: made)
    weights = next((folder / "student-fundus").glob("weights-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256"):
        find_students(folder)


def test_command_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out"
    arguments = ["export", str(run / "student-fundus"), "--out", str(out), "--target", "ort-x86"]
    arguments += ["--security-version", "5"]
    result = CliRunner().invoke(
        app, [*arguments, "--threads", "1", "--name", "mine", "--target-sensitivity", "0.93"]
    )
    assert result.exit_code == 0, result.output
    assert "development key was made" in result.output
    assert "bit-equal" in result.output
    assert sorted(p.name for p in out.iterdir()) == [
        "mine-fundus.float.onnx",
        "mine-fundus.parity.html",
        "mine-fundus.parity.json",
        "mine-fundus.qdr",
    ]
    assert "thresholds fitted for sensitivity >= 0.93 by its lower 95 % bound" in result.output
    assert "its threshold catches them all" in result.output
    bundle = read_bundle(
        out / "mine-fundus.qdr", trust=TrustStore.from_folder(tmp_path / "home" / "trust")
    )
    assert bundle.manifest.security_version == 5
    assert not any(threshold.reached for threshold in bundle.manifest.decision.thresholds)
    (tmp_path / "canonical.onnx").write_bytes(bundle.entries["network/canonical.onnx"])
    lint = CliRunner().invoke(
        app, ["lint", str(tmp_path / "canonical.onnx"), "--target", "tensorrt-10"]
    )
    assert "float-bias" in lint.output
    assert isinstance(lint.exception, ExportError)
