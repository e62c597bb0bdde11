"""From a sealed bundle to decisions, on every runtime that is here."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdr_edge
from qdr_edge.bundle import read_bundle, seal, write_bundle
from qdr_edge.container import read_container
from qdr_edge.decision import Outcome
from qdr_edge.errors import (
    BackendError,
    BundleError,
    CompatibilityError,
    SelfTestError,
    SignatureError,
)
from qdr_edge.files import sha256_bytes
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.manifest import Manifest, Preprocess, exact_text
from qdr_edge.runtime import open_bundle
from qdr_edge.screener import Screener, load
from qdr_edge.self_test import power_on_vectors
from tests.bundles import ORT, fundus, onnx_model, png, working_entries

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)
ORT_TARGET = "ort-x86"
TARGETS = [ORT_TARGET, "openvino"]


@pytest.fixture(scope="module")
def parts() -> tuple[Manifest, dict[str, bytes]]:
    return working_entries()


@pytest.fixture
def path(parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "test.qdr", *parts, KEY)
    return tmp_path / "test.qdr"


def _loaded(manifest: Manifest, entries: dict[str, bytes], tmp_path: Path, **options: Any) -> Any:
    write_bundle(tmp_path / "changed.qdr", manifest, entries, KEY)
    return load(tmp_path / "changed.qdr", trust=TRUST, threads=1, **options)


@pytest.mark.parametrize("target", TARGETS)
def test_golden_images_are_decided_as_recorded(
    path: Path, parts: tuple[Manifest, dict[str, bytes]], target: str
) -> None:
    steps: list[str] = []
    with qdr_edge.load(
        path, target=target, trust=TRUST, threads=1, full_self_test=True, on_step=steps.append
    ) as s:
        for vector in parts[0].golden:
            decision = s.screen(parts[1][vector.image])
            assert decision.outcome.value == vector.outcome
            assert tuple(label.code for label in decision.findings) == vector.positives
            assert decision.bundle_id == "test-fundus"
            assert decision.reason or decision.labels
        assert s.target == target
        result = s.self_test()
    assert (result.vectors, result.inferences) == (4, 2)
    assert [step.split(":")[0] for step in steps[-2:]] == ["model", "self-test"]


def test_power_on_runs_one_vector_of_each_kind(
    path: Path, parts: tuple[Manifest, dict[str, bytes]]
) -> None:
    kinds = {"network" if v.logits else v.outcome for v in parts[0].golden}
    steps: list[str] = []
    with load(path, target=ORT_TARGET, trust=TRUST, threads=1, on_step=steps.append) as screener:
        assert f"{len(kinds)} golden vectors, 1 inferences" in steps[-1]
        # What was not hashed cannot be used by mistake.
        used = {parts[0].artefacts[ORT_TARGET].entry}
        used |= {v.image for v in power_on_vectors(screener.bundle, ORT_TARGET)}
        assert set(screener.bundle.entries) == used
        assert len(used) < len(parts[0].entries | parts[1])
        assert screener.bundle.sha256 == sha256_bytes(path.read_bytes())
        assert screener.self_test().inferences == 1


@pytest.mark.parametrize("entry", ["used", "golden", "unused"])
def test_what_is_used_is_hashed(
    path: Path, parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path, entry: str
) -> None:
    golden = parts[0].golden
    name = {
        "used": parts[0].artefacts[ORT_TARGET].entry,
        "golden": golden[0].image,
        "unused": parts[0].artefacts["openvino"].entry,
    }[entry]
    data = bytearray(path.read_bytes())
    place = read_container(bytes(data))[name]
    data[place.offset + place.size // 2] ^= 1
    damaged = tmp_path / "damaged.qdr"
    damaged.write_bytes(data)
    with pytest.raises(SignatureError, match=f"tampered or damaged: entry {name}"):
        read_bundle(damaged, trust=TRUST)
    if entry == "unused":
        load(damaged, target=ORT_TARGET, trust=TRUST, threads=1).close()
        with pytest.raises(SignatureError, match=f"tampered or damaged: entry {name}"):
            load(damaged, target="openvino", trust=TRUST, threads=1)
    else:
        with pytest.raises(SignatureError, match=f"tampered or damaged: entry {name}"):
            load(damaged, target=ORT_TARGET, trust=TRUST, threads=1)


def test_a_bad_image_is_a_decision(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(png(fundus())[:2000])
    with load(path, trust=TRUST, threads=1) as screener:
        for image in (
            tmp_path / "missing.png",
            str(tmp_path / "empty.png"),
            tmp_path / "cut.png",
            tmp_path,
            b"",
            b"GIF89a",
            np.zeros((5, 5, 7), np.uint8),
        ):
            decision = screener.screen(image)
            assert decision.outcome is Outcome.INVALID_INPUT, image
            assert decision.reason
            assert not decision.labels
            assert str(tmp_path) not in decision.reason
        assert screener.screen(np.zeros((200, 200, 3), np.uint8)).outcome in (
            Outcome.INVALID_INPUT,
            Outcome.UNGRADABLE,
        )
        assert screener.screen(fundus()).outcome in (Outcome.POSITIVE, Outcome.NEGATIVE)


def test_a_decision_is_json(path: Path) -> None:
    with load(path, trust=TRUST, threads=1) as screener:
        document = json.loads(json.dumps(screener.screen(fundus()).to_dict(), allow_nan=False))
    assert {"outcome", "labels", "reason", "modality"} <= document.keys()


def test_an_eye_takes_each_labels_largest_logit(path: Path) -> None:
    pictures = [fundus(0), fundus(1)]
    with load(path, trust=TRUST, threads=1) as screener:
        single = [screener.screen(picture) for picture in pictures]
        eye = screener.screen_eye([b"no image", *pictures])
        for k, label in enumerate(eye.labels):
            assert label.logit == max(decision.labels[k].logit for decision in single)
        # Thresholds lie between the two images' logits, so that every label is positive in one.
        assert all(label.positive for label in eye.labels)
        nothing = screener.screen_eye([b"no image", b""])
        assert nothing.outcome is Outcome.INVALID_INPUT
        assert "none of 2 images" in nothing.reason
        black = np.zeros((200, 200, 3), np.uint8)
        assert screener.screen_eye([b"", black]).outcome in (
            Outcome.UNGRADABLE,
            Outcome.INVALID_INPUT,
        )
        assert screener.screen_eye([]).outcome is Outcome.UNGRADABLE


def test_several_threads_get_the_decisions_of_one(path: Path) -> None:
    pictures = [fundus(seed) for seed in range(6)]
    with load(path, trust=TRUST, threads=1) as screener:
        alone = [screener.screen(picture) for picture in pictures]
        found: dict[int, Any] = {}

        def work(index: int) -> None:
            found[index] = screener.screen(pictures[index])

        workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert [found[index] for index in range(6)] == alone


def test_a_closed_screener_says_so(path: Path) -> None:
    with load(path, trust=TRUST, threads=1) as screener:
        pass
    screener.close()
    for call in (lambda: screener.screen(b""), screener.self_test, lambda: screener.screen_eye([])):
        with pytest.raises(BackendError, match="screener is closed"):
            call()


def test_another_model_fails_the_self_test_and_answers_fault(
    parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    manifest, entries = parts
    entries = {**entries, ORT: onnx_model(seed=7)}
    with pytest.raises(SelfTestError, match=r"golden vector 0: logit of"):
        _loaded(manifest, entries, tmp_path, target="ort-x86")
    bundle = read_bundle(seal(manifest, entries, KEY), trust=TRUST)
    with Screener(bundle, open_bundle(bundle, "ort-x86", 1), "ort-x86") as screener:
        assert screener.screen(fundus()).outcome is not Outcome.FAULT
        with pytest.raises(SelfTestError):
            screener.self_test()
        assert screener.screen(fundus()).outcome is Outcome.FAULT
        assert screener.screen_eye([fundus()]).outcome is Outcome.FAULT


@pytest.mark.parametrize("field", ["pixels", "logits", "outcome", "positives", "target", "none"])
def test_each_recorded_thing_is_compared(
    parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path, field: str
) -> None:
    manifest, entries = parts
    vector = manifest.golden[0]
    shifted = tuple(exact_text(float(text) + 0.002) for text in vector.logits["ort-x86"])
    other = "NEGATIVE" if vector.outcome == "POSITIVE" else "POSITIVE"
    flipped = tuple(c for c in manifest.labels.codes if c not in vector.positives)
    changes: dict[str, Any] = {
        "pixels": {"preprocessed_sha256": "0" * 64},
        "logits": {"logits": {"ort-x86": shifted}},
        "outcome": {"outcome": other},
        "positives": {"positives": flipped},
        "target": {"logits": {"openvino": vector.logits["openvino"]}},
        "none": {},
    }
    message = {
        "pixels": "other pixels",
        "logits": "within 0.001",
        "outcome": "outcome",
        "positives": "positive:",
        "target": "no recorded logits for ort-x86",
        "none": "no golden vector tests the network",
    }[field]
    golden = [vector.model_copy(update=changes[field]), *manifest.golden[1:]]
    if field == "none":
        golden = golden[2:]
    changed = manifest.model_copy(update={"golden": tuple(golden)})
    with pytest.raises(SelfTestError, match=message):
        _loaded(changed, entries, tmp_path, target="ort-x86")


def test_a_contract_that_contradicts_itself(
    parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    manifest, entries = parts
    spec = manifest.preprocess.spec
    wrong = Preprocess(spec=spec, sha256="0" * 64)
    with pytest.raises(BundleError, match="contradicts"):
        _loaded(manifest.model_copy(update={"preprocess": wrong}), entries, tmp_path)
    future = Preprocess(spec={**spec, "version": 99}, sha256="0" * 64)
    with pytest.raises(CompatibilityError, match="preprocessing contract"):
        _loaded(manifest.model_copy(update={"preprocess": future}), entries, tmp_path)


def test_an_inference_that_fails_is_a_fault_not_a_traceback(path: Path) -> None:
    with load(path, trust=TRUST, threads=1) as screener:
        # The session is gone, as after a runtime's crash; the screener itself is still open.
        screener.session.close()
        decision = screener.screen(fundus())
    assert decision.outcome is Outcome.FAULT
    assert "inference failed" in decision.reason


def test_a_result_is_frozen(path: Path) -> None:
    with load(path, trust=TRUST, threads=1) as screener:
        result = screener.self_test()
    assert replace(result, vectors=0) != result


def test_one_thread_alone_imports_numpy(path: Path) -> None:
    # Its modules import each other: a second thread that begins at once may see half of it.
    KEY.public.save(path.parent / "public.pem")
    code = f"""
import pathlib, sys, threading
threads = set()
class Watch:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "numpy":
            threads.add(threading.current_thread() is threading.main_thread())
sys.meta_path.insert(0, Watch())
import qdr_edge
from qdr_edge.keys import PublicKey, TrustStore
trust = TrustStore.of(PublicKey.load(pathlib.Path({str(path.parent / "public.pem")!r})))
qdr_edge.load({str(path)!r}, trust=trust, target={ORT_TARGET!r}, threads=1).close()
print(threads)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{True}\n"
