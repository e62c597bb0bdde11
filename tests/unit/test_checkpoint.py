"""A checkpoint survives the round trip, and damage to it is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qdr_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qdr_edge.errors import CheckpointError
from qdr_edge.graph import INPUT, Graph, Node
from qdr_edge.labels import TOPCON_MM
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.scheme import EXACT

CONV = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def small_checkpoint(seed: int = 0) -> Checkpoint:
    random = np.random.default_rng(seed)
    nodes = (
        Node("stem", "conv", (INPUT,), CONV, "relu", 0.125),
        Node("gap", "global_avg_pool", ("stem",), {}, "", 0.0625),
        Node("flat", "flatten", ("gap",), {}, "", 0.0625),
        Node("fc", "linear", ("flat",), {}),
    )
    tensors = {
        "stem.weight": random.normal(size=(8, 3, 3, 3)),
        "stem.bias": random.normal(size=8),
        "stem.weight_scale": np.full(8, 2.0**-5),
        "fc.weight": random.normal(size=(11, 8)),
        "fc.bias": random.normal(size=11),
        "fc.weight_scale": np.full(11, 2.0**-5),
    }
    return Checkpoint(
        name="small",
        role="student",
        modality="fundus",
        synthetic=True,
        model={"name": "small"},
        labels=TOPCON_MM,
        preprocess=PreprocessSpec("fundus", 32),
        scheme=EXACT,
        graph=Graph(nodes),
        tensors={name: array.astype(np.float32) for name, array in tensors.items()},
        probe={"reference_logits": random.normal(size=(4, 11)).astype(np.float32)},
        provenance={"seed": 0},
    )


def test_round_trip(tmp_path):
    saved = small_checkpoint()
    save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path)
    assert replace(loaded, tensors={}, probe={}) == replace(saved, tensors={}, probe={})
    for name, array in {**saved.tensors, **saved.probe}.items():
        np.testing.assert_array_equal({**loaded.tensors, **loaded.probe}[name], array)


def test_saving_again_replaces_the_old_files(tmp_path):
    save_checkpoint(tmp_path, small_checkpoint(0))
    save_checkpoint(tmp_path, small_checkpoint(1))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    expected = small_checkpoint(1).tensors["fc.bias"]
    np.testing.assert_array_equal(load_checkpoint(tmp_path).tensors["fc.bias"], expected)


def test_a_write_cut_before_the_description_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    import qdr_edge.checkpoint as module

    save_checkpoint(tmp_path, small_checkpoint(0))
    real = module.atomic_write

    def cut(path, content):
        if path.name == "checkpoint.json":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(module, "atomic_write", cut)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, small_checkpoint(1))
    expected = small_checkpoint(0).tensors["fc.bias"]
    np.testing.assert_array_equal(load_checkpoint(tmp_path).tensors["fc.bias"], expected)


def test_missing_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint here.*qdr-edge train"):
        load_checkpoint(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    save_checkpoint(tmp_path, small_checkpoint())
    weights = next(tmp_path.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4}, "version 4.*expected qdr-checkpoint version 1 or 2 or 3"),
        ({"graph": {"nodes": []}}, "no nodes"),
        ({"labels": {}}, "missing or malformed"),
    ],
    ids=["version", "empty graph", "labels"],
)
def test_wrong_description_is_refused(tmp_path, change, message):
    save_checkpoint(tmp_path, small_checkpoint())
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_not_json_is_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


def _with_node(index: int, **change: object) -> Graph:
    nodes = list(small_checkpoint().graph.nodes)
    nodes[index] = replace(nodes[index], **change)
    return Graph(tuple(nodes))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (_with_node(0, op="conv3d"), "operator 'conv3d'"),
        (_with_node(0, attrs={}), "attributes"),
        (_with_node(1, inputs=("later",)), "unknown"),
        (_with_node(1, name="stem"), "name used twice"),
        (_with_node(1, activation="relu"), "activation"),
        (_with_node(0, scale=None), "output scale None"),
        (_with_node(0, scale=float("inf")), "output scale inf"),
        (_with_node(2, scale=0.5), "its input's scale"),
        (_with_node(3, scale=0.5), "no scale"),
        (_with_node(3, name="head"), "head.bias is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_graph_check_names_what_is_wrong(graph, message):
    with pytest.raises(CheckpointError, match=message):
        graph.check(small_checkpoint().tensors, quantized=True)


def test_graph_check_refuses_bad_tensors():
    checkpoint = small_checkpoint()
    for change, message in (
        ({"fc.bias": np.zeros(3, np.float32)}, "one value per output channel"),
        ({"fc.bias": np.full(11, np.nan, np.float32)}, "NaN"),
        ({"fc.weight_scale": np.zeros(11, np.float32)}, "not above 0"),
        ({"other": np.zeros(1, np.float32)}, "tensors of no node"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.graph.check({**checkpoint.tensors, **change}, quantized=True)
