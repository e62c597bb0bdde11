"""Parts of good bundles put together anew: a true signature over something else."""

from __future__ import annotations

import pytest

from qdr_edge.container import write_container
from qdr_edge.errors import BundleError, SignatureError
from qdr_edge.files import canonical_json
from tests.attacks.evil import GOOD, KEY, contents, listing, manifest_of, refused, signed
from tests.bundles import OPENVINO, ORT, sealed


def test_another_model_under_the_signed_manifest() -> None:
    for content in (b"evil!" * 20, b"", b"model" * 20 + b"\0", b"modeM" * 20):
        data = write_container({**contents(), ORT: content})
        refused(data, f"tampered or damaged: entry {ORT}", kind=SignatureError)


@pytest.mark.parametrize("name", ["NOTICE", "model_card.md"])
def test_another_document(name: str) -> None:
    data = write_container({**contents(), name: b"all is well"})
    refused(data, f"entry {name}", kind=SignatureError)


def test_two_entries_exchanged() -> None:
    entries = contents()
    entries["NOTICE"], entries["model_card.md"] = entries["model_card.md"], entries["NOTICE"]
    refused(write_container(entries), "tampered", kind=SignatureError)


def test_an_older_model_of_the_same_maker() -> None:
    old = contents(sealed(KEY, model_version="0.9.0"))
    new = contents()
    for name in ("manifest.json", "manifest.sig"):
        refused(write_container({**new, name: old[name]}), "tampered", kind=SignatureError)


def test_a_threshold_moved_in_the_manifest() -> None:
    value = manifest_of()
    value["decision"]["thresholds"][1]["logit"] = "100.0"
    entries = {**contents(), "manifest.json": canonical_json(value)}
    refused(write_container(entries), "tampered: the manifest", kind=SignatureError)


def test_unlisted_and_missing_entries() -> None:
    refused(write_container({**contents(), "extra": b""}), "not listed")
    refused(write_container({**contents(), "manifest.json.bak": b"{}"}), "not listed")
    for name in ("NOTICE", ORT):
        entries = contents()
        del entries[name]
        refused(write_container(entries), "missing, but listed")
    entries = contents()
    del entries["manifest.json"]
    refused(write_container(entries), "no manifest.json")


def test_a_manifest_whose_artefact_or_golden_image_is_no_entry() -> None:
    value = manifest_of()
    value["artefacts"]["ort-x86"]["entry"] = OPENVINO
    refused(signed(value), "is referred to but not listed")
    value = manifest_of()
    value["golden"] = [
        {"name": "x", "image": "manifest.json", "preprocessed_sha256": "", "logits": {},
         "outcome": "INVALID_INPUT", "positives": []}
    ]  # fmt: skip
    refused(signed(value), "is referred to but not listed")


def test_a_manifest_that_lists_nothing() -> None:
    refused(signed({**manifest_of(), "entries": {}}, {}), "holds no model")


def test_a_manifest_that_lists_itself() -> None:
    files = {n: c for n, c in contents().items() if not n.startswith("manifest.")}
    for name in ("manifest.json", "manifest.sig"):
        value = {**manifest_of(), "entries": listing({**files, name: b""})}
        error = refused(signed(value, files))
        assert type(error) is BundleError
    assert signed(manifest_of()) == GOOD
