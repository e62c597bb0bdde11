"""ONNX files that read other files: weights "stored outside", in every place a tensor can stand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdr_edge.errors import BundleError
from qdr_edge.runtime import open_model
from tests.attacks.models import model


def _external(location: str = "/etc/passwd", **changes: int) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    for key, value in changes.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


LOCATIONS = ["/etc/passwd", "../../secret", "weights.bin", "C:\\x", "file:///x", ""]


@pytest.mark.parametrize("location", LOCATIONS)
def test_an_initializer(location: str) -> None:
    _refused(model(initializer=[_external(location, offset=0, length=1 << 40)]))


def test_an_attribute_and_a_list_of_tensors() -> None:
    _refused(model(helper.make_node("Constant", [], ["c"], value=_external())))
    node = helper.make_node("Relu", ["pixels"], ["c"])
    node.attribute.append(helper.make_attribute("values", [_external(), _external()]))
    _refused(model(node))


def test_a_location_without_the_flag_and_a_flag_without_a_location() -> None:
    tensor = _external()
    tensor.data_location = TensorProto.DEFAULT
    _refused(model(initializer=[tensor]))
    tensor = _external()
    tensor.ClearField("external_data")
    _refused(model(initializer=[tensor]))


def test_data_inside_and_outside() -> None:
    tensor = _external()
    tensor.raw_data = bytes(16)
    _refused(model(initializer=[tensor]))


def test_a_sparse_initializer_and_a_subgraph_that_hide_one() -> None:
    graph = helper.make_graph([], "b", [], [], [_external()])
    _refused(model(helper.make_node("Relu", ["pixels"], ["y"], body=graph)), "subgraph")
    sparse = onnx.SparseTensorProto(values=_external(), dims=[4])
    _refused(model(sparse_initializer=[sparse]), "sparse")


def test_training_information_and_functions_that_hide_one() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=_external())
    function = helper.make_function("d", "f", [], [], [constant], [])
    _refused(model(functions=[function]), "local functions")
    raw = model()
    training = onnx.TrainingInfoProto(algorithm=helper.make_graph([], "t", [], [], [_external()]))
    extra = onnx.ModelProto(training_info=[training]).SerializeToString()
    _refused(raw + extra, "training information")


def _refused(raw: bytes, message: str = "external data") -> None:
    with pytest.raises(BundleError, match=message):
        open_model("onnxruntime", raw)
