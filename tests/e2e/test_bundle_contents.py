"""What an exported bundle carries besides its models, and its life on a device."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import qdr_edge
from qdr_edge.bundle import Bundle, read_bundle
from qdr_edge.files import sha256_bytes
from qdr_edge.install import install, roll_back, status
from qdr_edge.keys import TrustStore


@pytest.fixture(scope="module")
def trust(pipeline) -> TrustStore:
    return TrustStore.from_folder(pipeline.root / "home" / "trust")


@pytest.fixture(params=["fundus", "oct"])
def bundle(request, pipeline, trust) -> Bundle:
    return read_bundle(pipeline.bundle(request.param), trust=trust)


def test_the_sbom_is_cyclonedx_and_names_every_artefact_by_its_hash(bundle):
    raw = bundle.entries["sbom.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw.decode()) is None
    document = json.loads(raw)
    hashes = {
        part["bom-ref"]: part["hashes"][0]["content"]
        for part in document["components"]
        if "hashes" in part
    }
    for name, artefact in bundle.manifest.artefacts.items():
        assert hashes[f"artefact-{name}"] == bundle.manifest.entries[artefact.entry].sha256
    model = document["metadata"]["component"]
    canonical = bundle.entries["network/canonical.onnx"]
    assert model["hashes"][0]["content"] == sha256_bytes(canonical)
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["type"] for metric in metrics} == {"mAP", "AUC"}


def test_the_operating_point_is_the_one_that_was_fitted_to_int8_outputs(bundle, pipeline):
    name = f"tiny-{bundle.manifest.modality}.parity.json"
    fitted = json.loads((pipeline.run / "export" / name).read_bytes())["rule"]
    rule = bundle.manifest.decision.rule(bundle.manifest.labels.label_set())
    assert json.loads(json.dumps(rule.to_dict())) == fitted
    assert {threshold.split for threshold in bundle.manifest.decision.thresholds} == {"val"}


def test_card_provenance_and_golden_vectors(bundle):
    card = bundle.entries["model_card.md"].decode()
    assert "To be filled in by the maker" in card
    assert "SYNTHETIC" in card.upper()
    provenance = bundle.manifest.provenance
    assert {"training", "canonical_sha256", "proof_data_sha256", "export_versions"} <= set(
        provenance
    )
    golden = {vector.name: vector for vector in bundle.manifest.golden}
    assert golden["ungradable"].outcome == "UNGRADABLE"
    assert golden["invalid"].outcome == "INVALID_INPUT"
    assert not golden["ungradable"].logits
    assert not golden["invalid"].preprocessed_sha256
    assert any(vector.logits for vector in bundle.manifest.golden)


def test_installed_screened_and_rolled_back(pipeline, trust, tmp_path):
    options = {"trust": trust, "target": "ort-x86", "threads": 1}
    for modality in ("oct", "fundus"):
        install(pipeline.bundle(modality), tmp_path / "device", **options)
    image = next((pipeline.data / "fundus").glob("*.jpg"))
    with qdr_edge.load(tmp_path / "device", **options) as screener:
        assert screener.spec.modality == "fundus"
        assert screener.screen(image).outcome != "FAULT"
    roll_back(tmp_path / "device", **options)
    report = status(tmp_path / "device", trust=trust)
    assert report.active == "a"
    assert [slot.bundle_id.split("-")[1] for slot in report.slots] == ["oct", "fundus"]
