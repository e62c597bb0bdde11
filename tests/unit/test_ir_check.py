"""OpenVINO IR is looked through before OpenVINO sees it: nothing but its own plain XML passes."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from qdr_edge.errors import BackendError, BundleError
from qdr_edge.runtime import open_model
from qdr_edge.runtime.ir_check import MAGIC, check_ir, pack_ir, split_ir
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from tests.networks import FAMILIES, checkpoint

Edit = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def entry() -> bytes:
    return emitter("openvino-ir")(build_canonical(checkpoint("student")))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_export_makes_passes(family: str) -> None:
    check_ir(emitter("openvino-ir")(build_canonical(checkpoint(family))))


def _after_declaration(text: bytes) -> Edit:
    return lambda xml: xml.replace(b'<?xml version="1.0"?>', b'<?xml version="1.0"?>' + text, 1)


def _once(old: bytes, new: bytes) -> Edit:
    def edit(xml: bytes) -> bytes:
        assert old in xml
        return xml.replace(old, new, 1)

    return edit


ATTACKS: dict[str, tuple[Edit, str]] = {
    "billion laughs": (
        _after_declaration(b'<!DOCTYPE net [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>'),
        "document type",
    ),
    "external entity": (
        _after_declaration(b'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
        "document type",
    ),
    "entity reference": (_once(b'name="l0"', b'name="&x;"'), "entity"),
    "numeric reference": (_once(b'name="l0"', b'name="&#65;"'), "entity"),
    "comment": (_after_declaration(b"<!-- -->"), "document type"),
    "instruction": (_after_declaration(b"<?xml-stylesheet href='x'?>"), "instruction"),
    "other encoding": (
        lambda xml: xml.replace(b'"1.0"?>', b'"1.0" encoding="UTF-7"?>', 1),
        "not the XML",
    ),
    "byte outside ASCII": (_once(b'name="l0"', b'name="\xff"'), "not the XML"),
    "unknown layer": (_once(b'type="Convolution"', b'type="Loop"'), "'Loop' is not allowed"),
    "custom opset": (
        _once(b'type="Convolution" version="opset1"', b'type="Convolution" version="extension"'),
        "not allowed",
    ),
    "unknown element": (_once(b"<rt_info />", b"<body />"), "'body' is not allowed"),
    "weights beyond the end": (
        lambda xml: re.sub(rb'offset="\d+"', b'offset="999999999"', xml, count=1),
        "outside its weights",
    ),
    "negative offset": (
        lambda xml: re.sub(rb'offset="\d+"', b'offset="-4"', xml, count=1),
        "outside its weights",
    ),
    "no offset": (lambda xml: re.sub(rb' offset="\d+"', b"", xml, count=1), "outside its weights"),
    "huge tensor": (_once(b"<dim>64</dim>", b"<dim>999999999</dim>"), "tensor of shape"),
    "dynamic shape": (_once(b"<dim>64</dim>", b"<dim>-1</dim>"), "not fixed"),
    "huge stride": (
        lambda xml: re.sub(rb'strides="[^"]*"', b'strides="70000, 1"', xml, count=1),
        "strides above",
    ),
    "text": (_once(b"<layers>", b"<layers>hello"), "text between"),
    "float input": (_once(b'element_type="u8"', b'element_type="f32"'), "uint8 image"),
    "cut": (lambda xml: xml[: len(xml) // 2], "malformed"),
    "long name": (_once(b'name="l0"', b'name="' + b"x" * 2000 + b'"'), "too long"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_anything_else_is_refused_before_openvino(entry: bytes, attack: str) -> None:
    edit, reason = ATTACKS[attack]
    xml, weights = split_ir(entry)
    changed = edit(xml)
    assert changed != xml
    with pytest.raises(BundleError, match=reason):
        open_model("openvino", pack_ir(changed, bytes(weights)), threads=1)


@pytest.mark.parametrize("length", [2**63, 17 << 20, 10**6], ids=["huge", "cap", "beyond"])
def test_a_length_that_lies_is_refused(entry: bytes, length: int) -> None:
    lying = MAGIC + length.to_bytes(8, "little") + entry[16:]
    with pytest.raises(BundleError, match="cut short"):
        open_model("openvino", lying, threads=1)


def test_a_tensor_that_openvino_would_make_large_is_refused(entry: bytes) -> None:
    xml, weights = split_ir(entry)
    # The ports keep claiming small shapes; OpenVINO computes its own from the input.
    grown = re.sub(rb'shape="1,3,64,64"', b'shape="1,3,9000,9000"', xml, count=1)
    with pytest.raises((BackendError, BundleError)):
        open_model("openvino", pack_ir(grown, bytes(weights)), threads=1)


@pytest.mark.parametrize("root", [b"<port></port>", b"<dim>1</dim>", b"<layer />", b"<net />", b""])
def test_a_document_of_one_element_is_refused(root: bytes) -> None:
    with pytest.raises(BundleError):
        check_ir(pack_ir(b'<?xml version="1.0"?>' + root, b""))


def test_damage_never_ends_in_another_error() -> None:
    entry = emitter("openvino-ir")(build_canonical(checkpoint("student")))
    xml, weights = split_ir(entry)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(xml)
        for place in random.integers(0, len(xml), 3):
            damaged[place] = random.integers(32, 127)
        start, end = sorted(random.integers(0, len(xml), 2))
        if end - start < 200:
            del damaged[start:end]
        try:
            check_ir(pack_ir(bytes(damaged), bytes(weights)))
        except BundleError:
            refused += 1
    assert refused > 100


def test_ir_is_for_openvino_only(entry: bytes) -> None:
    with pytest.raises(BundleError, match="not an ONNX file"):
        open_model("onnxruntime", entry, threads=1)
