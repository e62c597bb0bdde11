"""The fuzz target of the bundle reader: `python tests/fuzz/fuzz_bundle.py CORPUS -runs=1000000`.

The first byte chooses how deep the rest goes; a signature would otherwise stop every change at the
door. Whatever the bytes, the answer is the one reading or a QdrError, and what the check of an ONNX
file lets pass, the onnx package must see in the same way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["qdr_edge"]):
    from qdr_edge.bundle import inspect_bundle, read_bundle
    from qdr_edge.container import check_crc, extract, read_container, write_container
    from qdr_edge.errors import QdrError
    from qdr_edge.keys import SigningKey, TrustStore
    from qdr_edge.manifest import Manifest
    from qdr_edge.runtime.onnx_check import ALLOWED, check_onnx

import onnx
from google.protobuf.message import DecodeError

from tests.fuzz.mutate import mutate_json, mutate_protobuf
from tests.fuzz.seeds import MODES

KEY = SigningKey.generate()
TRUST = TrustStore.of(KEY.public)


def container(data: bytes) -> None:
    """Accepted bytes are exactly those that the writer makes of the same entries."""
    table = read_container(data)
    entries = {name: extract(data, entry) for name, entry in table.items()}
    for name, entry in table.items():
        check_crc(entry, entries[name])
    assert write_container(entries) == data


def unsigned(data: bytes) -> None:
    """A whole bundle without a signature, then its models."""
    bundle = read_bundle(data, trust=TRUST, allow_unsigned=True)
    for artefact in bundle.manifest.artefacts.values():
        model(bundle.entries[artefact.entry])


def model(data: bytes) -> None:
    """What passes the check has nothing that the onnx package would call forbidden."""
    facts = check_onnx(data)
    try:
        loaded = onnx.load_model_from_string(data)
    except DecodeError:
        return  # the runtime's own parser refuses such bytes too
    assert not loaded.functions
    assert not loaded.training_info
    assert not loaded.graph.sparse_initializer
    tensors = list(loaded.graph.initializer)
    for node in loaded.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        assert node.op_type in ALLOWED[domain]
        for attribute in node.attribute:
            assert not attribute.HasField("g")
            assert not attribute.HasField("sparse_tensor")
            assert not attribute.graphs
            assert not attribute.sparse_tensors
            tensors += [attribute.t, *attribute.tensors]
    for tensor in tensors:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
        assert all(size >= 0 for size in tensor.dims)
    assert len(loaded.graph.node) == sum(facts.operators.values())


def manifest(data: bytes) -> None:
    """What is read as a manifest of this schema is written again as the same bytes."""
    read = Manifest.from_bytes(data)
    again = Manifest.from_bytes(read.to_bytes())
    assert again == read


def signed(data: bytes) -> None:
    """Any manifest under a true signature, over the entries of no bundle."""
    raw = bytes.fromhex(KEY.key_id) + KEY.sign(data)
    read_bundle(write_container({"manifest.json": data, "manifest.sig": raw}), trust=TRUST)


def inspected(data: bytes) -> None:
    """A bundle that is only shown."""
    inspect_bundle(data, trust=TRUST)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "container": container,
    "unsigned": unsigned,
    "model": model,
    "manifest": manifest,
    "signed": signed,
    "inspected": inspected,
}


FORMS = {"model": mutate_protobuf, "manifest": mutate_json, "signed": mutate_json}


def one_input(data: bytes) -> None:
    """Run one input through the reader that its first byte names."""
    if not data:
        return
    name = MODES[data[0] % len(MODES)]
    with contextlib.suppress(QdrError):
        TARGETS[name](data[1:])


def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the changes keep the form of what the mode reads; the others are libFuzzer's own."""
    random = Random(seed)

    def mutate(some: bytes) -> bytes:
        return bytes(atheris.Mutate(some, max(len(some) + 16, 64)))

    keep = FORMS.get(MODES[data[0] % len(MODES)]) if data else None
    if keep is None or random.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    return (data[:1] + keep(data[1:], random, mutate))[:max_size]


def main() -> None:
    """Fuzz; see the module."""
    atheris.Setup(sys.argv, one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
