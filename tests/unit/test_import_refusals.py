"""What import refuses: every rule with the node, what was found, what would do and the mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType

from qdr_edge.errors import ExportError
from qdr_edge.labels import LabelSet
from qdr_export.graph.canonical import build_canonical
from qdr_export.graph.onnx_graph import GraphView
from qdr_export.importer.findings import Findings, UnsupportedModelError
from qdr_export.importer.pixels import MeanStd
from qdr_export.importer.run import _check_meaning, read_operators
from tests import qdq_files
from tests.networks import LABELS, SIZE, checkpoint
from tests.qdq_files import CENTRED, Brought, Editor, edited, float_file, quantize_static

CANONICAL = build_canonical(checkpoint("mobilenet"))


def attribute(op: str, **values: object) -> qdq_files.Rewrite:
    def rewrite(editor: Editor) -> None:
        node = editor.of(op)[0]
        for name, value in values.items():
            for old in [a for a in node.attribute if a.name == name]:
                node.attribute.remove(old)
            node.attribute.append(helper.make_attribute(name, value))

    return rewrite


def instead(op: str, *wanted: str, **attributes: object) -> qdq_files.Rewrite:
    """An operator put where another stands."""

    def rewrite(editor: Editor) -> None:
        node = editor.of(op)[-1]
        made = helper.make_node(wanted[0], [node.input[0], *wanted[1:]], list(node.output))
        made.name = node.name
        made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        editor.replace(node, made)

    return rewrite


def constant_factor(editor: Editor) -> None:
    node = editor.of("HardSwish")[0]
    three = editor.constant("three", np.float32(3))
    editor.replace(node, helper.make_node("Mul", [node.input[0], three], list(node.output)))


def computed_scale(editor: Editor) -> None:
    node = editor.of("QuantizeLinear")[0]
    highest = helper.make_node("ReduceMax", [node.input[0]], ["highest"], keepdims=0)
    node.input[1] = "highest"
    editor.replace(node, highest, node)


def other_pair(editor: Editor) -> None:
    node = next(n for n in editor.of("DequantizeLinear") if n.output[0] == "stem:d")
    node.input[1] = editor.constant("other", np.float32(0.3))


def small_limit(editor: Editor) -> None:
    limits = [editor.constant(n, np.float32(v)) for n, v in (("low", 0), ("high", 4))]
    node = editor.of("Relu")[0]
    editor.replace(node, helper.make_node("Clip", [node.input[0], *limits], list(node.output)))


REFUSED: dict[str, tuple[qdq_files.Rewrite, str, str]] = {
    "hardsigmoid of another slope": (
        attribute("HardSigmoid", alpha=0.2),
        "HardSigmoid b0.sig",
        "alpha 0.2, beta 0.5",
    ),
    "padding of one side": (
        attribute("Conv", pads=[0, 0, 1, 1]),
        "Conv stem",
        "padding top 0, left 0, bottom 1, right 1",
    ),
    "an operator without equal": (instead("HardSwish", "Tanh"), "Tanh last.h", "operator Tanh"),
    "a factor": (constant_factor, "Mul", "Mul with a constant"),
    "limits of a clip": (small_limit, "Clip", "limits 0.0 and 4.0"),
    "a scale computed at run time": (computed_scale, "QuantizeLinear", "computed at run time"),
    "a pair that disagrees": (other_pair, "DequantizeLinear", "dequantized with scale 0.3"),
}


@pytest.mark.parametrize(("rewrite", "place", "found"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_names_node_place_and_mend(
    rewrite: qdq_files.Rewrite, place: str, found: str
) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        Brought(edited(CANONICAL, rewrite), pixels=None)
    problem = next(p for p in caught.value.problems if found in p.found)
    assert problem.place.startswith(place)
    assert " of " in problem.place  # where it stands among all nodes
    assert problem.expected
    assert problem.mend


def test_all_broken_rules_are_listed_and_their_consequences_are_not() -> None:
    content = edited(
        CANONICAL, attribute("HardSigmoid", alpha=0.2), instead("HardSwish", "Tanh"), small_limit
    )
    with pytest.raises(UnsupportedModelError, match="and 2 more") as caught:
        Brought(content, pixels=None)
    assert len(caught.value.problems) == 3


def test_asymmetric_weights_are_refused_layer_by_layer() -> None:
    content = quantize_static(
        float_file("student"), activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8
    )
    with pytest.raises(UnsupportedModelError) as caught:
        Brought(content)
    problems = caught.value.problems
    view = GraphView(content)
    weights = [view.producer(node.input[1]) for node in view.of_type("Conv", "Gemm")]
    asymmetric = [node for node in weights if node is not None and view.zero_point(node) != 128]
    assert len(problems) == len(asymmetric) > 1
    assert all("asymmetric uint8 weights" in p.found for p in problems)
    assert all("WeightSymmetric" in p.mend for p in problems)


def test_sixteen_bits_are_refused() -> None:
    content = quantize_static(
        float_file("student"), activation_type=QuantType.QInt16, weight_type=QuantType.QInt8
    )
    with pytest.raises(UnsupportedModelError, match=r"int16 codes.*expected int8 or uint8"):
        Brought(content)


def test_a_float_network_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no QuantizeLinear"):
        Brought(float_file("student"))


def test_operators_on_integers_are_refused() -> None:
    from onnxruntime.quantization import quantize_dynamic

    with pytest.raises(UnsupportedModelError, match="an operator on integers"):
        Brought(_dynamic(quantize_dynamic))


def _dynamic(quantize: Callable[..., None]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(float_file("student"))
        quantize(before, after)
        return after.read_bytes()


def _changed(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(CANONICAL)
    change(model)
    return bytes(model.SerializeToString())


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


def _external_attribute(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["stolen"], value=TensorProto(data_type=1))
    _set_external(node.attribute[0].t)
    model.graph.node.insert(0, node)


def _set_external(tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("stem:d", TensorProto.FLOAT, None))


def _oblong(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = SIZE * 2


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


WHOLE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "external data": (_external, "tensors lie in another file"),
    "external data in an attribute": (_external_attribute, "a tensor in another file"),
    "two outputs": (_two_outputs, "2 outputs: logits, stem:d"),
    "an oblong image": (_oblong, "a square image"),
    "a domain of its own": (_foreign, "domain 'com.example'"),
}


@pytest.mark.parametrize(("change", "message"), WHOLE.values(), ids=WHOLE)
def test_a_file_of_another_kind_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    with pytest.raises(ExportError) as caught:
        Brought(_changed(change), pixels=None)
    assert message in str(caught.value)


def test_no_onnx_is_refused() -> None:
    with pytest.raises(ExportError, match="not an ONNX model"):
        Brought(b"\x00" * 64, pixels=None)


def test_an_open_size_must_be_said() -> None:
    def open_size(model: onnx.ModelProto) -> None:
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "S"

    content = _changed(open_size)
    with pytest.raises(ExportError, match=r"leaves height and width open.*--size"):
        Brought(content, pixels=None)
    assert Brought(content, pixels=None, size=SIZE).source.size == SIZE


@pytest.mark.parametrize(
    ("content", "pixels"), [(CANONICAL, CENTRED), (float_file("student"), None)]
)
def test_mean_and_std_belong_to_float_inputs(content: bytes, pixels: MeanStd | None) -> None:
    if pixels is None:
        content = quantize_static(content)
    with pytest.raises(ExportError, match="--mean and --std"):
        read_operators(content, qdq_files.request(pixels), Findings("model.onnx"))


@pytest.mark.parametrize(
    ("ending", "labels", "message"),
    [
        ("", LabelSet.custom(("NOR", "AMD")), r"logits are \[1, 4\], the labels 2"),
        ("Softmax", LABELS, "ends in Softmax.*--exclusive"),
        (
            "Sigmoid",
            LabelSet.custom(LABELS.codes, exclusive=True),
            "ends in Sigmoid, the labels of custom exclude each other",
        ),
    ],
)
def test_logits_must_fit_the_labels(ending: str, labels: LabelSet, message: str) -> None:
    content = edited(CANONICAL, qdq_files.probabilities(ending)) if ending else CANONICAL
    request = qdq_files.request(None, labels=labels)
    source, lifting = read_operators(content, request, Findings("model.onnx"))
    with pytest.raises(ExportError, match=message):
        _check_meaning(source, lifting, request)


def test_pixel_statistics_must_be_sound() -> None:
    with pytest.raises(ExportError, match="std above 0"):
        MeanStd((0.5, 0.5, 0.5), (0.2, 0.0, 0.2))
