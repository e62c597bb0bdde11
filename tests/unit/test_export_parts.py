"""Profiles, names, SBOM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qdr_edge.errors import CheckpointError, DatasetError, ExportError
from qdr_edge.runtime import Availability
from qdr_edge.scheme import EXACT, U8
from qdr_edge.target import BUILTIN
from qdr_export import profiles
from qdr_export.emission import Artefact, Emission
from qdr_export.emit import emitter
from qdr_export.profiles import DEFAULT_TARGETS, load_profile, profile_names, suited
from qdr_export.run_folder import file_stem, find_students
from qdr_export.sbom import make_sbom


def test_every_profile_loads_and_names_an_emitter() -> None:
    assert set(DEFAULT_TARGETS) <= set(profile_names())
    for name in profile_names():
        profile = load_profile(name)
        assert profile.target.name == name
        assert callable(emitter(profile.emitter))


@pytest.mark.parametrize("name", DEFAULT_TARGETS)
def test_profiles_say_what_the_core_says(name: str) -> None:
    assert load_profile(name).target == BUILTIN[name]


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(ExportError, match="did you mean openvino"):
        load_profile("openvin")
    with pytest.raises(ExportError, match="unknown target"):
        load_profile("../ort-x86")


@pytest.mark.parametrize(
    "text", ["[1, 2", "name: x\n", "just text", "name: bad\nunknown: 1\n"], ids=range(4)
)
def test_malformed_profile_is_one_clear_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    monkeypatch.setattr(profiles, "profile_folder", lambda: tmp_path)
    with pytest.raises(ExportError) as caught:
        load_profile("bad")
    assert "bad.yaml" in caught.value.where


def test_file_stem_is_fit_for_a_bundle_id() -> None:
    assert file_stem("my run / 2", "oct") == "my-run-2-oct"
    with pytest.raises(ExportError, match="name"):
        file_stem("///", "oct")


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        find_students(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="not a training run"):
        find_students(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no finished student"):
        find_students(tmp_path)
    (tmp_path / "student-oct").mkdir()
    (tmp_path / "student-oct" / "checkpoint.json").write_text("{}")
    with pytest.raises(DatasetError, match="table of images is missing"):
        find_students(tmp_path)


def test_sbom_is_valid_deterministic_and_carries_the_model_card() -> None:
    artefact = Artefact(load_profile("openvino"), b"model", Availability(True), None, ())
    facts = {
        "name": "x-oct",
        "version": "abc",
        "created": "2026-01-02T03:04:05Z",
        "emission": Emission(b"canonical", b"float", {"openvino": artefact}),
        "model_card": {"modelParameters": {"task": "classification"}},
        "tools": {"qdr-edge": "0.1.0"},
    }
    first = make_sbom(**facts)  # type: ignore[arg-type]
    assert first == make_sbom(**facts)  # type: ignore[arg-type]
    document = json.loads(first)
    component = document["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["modelCard"]["modelParameters"]["task"] == "classification"
    names = {part["name"] for part in document["components"]}
    assert names == {"openvino.onnx", "openvino"}


def test_sbom_that_breaks_the_schema_is_not_written() -> None:
    with pytest.raises(ExportError, match="does not validate"):
        make_sbom(
            name="x",
            version="1",
            created="2026-01-02T03:04:05Z",
            emission=Emission(b"", b"", {}),
            model_card={"unheard": "of"},
            tools={},
        )


def test_tensorrt_is_left_out_of_a_u8_student_unless_asked_for_by_name():
    profiles = [load_profile(name) for name in ("ort-x86", "tensorrt-10", "tensorrt-11")]
    kept, left_out = suited(profiles, U8, ["tensorrt-11"])
    assert [profile.target.name for profile in kept] == ["ort-x86", "tensorrt-11"]
    assert left_out == ["tensorrt-10"]
    assert suited(profiles, EXACT, []) == (profiles, [])
