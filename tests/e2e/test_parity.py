"""From an export with maps to `qdr-edge parity` and `run --maps` on a machine without the run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from qdr_edge.bundle import Bundle, read_bundle
from qdr_edge.checkpoint import load_checkpoint, save_checkpoint
from qdr_edge.commands.run import run as run_command
from qdr_edge.errors import BackendError, BundleError, DatasetError, ParityError
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.samples import read_csv, write_csv
from qdr_export.bundle_parity import DRAWN_IMAGES, compare_bundle, draw
from qdr_export.parity import FAILED, HELD, UNSURE, Limits
from qdr_export.parity_cli import parity
from qdr_export.pipeline import Exported, export_student
from qdr_export.profiles import load_profile, profile_names, target_names
from qdr_export.run_folder import find_students, student_stem
from qdr_export.seal import CANONICAL_ENTRY
from tests.runs import small_run

HERE = ("ort-x86", "openvino", "openvino-ir")


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def exported(run: Path, key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every target there is, with maps."""
    _, (student,) = find_students(run)
    profiles = [load_profile(name) for name in target_names(["all"])]
    out = tmp_path_factory.mktemp("out")
    # Random weights lose mAP to rounding at random: this run says nothing about that.
    limits = Limits(drop=100)
    return export_student(
        student, profiles, name="tiny-fundus", out=out, key=key, limits=limits, maps=True, threads=1
    )


@pytest.fixture(scope="module")
def alone(exported: Exported, key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle on its own in a folder."""
    path = tmp_path_factory.mktemp("device") / "b.qdr"
    shutil.copy(exported.bundle, path)
    return read_bundle(path, trust=TrustStore.of(key.public))


@pytest.fixture
def trusting(key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "trust").mkdir(parents=True)
    (home / "trust" / f"{key.key_id}.pem").write_bytes(key.public.to_pem())
    monkeypatch.setenv("QDR_EDGE_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")


def _invoke(command: object, *arguments: object) -> object:
    app = typer.Typer()
    app.command()(command)  # type: ignore[arg-type]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_every_profile_makes_an_artefact(exported: Exported, alone: Bundle) -> None:
    assert set(alone.manifest.artefacts) == set(profile_names())
    assert {"ort-arm64", *HERE} <= set(profile_names())
    assert exported.proven
    for name in HERE:
        rung = exported.parity.rung(name)
        assert (rung.verdict, rung.exact) == (HELD, rung.images)
    assert alone.manifest.artefacts["openvino-ir"].entry == "artefacts/openvino-ir.ir"


def test_arm_is_unavailable_here_and_its_graph_is_executed_as_written(exported: Exported) -> None:
    assert exported.parity.rung("ort-arm64").status == "unavailable"
    assert "aarch64" in exported.parity.rung("ort-arm64").reason
    stand_in = exported.parity.rung("ort-arm64 as written")
    assert stand_in.exact == stand_in.images > 0


def test_maps_are_bit_equal_and_their_agreement_is_evidence(
    exported: Exported, alone: Bundle
) -> None:
    maps = exported.maps
    assert maps is not None
    assert set(maps.equal) == {*HERE, "ort-arm64 as written"}
    assert set(maps.equal.values()) == {maps.images}
    assert maps.images == exported.point.evaluation.images
    sealed = alone.manifest.evidence["maps"]
    document = json.loads(exported.parity_file.read_bytes())
    assert sealed["pairs"] == document["maps"]["pairs"] > 0  # type: ignore[index,call-overload]
    assert document["maps"]["correlation"]["value"] > 0.5


def test_the_page_is_self_contained_and_names_every_rung(exported: Exported) -> None:
    page = exported.page.read_text()
    assert exported.page.name == "tiny-fundus.parity.html"
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page
    for rung in exported.parity.rungs:
        assert rung.name in page
    assert "Class activation maps" in page


def test_a_bundle_alone_is_compared_on_golden_and_drawn_images(alone: Bundle) -> None:
    compared = compare_bundle(alone, threads=1)
    assert compared.images["drawn"] == DRAWN_IMAGES
    assert compared.images["golden"] >= 2
    names = [rung.name for rung in compared.report.rungs]
    assert "float twin" not in names
    for name in HERE:
        rung = compared.report.rung(name)
        assert (rung.verdict, rung.exact) == (HELD, rung.images)
        assert rung.map_difference is None
        assert compared.equal_maps[name] == compared.map_images == rung.images


def test_labels_give_map_differences_and_the_twin_beside_the_bundle_joins(
    exported: Exported, run: Path, key: SigningKey
) -> None:
    bundle = read_bundle(exported.bundle, trust=TrustStore.of(key.public))
    compared = compare_bundle(
        bundle, data=run / "data.csv", targets=["openvino"], limits=Limits(drop=100), threads=1
    )
    assert [rung.name for rung in compared.report.rungs] == ["float twin", "openvino"]
    twin = compared.report.rung("float twin")
    assert (twin.role, twin.verdict) == ("metric", UNSURE)  # of eight patients
    assert twin.map_difference is not None
    assert compared.images == {"given": len(read_csv(run / "data.csv").select("fundus"))}


def test_a_target_that_decides_otherwise_fails(alone: Bundle) -> None:
    other = dict(alone.entries)
    artefact = alone.artefact("ort-x86").entry
    # A sealed bundle cannot be so; a machine whose runtime is broken looks just like it.
    other[artefact] = _negated(other[artefact])
    compared = compare_bundle(replace(alone, entries=other), targets=["ort-x86"], threads=1)
    (failed,) = compared.report.failures
    assert (failed.name, failed.verdict) == ("ort-x86", FAILED)


def _negated(model: bytes) -> bytes:
    import onnx

    graph = onnx.load_model_from_string(model)
    for tensor in graph.graph.initializer:
        if tensor.name == "fc:w":
            codes = -onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
    return graph.SerializeToString()


def test_a_bundle_without_its_reference_says_so(alone: Bundle) -> None:
    entries = {name: e for name, e in alone.entries.items() if name != CANONICAL_ENTRY}
    with pytest.raises(BundleError, match=r"network/canonical.onnx"):
        compare_bundle(replace(alone, entries=entries))


def test_a_table_of_the_other_modality_is_refused(alone: Bundle, run: Path, tmp_path: Path) -> None:
    samples = read_csv(run / "data.csv").select("oct")
    write_csv(tmp_path / "oct.csv", samples)
    with pytest.raises(DatasetError, match="no fundus image"):
        compare_bundle(alone, data=tmp_path / "oct.csv")


def test_drawn_pixels_are_the_same_each_time() -> None:
    names, pixels = zip(*draw(64, 7), strict=True)
    again = [p for _, p in draw(64, 7)]
    np.testing.assert_array_equal(pixels, again)
    assert len(set(names)) == 7
    assert all(p.shape == (3, 64, 64) and np.ptp(p) > 100 for p in pixels)


@pytest.mark.usefixtures("trusting")
def test_parity_command_writes_both_files(alone: Bundle, tmp_path: Path) -> None:
    files = tmp_path / "new" / "p.json", tmp_path / "new" / "p.html"
    result = _invoke(parity, alone.path, "--json", files[0], "--html", files[1], "--threads", 1)
    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    for name in HERE:
        assert name in result.output  # type: ignore[attr-defined]
    document = json.loads(files[0].read_bytes())
    assert (document["format"], document["made_by"]) == ("qdr-parity", "parity")
    assert document["bundle_sha256"] == alone.sha256
    assert alone.manifest.bundle_id in files[1].read_text()


@pytest.mark.usefixtures("trusting")
def test_parity_command_fails_with_its_exit_code(
    alone: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qdr_edge import bundle

    entries = dict(alone.entries)
    entry = alone.artefact("ort-x86").entry
    entries[entry] = _negated(entries[entry])
    monkeypatch.setattr(bundle, "read_bundle", lambda *_a, **_k: replace(alone, entries=entries))
    result = _invoke(parity, alone.path, "--target", "ort-x86", "--threads", 1)
    assert isinstance(result.exception, ParityError)  # type: ignore[attr-defined]
    assert result.exception.exit_code == 13  # type: ignore[attr-defined]


@pytest.mark.usefixtures("trusting")
def test_run_writes_a_picture_for_each_positive_label(
    alone: Bundle, run: Path, tmp_path: Path
) -> None:
    images = [s.file for s in read_csv(run / "data.csv").select("fundus", "val")][:3]
    folder = tmp_path / "maps"
    arguments = [alone.path, *images, images[0], "--maps", folder, "--json", "--threads", 1]
    result = _invoke(run_command, *arguments)
    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    answers = json.loads(result.output)["results"]  # type: ignore[attr-defined]
    expected = set()
    for position, answer in enumerate(answers):
        suffix = "~1" if position == len(images) else ""
        positive = [label["code"] for label in answer["labels"] if label["positive"]]
        expected |= {f"{Path(answer['image']).stem}{suffix}-{code}.png" for code in positive}
    assert expected
    assert {path.name for path in folder.iterdir()} == expected
    size = alone.manifest.input.size
    for path in folder.iterdir():
        assert cv2.imread(str(path)).shape == (size, size, 3)


@pytest.mark.usefixtures("trusting")
def test_run_with_maps_refuses_a_bundle_without(run: Path, key: SigningKey, tmp_path: Path) -> None:
    _, (student,) = find_students(run)
    made = export_student(
        student,
        [load_profile("ort-x86")],
        name="plain-fundus",
        out=tmp_path,
        key=key,
        limits=Limits(drop=100),
        threads=1,
    )
    assert made.maps is None
    image = student.samples[0].file
    result = _invoke(run_command, made.bundle, image, "--maps", tmp_path / "m", "--threads", 1)
    assert isinstance(result.exception, BackendError)  # type: ignore[attr-defined]
    assert "no class activation maps" in str(result.exception)  # type: ignore[attr-defined]
    assert not (tmp_path / "m").exists()


def test_students_of_one_modality_keep_their_own_names(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    one = load_checkpoint(folder / "student-fundus")
    save_checkpoint(folder / "student-fundus-csa", one)
    name, students = find_students(folder)
    stems = {student.folder.name: student_stem(name, student) for student in students}
    assert stems == {
        "student-fundus": "tiny-fundus",
        "student-fundus-csa": "tiny-fundus-csa",
    }
    # Exported alone it has the same name.
    name, (alone,) = find_students(folder / "student-fundus-csa")
    assert student_stem(name, alone) == "tiny-fundus-csa"
