"""Class activation maps: the same integers everywhere, and they say where the logit came from."""

from __future__ import annotations

import numpy as np
import pytest

from qdr_edge.errors import BackendError, BundleError, ExportError
from qdr_edge.overlay import overlay
from qdr_edge.runtime import MapSession, open_model
from qdr_export.canonical import build_canonical
from qdr_export.emit import emitter
from qdr_export.float_twin import build_float_twin
from qdr_export.map_agreement import compare_maps
from qdr_export.maps import add_float_maps, add_maps, has_maps
from qdr_export.readback import read_back
from qdr_export.reference import Reference
from tests.networks import FAMILIES, Sketch, checkpoint, from_sketch, images

FORMS = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    return checkpoint(request.param)


@pytest.fixture(scope="module")
def with_maps(made) -> bytes:
    return add_maps(build_canonical(made), images(4))


def test_mean_of_a_map_is_its_logit_without_the_bias(made, with_maps):
    batch = images(4)  # those that set the range, so that no code saturates
    reference = Reference(with_maps)
    maps, logits = reference.infer_maps(batch), reference.infer(batch)
    head = made.graph.nodes[-1].name
    bias = made.tensors[f"{head}.bias"]
    # The network rounds the mean of the features, the map rounds each position.
    pooled_scale = [n.scale for n in made.graph.nodes if n.op == "global_avg_pool"][-1]
    weights = np.abs(made.tensors[f"{head}.weight"]).sum(1)
    allowed = weights * pooled_scale * 0.51 + np.ptp(maps) / 255
    assert maps.shape[:2] == logits.shape
    # Where the pooled codes saturate, the logit holds less than the map.
    whole = np.abs(reference.activations(batch)["gap:q"]).max(axis=(1, 2, 3)) < 127
    assert whole.sum() >= 2
    assert (np.abs(maps.mean((2, 3)) + bias - logits) <= allowed)[whole].all()


def test_logits_do_not_change(made, with_maps):
    batch = images(3, seed=2)
    plain = Reference(build_canonical(made)).infer(batch)
    np.testing.assert_array_equal(Reference(with_maps).infer(batch), plain)


@pytest.mark.parametrize("backend", FORMS)
def test_every_runtime_computes_the_same_bits(backend, with_maps):
    batch = images(8, seed=3)
    session = open_model(backend, emitter(FORMS[backend])(with_maps), threads=1)
    assert isinstance(session, MapSession)
    assert session.has_maps
    logits, maps = session.infer_maps(batch)
    reference = Reference(with_maps)
    np.testing.assert_array_equal(maps, reference.infer_maps(batch))
    np.testing.assert_array_equal(logits, reference.infer(batch))
    np.testing.assert_array_equal(logits, session.infer(batch))
    session.close()


@pytest.mark.parametrize("backend", FORMS)
def test_the_map_is_computed_in_int8(backend, with_maps):
    layers = read_back(backend, emitter(FORMS[backend])(with_maps)).layers
    assert {layer.name: layer.int8 for layer in layers}["maps"]


def test_float_twin_has_the_map_of_the_same_weights(made, with_maps):
    batch = images(4, seed=4)
    session = open_model("onnxruntime", add_float_maps(build_float_twin(made)), threads=1)
    assert isinstance(session, MapSession)
    found = session.infer_maps(batch)[1]
    exact = Reference(with_maps).infer_maps(batch)
    assert found.shape == exact.shape
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.9
    session.close()


def test_a_model_without_maps_says_so(made):
    model = emitter("onnxruntime-x86")(build_canonical(made))
    assert not has_maps(model)
    session = open_model("onnxruntime", model, threads=1)
    assert isinstance(session, MapSession)
    with pytest.raises(BackendError, match=r"no class activation maps.*--maps"):
        session.infer_maps(images(1))
    session.close()


def test_a_head_that_reads_no_mean_is_refused():
    sketch = Sketch(0)
    x = sketch.conv("stem", "pixels", 16, 3, stride=2, relu=True)
    x = sketch.op("flat", "flatten", sketch.op("gap", "global_avg_pool", x))
    x = sketch.op("hidden.r", "relu", sketch.linear("hidden", x, 32))
    sketch.linear("fc", x, 4)
    with pytest.raises(ExportError, match="no class activation maps: its head reads Relu"):
        add_maps(build_canonical(from_sketch(sketch)), images(1))


def test_any_other_second_output_is_refused(with_maps):
    import onnx

    model = onnx.load_model_from_string(with_maps)
    model.graph.output[1].name = "mops"
    for node in model.graph.node:
        node.output[:] = ["mops" if name == "maps" else name for name in node.output]
    with pytest.raises(BundleError, match="outputs besides logits and maps"):
        open_model("onnxruntime", model.SerializeToString(), threads=1)


def test_overlay_colours_only_what_speaks_for_the_label():
    import cv2

    grey = np.full((3, 64, 64), 100, np.uint8)
    activation = np.full((4, 4), -1, np.float32)
    activation[0, 0] = 2
    picture = cv2.imdecode(np.frombuffer(overlay(grey, activation), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (64, 64, 3)
    assert (picture[32:] == 100).all()
    assert np.ptp(picture[4, 4].astype(int)) > 30


def test_agreement_counts_only_positive_labels_and_neighbouring_peaks():
    real = np.zeros((3, 2, 4, 4), np.float32)
    real[0, 0, 1, 1] = real[1, 0, 0, 0] = real[2, 1, 3, 3] = 1
    int8 = real.copy()
    int8[0, 0] = np.roll(real[0, 0], 1, axis=1)  # a neighbour
    int8[1, 0] = np.roll(real[1, 0], (3, 3), axis=(0, 1))  # the other corner
    positive = np.zeros((3, 2), bool)
    positive[[0, 1, 2], [0, 0, 1]] = True
    found = compare_maps(int8, real, positive, ["a", "b", "c"])
    assert (found.pairs, found.grid) == (3, (4, 4))
    assert found.same_peak.value == pytest.approx(2 / 3)
    assert found.correlation.value == pytest.approx((1 - 2 / 15) / 3)
    assert compare_maps(int8, real, np.zeros((3, 2), bool), ["a", "b", "c"]).pairs == 0
