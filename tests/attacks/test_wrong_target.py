"""Models for another machine, runtime, camera or contract, however well signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qdr_edge
from qdr_edge.bundle import read_bundle, seal
from qdr_edge.errors import BackendError, BundleError, CompatibilityError, QdrError, SelfTestError
from qdr_edge.manifest import Artefact, Manifest
from tests.attacks.evil import KEY, TRUST, working
from tests.bundles import ORT, onnx_model

Parts = tuple[Manifest, dict[str, bytes]]


@pytest.fixture(scope="module")
def parts() -> Parts:
    return working()


@pytest.fixture
def load(parts: Parts, tmp_path: Path) -> Any:
    def load(target: str | None = "ort-x86", entries: Any = None, **changes: Any) -> None:
        manifest = parts[0].model_copy(update=changes)
        (tmp_path / "x.qdr").write_bytes(seal(manifest, {**parts[1], **(entries or {})}, KEY))
        qdr_edge.load(tmp_path / "x.qdr", target=target, trust=TRUST, threads=1).close()

    return load


def _artefacts(**changes: Any) -> dict[str, Artefact]:
    base = {"entry": ORT, "backend": "onnxruntime", "opset": 19, "tolerance_steps": 1}
    return {"ort-x86": Artefact(**{**base, "logit_step": "0.001", **changes})}


def _golden(parts: Parts) -> Any:
    return tuple(
        g.model_copy(update={"logits": {t: v for t, v in g.logits.items() if t == "ort-x86"}})
        for g in parts[0].golden
    )


@pytest.mark.parametrize(
    ("artefact", "error", "message"),
    [
        ({"requires": ("sparc64",)}, CompatibilityError, "this machine has no sparc64"),
        ({"runtime": ">=99"}, CompatibilityError, "outside the versions"),
        ({"runtime": "<1.0"}, CompatibilityError, "outside the versions"),
        ({"runtime": "==1.0"}, CompatibilityError, "cannot be read"),
        ({"backend": "torch"}, CompatibilityError, "is not known"),
        ({"backend": "subprocess"}, CompatibilityError, "is not known"),
    ],
)
def test_an_artefact_for_something_else(
    load: Any, parts: Parts, artefact: Any, error: type[QdrError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(artefacts=_artefacts(**artefact), golden=_golden(parts))


def test_a_target_that_the_bundle_does_not_have(load: Any) -> None:
    with pytest.raises(CompatibilityError, match="no artefact for target"):
        load(target="arm64")


def test_nothing_for_this_machine(load: Any, parts: Parts) -> None:
    with pytest.raises(CompatibilityError, match="no artefact can run on this machine"):
        load(target=None, artefacts=_artefacts(requires=("mars",)), golden=_golden(parts))


def test_a_model_of_another_size_or_another_network(load: Any) -> None:
    load()
    with pytest.raises((SelfTestError, BackendError)):
        load(entries={ORT: onnx_model(size=32)})
    with pytest.raises(SelfTestError):
        load(entries={ORT: onnx_model(seed=7)})


def test_another_modality_or_contract(load: Any, parts: Parts) -> None:
    with pytest.raises(BundleError, match="contradicts"):
        load(modality="oct")
    contract = parts[0].preprocess
    with pytest.raises(BundleError, match="contradicts"):
        load(preprocess=contract.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(CompatibilityError, match="preprocessing contract"):
        load(preprocess=contract.model_copy(update={"spec": {"unheard": 1}}))


def test_no_golden_vector_that_tests_the_network(load: Any, parts: Parts) -> None:
    with pytest.raises(SelfTestError, match="no golden vector"):
        load(golden=())
    rejected = tuple(g for g in parts[0].golden if not g.logits)
    with pytest.raises(SelfTestError, match="no golden vector"):
        load(golden=rejected)


def test_a_target_without_recorded_logits(load: Any, parts: Parts) -> None:
    golden = tuple(g.model_copy(update={"logits": {}}) for g in parts[0].golden)
    with pytest.raises(SelfTestError, match="no recorded logits"):
        load(golden=golden)


def test_reading_alone_opens_no_model(parts: Parts) -> None:
    manifest, entries = parts
    data = seal(manifest, {**entries, ORT: b"no model at all"}, KEY)
    assert read_bundle(data, trust=TRUST).entries[ORT] == b"no model at all"
